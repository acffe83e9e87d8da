"""The plan that an inspection writes: rules by hand, the file as a run takes it, time and memory by a known clock."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from imgsynth import config as door
from imgsynth import pipeline
from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.calibrate import gaussian_noise
from imgsynth.privacy.events import training_event
from imgsynth.schema import DataConfig, PhantomConfig, PrivacyConfig
from imgsynth.training import estimate as measuring
from imgsynth.training.estimate import Estimate
from imgsynth.training.propose import USABLE, noise_for
from imgsynth.training.proposed import PLACE, write_proposal
from imgsynth.training.suit import (
    HELD,
    STEPS,
    UNMEASURED,
    WHOLE,
    Suited,
    batch_for,
    overrides_of,
    quiet_steps,
    sensible_delta,
    settings_for,
    suited,
)
from imgsynth.types import InputError

GRID = ["preprocess.shape=[16,16,16]", "preprocess.spacing=[24.0,24.0,24.0]", "preprocess.fit=crop_pad",
        "preprocess.intensity=window", "preprocess.low=-1000", "preprocess.high=600"]  # fmt: skip
COST = Estimate(60.0, 2.0**30, "cpu", 0.5, 0.0, 0)


@pytest.mark.parametrize(("n", "batch"), [(1, 1), (7, 3), (126, 63), (335, 96), (420, 96), (1400, 192), (4099, 320)])
def test_batches_are_near_those_that_served(n: int, batch: int) -> None:
    assert batch_for(n) == batch


@pytest.mark.parametrize(("n", "declared", "delta"), [(100, 1e-5, 1e-5), (4099, 1e-4, 1e-5), (50_000, 1e-5, 1e-6)])
def test_delta_is_at_most_one_over_n_log_n(n: int, declared: float, delta: float) -> None:
    assert sensible_delta(n, declared) == pytest.approx(delta)
    assert sensible_delta(n, declared) <= 1 / (n * math.log(n))


def test_steps_are_the_most_whose_noise_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the plan's accountant, and the next number of steps is too many."""
    fit, delta = settings_for("vae", 1400, 8.0, 1e-5, 3), 1e-5
    batch, steps = fit["privacy.batch_patients"], fit["trainer.steps"]
    assert steps in STEPS[:-1]
    more = STEPS[STEPS.index(steps) + 1]
    sigma = USABLE * batch
    assert epsilon(training_event(batch / 1400, sigma, steps), delta) <= 8.0
    assert epsilon(training_event(batch / 1400, sigma, more), delta) > 8.0
    assert quiet_steps(100, 1.0, delta) == [] and settings_for("vae", 100, 1.0, delta, 2)["trainer.steps"] == STEPS[0]
    asked = (3, 32.0, 1, PrivacyConfig(epsilon=1.0))
    assert "few" not in suited(100, *asked, rows=[]).why  # what asks everybody once has no steps to spare
    monkeypatch.setitem(UNMEASURED, 3, "vae")
    assert "few for it" in suited(100, *asked, rows=[]).why and "few" not in suited(200_000, *asked, rows=[]).why


def test_the_method_follows_dimensions_and_privacy() -> None:
    """Where nothing was measured; with a table: test_choosing.py."""
    assert suited(500, 2, 64, 9, PrivacyConfig(), rows=[]).model == "mepf"
    assert suited(500, 2, 64, 9, PrivacyConfig(), rows=[]).settings["data.images_per_patient"] == 4
    assert suited(500, 3, 32, 1, PrivacyConfig(), rows=[]).model == "merf"
    assert suited(500, 2, 64, 1, PrivacyConfig(mode="none")).model == "vae"


def test_methods_that_ask_everybody_are_those_of_the_configuration() -> None:
    """What configs/needs sets for them is not set again."""
    needs = {path.stem: yaml.safe_load(path.read_text()) for path in (door.config_folder() / "needs").glob("*.yaml")}
    assert set(WHOLE) == {name for name, own in needs.items() if own.get("privacy", {}).get("sampling_rate") == 1.0}
    assert all(settings_for(name, 300, 8.0, 1e-5, 2) == {} for name in WHOLE)
    assert settings_for("merf", 300, 8.0, 1e-5, 3) == {"model.images": 64}


def test_beside_few_volumes_the_leaderboards_settings_hold_to_moments() -> None:
    """Half of ε is a query's, so that fewer steps stay quiet; elsewhere nothing is asked."""
    board = yaml.safe_load((door.config_folder() / "experiment" / "leaderboard.yaml").read_text())["curve"]["overrides"]
    for name in HELD:
        own = settings_for(name, 1000, 8.0, 1e-5, 3)
        for key, value in (line.split("=") for line in board[f"hippocampus/{name}/[!i]*"]):
            assert own[key] == pytest.approx(float(value)) if key[0] != "m" else f"{key}={value}" in overrides_of(own)
        for n, dims in ((1001, 3), (1000, 2)):
            assert not HELD[name].keys() & settings_for(name, n, 8.0, 1e-5, dims).keys()
        assert not HELD[name].keys() & settings_for(name, 1000, None, 1e-5, 3).keys() - {"trainer.learning_rate"}
    assert [len(quiet_steps(900, 8.0, 1e-5, share)) for share in (None, 0.5)] == [1, 0]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["dp", "none"])
