"""`imgsynth plan`: from planted tables to what a person reads, and a command that a run takes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from planted_methods import planted, poor

from imgsynth import config as door
from imgsynth.planning import run as planning
from imgsynth.planning import words
from imgsynth.planning.run import Plan
from imgsynth.privacy.plan import make_plan
from imgsynth.privacy.selection import Selection
from imgsynth.schema import Config, PrivacyConfig
from imgsynth.training.estimate import Estimate
from imgsynth.training.method_table import Row
from imgsynth.types import InputError

DECLARED = ["plan.patients=335", "data.modality=CT", "privacy.epsilon=8"]


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour for the VAE, two minutes for the rest."""

    def cost(config: Config, n: int, classes: int, unit: str) -> Estimate:
        slow = config.model["_target_"].endswith("VAE")
        queries = len(config.model.get("warm_up") or [])
        return Estimate(3600.0 if slow else 120.0, 2.0**30, "cpu", 0.1, 0.0, queries)

    monkeypatch.setattr(planning, "estimate", cost)


def planned(overrides: Sequence[str], rows: Sequence[Row], capsys: pytest.CaptureFixture[str]) -> tuple[Plan, str]:
    found = planning.plan(overrides, rows)
    return found, " ".join(capsys.readouterr().out.split())


def taken(command: str) -> Config:
    """The configuration of a printed command, as the shell would hand it over."""
    words = [word for word in shlex.split(command) if word not in ("data=KIND", "data.root=DIR")]
    assert words[:2] == ["imgsynth", "run"]
    return door.from_overrides("run", words[2:])


def sigma(
    epsilon: float, n: int, steps: int, batch: int, delta: float = 1e-5, share: float = 0.1, **beside: Any
) -> float:
    """Of a run, by the accountant itself."""
    privacy = PrivacyConfig(epsilon=epsilon, delta=delta, batch_patients=batch, query_share=share)
    return make_plan(privacy, n=n, steps=steps, images_per_patient=1, unit="patient", **beside).noise_multiplier


def test_the_best_is_printed_with_its_noise_time_distance_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [planted("vae", 200), poor("vae", 1000), poor("merf", 200), planted("gan", 1000)]
    found, printed = planned(DECLARED, rows, capsys)
    assert found.best is not None and found.best.method == "vae" and found.delta == 1e-5
    assert "335 patients to train on (declared)" in printed
    assert "n = 335 asked, 200 and 1,000 measured." in printed and "extrapolated" not in printed
    assert "With care: at n = 1,000 vae was not worth its ε" in printed
    assert "Not measured there, and therefore not ranked: codegan, diffusion" in printed
    config = taken(found.best.command or "")
    batch, steps = config.privacy.batch_for(335), config.trainer.steps
    assert config.model["_target_"].endswith("VAE") and config.privacy.epsilon == 8
    assert found.best.noise == sigma(8.0, 335, steps, batch) and found.best.batch == batch
    assert f"Next: {found.best.command}" in printed and "data.root=DIR" in printed
    merf, gan = (next(one for one in found.candidates if one.method == name) for name in ("merf", "gan"))
    config = taken(gan.command or "")  # beside few volumes held to moments, a query for half of ε
    assert config.model["warm_up"] == ["moments"] and config.privacy.query_share == 0.5
    alone = sigma(8.0, 335, gan.steps or 0, gan.batch or 0)
    held = sigma(8.0, 335, gan.steps or 0, gan.batch or 0, queries=[("moments", 1.0)], share=0.5)
    assert gan.noise == held > 1.1 * alone
    assert (merf.batch, merf.steps) == (335, 1) and merf.seconds == 120  # every patient, once
    shown = [words.row(one, found) for one in found.candidates]
    assert [one[0] for one in shown] == ["vae", "merf", "gan (n = 1,000)"]
    assert shown[0][1:4] == ("50% [45%, 55%]", "0.9 [0.88, 0.92]", "4 [4, 4]") and shown[0][-2] == "yes"
    assert shown[0][-1] == "3% [-8%, 14%]" and shown[1][-2:] == ("no", "–")
    assert shown[1][5:8] == (f"{merf.noise:.3g}", f"{(merf.noise or 0) / 335:.2g}", "2.0")
    means, real, dp_sgd = words.rivals(found)
    assert means[2] == "0.8 [nan, nan]".replace("nan", "–") and real[2:4] == ("1", "0")
    assert dp_sgd[2:4] == ("0.85 [0.8, 0.9]", "no images")


BESIDE: dict[str, dict[str, Any]] = {  # overrides -> what the run's plan has for it
    "sample.labels=histogram": {"epsilon_for_histogram": 0.5},
    "sample.metadata=[sex]": {"epsilon_for_histogram": 0.5},
    "selection.rule=noisy_max selection.every=50": {"selection": Selection("noisy_max", (50, 100), 0.4)},
}


@pytest.mark.parametrize("override", BESIDE)
def test_noise_is_that_of_the_run_with_all_that_is_asked_beside(
    override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = planned([*DECLARED, *override.split()], [planted("vae")], capsys)
    (vae,) = found.candidates
    asked = (8.0, 335, vae.steps or 0, vae.batch or 0)
    assert vae.steps == 100 and vae.noise == sigma(*asked, **BESIDE[override]) > 1.01 * sigma(*asked)


def test_a_declared_number_and_a_stated_delta_are_those_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    found, printed = planned([*DECLARED, "privacy.n=300", "privacy.delta=2e-3"], [planted("vae")], capsys)
    (vae,) = found.candidates
    assert found.delta == 2e-3 and "300 patients to train on (declared)" in printed and "δ = 0.002" in printed
    assert vae.noise == sigma(8.0, 300, vae.steps or 0, vae.batch or 0, delta=2e-3)
    assert taken(vae.command or "").privacy.delta == 2e-3


def test_none_is_worth_it_and_what_to_do_instead(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [poor("vae", 200), poor("merf", 200), planted("vae", 1000)]
    found, printed = planned(["plan.patients=200", *DECLARED[1:]], rows[:2], capsys)
    assert found.best is None and "NONE IS WORTH ITS ε at n = 200, ε = 8" in printed and "Next:" not in printed
    for way in (
        "more patients",
        "a larger ε",
        "init.run=RUN",
        "not measured there",
        "by DP-SGD",
        "AUC 0.85 [0.80, 0.90]",
    ):
        assert way in printed
    _, printed = planned(DECLARED, rows, capsys)
    assert "NONE IS WORTH" in printed and "worth its ε elsewhere: vae at n = 1,000, ε = 8, 3D of 32 voxels" in printed


def test_public_images_and_hours_decide_what_can_be_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [planted("evolution", auc=0.99, auc_low=0.98, auc_high=1.0), planted("vae")]
    assert planned(DECLARED, rows, capsys)[0].best.method == "vae"  # type: ignore[union-attr]
    public = [*DECLARED, f"init.run={tmp_path}", "init.public='phantoms, which are nobody'"]
    found, _ = planned(public, rows, capsys)
    assert found.best is not None and found.best.method == "evolution"
    assert taken(found.best.command or "").init.run == str(tmp_path)
    vae = next(one for one in found.candidates if one.method == "vae")
    assert taken(vae.command or "").init.run is None  # it was measured without
    found, printed = planned([*DECLARED, "plan.hours=0.5"], rows, capsys)
    assert found.best is None and "NONE IS WORTH" not in printed
    assert "vae takes 1.0 hours here, plan.hours is 0.5" in printed
    assert "evolution begins with public images: name a public run by init.run=RUN" in printed


def test_a_private_classifier_that_does_better_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    better = {"auc_dp_sgd": 0.95, "auc_dp_sgd_low": 0.9, "auc_dp_sgd_high": 0.98}
    for row, said in ((planted("vae"), False), (planted("vae", **better), True)):
        _, printed = planned(DECLARED, [row], capsys)
        assert ("For a classifier alone" in printed) is said and ("AUC 0.95 [0.90, 0.98]" in printed) is said


def test_distances_beyond_the_table_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [planted("vae", grid=16)]
    _, printed = planned(["plan.patients=50", "privacy.epsilon=3"], rows, capsys)
    assert "n = 50 asked, 200 measured: beyond all that was measured, and not extrapolated." in printed
    assert "ε = 3 asked, 8 measured; expect less" in printed
    assert "32×32×32 voxels asked, 16 along each axis measured; expect less." in printed
    _, printed = planned(["plan.patients=50", "data.modality=DX"], rows, capsys)
    found, _ = planned(["plan.patients=50", "data.modality=DX", "preprocess.shape=[32,32]"], rows, capsys)
    assert found.asked.config.preprocess.shape == [32, 32] and found.asked.config.preprocess.high == 255
    assert "64×64" in printed and "Nothing was measured in 2D: no ranking." in printed and "model=mepf" in printed


def test_what_a_method_cannot_do_is_said_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The command's own settings go into each method's configuration."""
    found, printed = planned([*DECLARED, "privacy.sampling_rate=0.5"], [planted("merf"), poor("vae")], capsys)
    assert found.best is None and "merf cannot be run so: privacy.sampling_rate" in printed


def test_data_are_counted_by_headers_and_no_image_is_opened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr("imgsynth.volumes.dicom_read.read_stack", opened)
    overrides = ["data=phantom", "data.phantom.patients=30", "data.phantom.size=16", "privacy.epsilon=8"]
    found, printed = planned(overrides, [planted("vae")], capsys)
    assert "21 patients to train on (counted by its headers), CT" in printed
    assert found.asked.counted and found.asked.n == 21 and found.best is not None
    assert taken(found.best.command or "").data.phantom.patients == 30 and "data.root=DIR" not in printed


@pytest.mark.parametrize(
    ("overrides", "said"),
    [([], "how many patients"), (["privacy.epsilon=8"], "how many patients"), ([*DECLARED, "model=vae"], "model=vae"),
     ([*DECLARED[:2], "privacy=none"], "an ε to weigh"), (["plan.patients=1"], "plan.patients"),
     ([*DECLARED, "plan.hours=0"], "plan.hours"), ([*DECLARED, "plan.patiens=3"], "unknown key")],
)  # fmt: skip
def test_bad_input_is_refused_before_any_work(overrides: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        planning.plan(overrides, [planted("vae")])