def test_the_file_is_what_a_run_takes(dims: int, mode: str, tmp_path: Path) -> None:
    data = DataConfig(root="somewhere", classes=["a", "b"], phantom=PhantomConfig(patients=50))
    fit = suited(200, dims, 16, 2, PrivacyConfig(mode=mode), rows=[])
    grid = GRID if dims == 3 else ["preprocess.shape=[16,16]", "preprocess.spacing=null", "preprocess.fit=resize"]
    path = write_proposal(tmp_path, data, "ct" if dims == 3 else "radiograph", grid, fit, 3.0 if mode == "dp" else None,
                          ["a: remark"])  # fmt: skip
    assert path == tmp_path / PLACE and path.read_text().startswith("# @package _global_\n# a: remark\n")
    found = door.from_overrides("run", [f"experiment={path}", f"output={tmp_path / 'run'}"])
    assert found.privacy.mode == mode and (mode == "none" or found.privacy.epsilon == 3.0)
    assert found.data.root == str(Path("somewhere").absolute()) and found.data.classes == ["a", "b"]
    assert found.data.phantom.patients == 50 and len(found.preprocess.shape) == dims
    for key, value in fit.settings.items():
        section, name = key.split(".")
        own = getattr(found, section)
        assert (own[name] if section == "model" else getattr(own, name)) == value
    target = {"mepf": "MEPF", "vae": "VAE", "merf": "MERF"}[fit.model]
    assert found.model["_target_"] == f"imgsynth.models.{target}"
    assert found.trainer.optimizer == ("summary" if fit.model in WHOLE else "adam")  # with what the model needs
    # and further overrides win, as over every experiment
    assert door.from_overrides("run", [f"experiment={path}", "privacy.delta=1e-7"]).privacy.delta == 1e-7


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        door.from_overrides("run", [f"experiment={tmp_path / 'nowhere.yaml'}"])
    assert door.UsersConfigs.experiment is None


def test_time_is_that_of_a_step_on_a_batch_times_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a clock where a step on B units takes 2 + 3 B seconds, and one without data 7."""
    fit = Suited("vae", {"privacy.batch_patients": 40, "trainer.steps": 10}, "")
    path = write_proposal(tmp_path, DataConfig(), "ct", GRID, fit, 8.0, [])
    cfg = door.from_overrides("run", [f"experiment={path}", "model=gan", "model.every=2", "privacy.physical_batch=16"])
    seen = []

    def private(state: object, plan: object, patients: int, shape: object, classes: int) -> tuple[float, float]:
        seen.append(patients)
        return 2.0 + 3.0 * patients, 1000.0 + 10.0 * patients

    monkeypatch.setattr(measuring, "_private", private)
    monkeypatch.setattr(measuring, "_timed", lambda step: 7.0)
    monkeypatch.setattr(measuring, "_peak", lambda: 500.0)
    found = measuring._measure(cfg, 100, 2, "patient")
    assert seen == [1, 16]
    assert found.seconds == pytest.approx(10 * (2 + 3 * 40) + 10 * 7 / 2)
    assert found.memory_bytes == pytest.approx(1160 + 4 * (40 + 100) * 16**3)
    held = [f"experiment={path}", "model=gan", "model.warm_up=[moments]", "trainer.steps_before=5"]
    asking = measuring._measure(door.from_overrides("run", held), 100, 2, "patient")
    assert (found.queries, asking.queries) == (0, 1)


def test_a_real_measurement_stays_in_its_process(tmp_path: Path) -> None:
    fit = Suited("vae", {"privacy.batch_patients": 4, "trainer.steps": 3}, "")
    path = write_proposal(tmp_path, DataConfig(), "ct", GRID, fit, 8.0, [])
    config = door.from_overrides("run", [f"experiment={path}"])
    state = torch.get_rng_state()
    found = measuring.estimate(config, 20, 2, "patient")
    assert found.seconds_per_private_step > 0 and found.seconds > 0 and found.memory_bytes > 2**26
    assert torch.equal(state, torch.get_rng_state())


def test_an_inspection_writes_a_plan_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSYNTH_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(pipeline, "estimate", lambda *_: dataclasses.replace(COST, queries=1))
    overrides = ["data=phantom", "data.phantom.patients=30", "data.phantom.size=16", f"output={tmp_path / 'seen'}"]
    seen = json.loads(pipeline.inspect(door.from_overrides("inspect", overrides)).read_text())
    (row,) = (row for row in seen["proposal"]["table"] if row["epsilon"] == 8)
    assert row["noise_multiplier"] == noise_for(8.0, 1e-5, 1.0, 1, (gaussian_noise(0.8, 1e-5),))  # beside a query
    text = (tmp_path / "seen" / PLACE).read_text()
    assert "21 training patients" in text and "1.0 GiB" in text and "To expect:" in text
    assert "rounded" in text and yaml.safe_load(text)["data"]["phantom"]["patients"] == 30
    assert "n" not in yaml.safe_load(text)["privacy"]
    declared = door.from_overrides("inspect", [*overrides[:3], f"output={tmp_path / 'declared'}", "privacy.n=25"])
    pipeline.inspect(declared)
    text = (tmp_path / "declared" / PLACE).read_text()
    assert "25 training patients" in text and yaml.safe_load(text)["privacy"]["n"] == 25
    run = tmp_path / "run"
    pipeline.train(door.from_overrides("train", [f"experiment={tmp_path / 'seen' / PLACE}", f"output={run}",
                                                 "trainer.steps_after=1", "model.images=4"]))  # fmt: skip
    assert (run / "checkpoints" / "last.pt").is_file()
