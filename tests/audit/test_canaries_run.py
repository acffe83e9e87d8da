"""``imgsynth audit canaries``: the record, what it may not leave behind, and when it is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from imgsynth import cli, config, pipeline
from imgsynth.audit.canaries import twin as twin_module
from imgsynth.audit.canaries.coins import half_and_half
from imgsynth.audit.canaries.control import CouldShow, control_steps
from imgsynth.audit.canaries.run import claim_of, evaluated, twin_plan, verdict_of
from imgsynth.audit.canaries.twin import Twin, noiseless
from imgsynth.audit.one_run import Guesses, OneRunBound
from imgsynth.privacy import accounting
from imgsynth.privacy.events import training_event
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.tradeoff import trade_off
from imgsynth.release.canary_record import FORMAT
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import CheckFailed, InputError

SMALL = [
    "model.latent=2", "model.channels=2", "model.widest=4", "trainer.steps=6", "trainer.checkpoint_every=6",
    "trainer.sheet_every=6", "trainer.device=cpu", "privacy.batch_patients=12", "privacy.delta=1e-3",
    "preprocess.shape=[8,8]", "preprocess.fit=resize", "preprocess.spacing=null", "preprocess.intensity=minmax",
    "data.modality=DX",
]  # fmt: skip
CANARIES = ["audit.canaries.m=120", "audit.canaries.guesses=0.2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("canaries"), "privacy.epsilon=6")


def run_in(folder: Path, *overrides: str) -> Path:
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (60, 8, 8)).astype(np.uint8)
    ids = [f"p{i // 2}" for i in range(60)]
    np.savez(folder / "images.npz", images=images, patient_ids=ids, labels=np.arange(60) // 2 % 2)
    data = ["data=npz", f"data.root={folder / 'images.npz'}", "data.classes=['0','1']"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGSYNTH_LEDGER", str(folder / "ledger"))
        checked = config.from_overrides("train", [*data, *SMALL, *overrides, f"output={folder / 'run'}"])
        return pipeline.train(checked)


@pytest.fixture(autouse=True)
def no_earlier_look(trained: Path) -> None:
    (trained / "canaries.json").unlink(missing_ok=True)


def audit(output: Path, *overrides: str) -> Path:
    return pipeline.audit_canaries(config.from_overrides("audit_canaries", [f"output={output}", *CANARIES, *overrides]))


def test_the_record_and_nothing_else_is_left(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSYNTH_LEDGER", str(trained.parent / "ledger"))
    before = {path: path.stat().st_mtime_ns for path in trained.parent.rglob("*") if path.is_file()}
    record = json.loads(audit(trained, "audit.alpha=0.1").read_text())
    after = {path: path.stat().st_mtime_ns for path in trained.parent.rglob("*") if path.is_file()}
    assert set(after) - set(before) == {trained / "canaries.json"}  # no weights, no samples, no entry in the ledger
    assert all(after[path] == stamp for path, stamp in before.items())

    run = load_run(trained)
    assert record["scope"] == "local" and record["engine"] == run.plan.engine and record["delta"] == run.plan.delta
    assert record["proven_epsilon"] == pytest.approx(run.plan.epsilon) and record["steps"] == 6
    assert [t["kind"] for t in record["twins"]] == ["weights", "input"]
    assert record["alpha_of_each_test"] == 0.1 / 4 and record["alpha_of_bounds"] == 0.1 / 2
    best = OneRunBound.of(Guesses(120, 24, 24), 0.1 / 4, run.plan.delta).epsilon  # two twins, each with two tests
    for twin in record["twins"]:
        assert twin["ceiling"] == pytest.approx(best)
        assert len(twin["coins"]) == len(twin["scores"]) == 120 and twin["guesses"] == 24
        assert 0 <= twin["correct"] <= 24 and twin["epsilon_lower_bound"] <= twin["ceiling"]
        names = {check["name"] for check in twin["mechanism"] if check["passed"]}
        assert names >= {"rate", "draws"} and (twin["kind"] == "input" or names >= {"dose", "noise"})
        assert 0 < twin["p_value_of_claimed_curve"] <= 1 and twin["epsilon_under_gaussian_hypothesis"] >= 0
    assert [c["kind"] for c in record["controls"]] == ["positive", "positive"]
    assert [c["passed"] for c in record["controls"]] == [True, None] and not record["controls"][1]["required"]
    assert "MECHANISM BROKEN" in record["controls"][0]["detail"] and "input) cannot refute" in record["verdict"]
    assert record["could_show"]["ceiling"] == pytest.approx(best)
    assert record["verdict"].startswith("NO VIOLATION FOUND")


def test_fewer_steps_are_compared_with_their_own_epsilon(trained: Path) -> None:
    record = json.loads(audit(trained, "audit.canaries.steps=2", "audit.canaries.kinds=[side]").read_text())
    assert record["steps"] == 2 and record["steps_of_run"] == 6
    assert record["proven_epsilon"] < record["proven_epsilon_of_run"]
    assert record["proven_epsilon"] == pytest.approx(twin_plan(load_run(trained).plan, 2).epsilon)


def test_a_bound_is_held_against_the_epsilon_of_what_canaries_go_through(tmp_path: Path) -> None:
    """Most of this run's ε is its query's, which no canary of the kinds that read gradients is in."""
    cheap = ["privacy.noise_multiplier=4", "privacy.query_noise_multiplier=0.5", "privacy.epsilon=null"]
    run_dir = run_in(tmp_path, "model.prior=fitted", *cheap)
    plan = load_run(run_dir).plan
    alone = accounting.epsilon(training_event(plan.sampling_rate, 4.0, plan.steps), plan.delta)
    assert alone < 0.3 * plan.epsilon
    record = json.loads(audit(run_dir, "audit.canaries.kinds=[side]").read_text())
    assert record["proven_epsilon"] == record["twins"][0]["proven_epsilon"] == pytest.approx(alone)
    assert record["could_show"]["claimed"] == pytest.approx(alone)
    assert record["proven_epsilon_of_run"] == pytest.approx(plan.epsilon)
    assert "queries (moments of codes)" in record["meaning"]
    between = (alone + plan.epsilon) / 2
    record["twins"][0]["epsilon_lower_bound"] = between
    assert verdict_of(record).startswith("VIOLATION")  # though the plan as a whole has a larger ε

    model = model_factory(load_run(run_dir).config.model)((8, 8), 2)
    of_text = claim_of(plan, model, "text")  # asked after training, with the canaries among those asked
    assert of_text.queries == plan.queries and of_text.epsilon == pytest.approx(plan.epsilon)
    assert (trade_off(of_text).fnr(0.1) < trade_off(claim_of(plan, model)).fnr(0.1) - 0.1).all()
    silent = noiseless(plan)
    assert silent.noise_multiplier == 0 and [query.noise_multiplier for query in silent.queries] == [0]


def test_without_controls_it_is_inconclusive(trained: Path) -> None:
    record = json.loads(audit(trained, "audit.canaries.control=false", "audit.canaries.kinds=[side]").read_text())
    assert record["controls"] == [] and record["verdict"].startswith("INCONCLUSIVE")


def test_a_violation_is_recorded_and_fails(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseSource, "add", lambda self, value, std, divisor=1.0: value.double() / divisor)
    overrides = ["audit.canaries.kinds=[side]", "audit.canaries.m=400"]
    monkeypatch.setattr(PrivacyPlan, "epsilon", 0.5)
    with pytest.raises(CheckFailed, match="do not release"):
        audit(trained, *overrides)
    assert json.loads((trained / "canaries.json").read_text())["verdict"].startswith("VIOLATION")


def test_a_claim_that_is_refuted_before_the_bound_passes_it_fails_too() -> None:
    """198 of 200 guesses right: a bound below ε, and hardly possible under its curve."""
    plan = PrivacyPlan(mode="dp", unit="patient", n=500, sampling_rate=1.0, steps=1, clipping_norm=1.0,
                       noise_multiplier=1.07, images_per_patient=1, delta=1e-5)  # fmt: skip
    found = {"kind": "side", "mechanism": [], **evaluated(Guesses(1000, 200, 198), plan, 0.05)}
    assert found["epsilon_lower_bound"] < plan.epsilon
    record = {"proven_epsilon": plan.epsilon, "alpha_of_each_test": 0.05, "twins": [found], "controls": []}
    assert verdict_of(record).startswith("CLAIM REJECTED")
    fair = {"kind": "side", "mechanism": [], **evaluated(Guesses(1000, 200, 120), plan, 0.05)}
    assert verdict_of(record | {"twins": [fair]}).startswith("INCONCLUSIVE: no positive control")


def test_a_mechanism_that_is_not_the_plans_is_recorded_and_fails(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the noise, where no bound from so few canaries passes ε."""
    add = NoiseSource.add
    monkeypatch.setattr(NoiseSource, "add", lambda self, value, std, *more: add(self, value, std / 2, *more))
    with pytest.raises(CheckFailed, match=r"MECHANISM BROKEN: .*noise"):
        audit(trained, "audit.canaries.kinds=[side]")
    record = json.loads((trained / "canaries.json").read_text())
    assert record["verdict"].startswith("MECHANISM BROKEN")
    assert record["twins"][0]["epsilon_lower_bound"] < record["proven_epsilon"]


def test_a_control_that_is_missed_makes_it_inconclusive(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that say nothing: no canary would be seen whatever the trainer does."""
    monkeypatch.setattr(twin_module, "evidence", lambda x_M, sd_M, rate: np.random.default_rng(0).normal(size=len(x_M)))
    record = json.loads(audit(trained, "audit.canaries.kinds=[side]", "audit.canaries.m=200").read_text())
    assert record["verdict"].startswith("INCONCLUSIVE") and "was not caught" in record["verdict"]


def test_killed_it_leaves_the_record_of_before(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = audit(trained, "audit.canaries.kinds=[side]")
    before = path.read_bytes()

    def killed(self: Twin) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(Twin, "scores", killed)
    with pytest.raises(KeyboardInterrupt):
        audit(trained, "audit.canaries.kinds=[side]")
    assert path.read_bytes() == before and not list(trained.glob(".canaries*"))


def test_what_one_look_found_no_later_one_erases(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the noise is found; then the code is mended, and the finding stays on record."""
    add, few = NoiseSource.add, "audit.canaries.kinds=[side]"
    with monkeypatch.context() as patch, pytest.raises(CheckFailed):
        patch.setattr(NoiseSource, "add", lambda self, value, std, *more: add(self, value, std / 2, *more))
        audit(trained, few)
    with pytest.raises(CheckFailed, match="MECHANISM BROKEN"):
        audit(trained, few, "audit.canaries.control=false")
    record = json.loads((trained / "canaries.json").read_text())
    assert record["verdict"].startswith("MECHANISM BROKEN") and len(record["earlier_looks"]) == 1
    assert all(check["passed"] for check in record["twins"][0]["mechanism"])
    (first,) = record["earlier_looks"]
    assert first["verdict"].startswith("MECHANISM BROKEN") and len(first["twins"][0]["coins"]) == 120
    assert first["time"] < record["time"] and first["controls"] and not record["controls"]
    assert record["alpha_of_bounds"] == pytest.approx(first["alpha_of_look"] + record["alpha_of_look"])


def test_several_processes_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="torchrun for train alone"):
        audit(trained)


def test_a_run_without_a_proof_is_refused(trained: Path) -> None:
    plan = load_run(trained).plan
    bare = {**plan.to_json(), "mode": "none", "noise_multiplier": 0.0, "epsilon": None}
    with pytest.raises(InputError, match="proven"):
        twin_plan(PrivacyPlan.from_json(bare), None)
    with pytest.raises(InputError, match="proven"):
        twin_plan(PrivacyPlan.from_json({**bare, "mode": "dp"}), None)


def test_the_twins_plan_is_the_runs_but_for_steps_seed_and_histogram(trained: Path) -> None:
    plan = load_run(trained).plan
    changed = {**plan.to_json(), "histogram_epsilon": 0.5, "seeded": True, "epsilon": 99}
    twin = twin_plan(PrivacyPlan.from_json(changed), 3)
    assert twin == PrivacyPlan.from_json({**plan.to_json(), "steps": 3, "epsilon": 99})
    assert twin_plan(plan, None) == plan and twin_plan(plan, 10**6) == plan


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_a_controls_steps_draw_enough_canaries(trained: Path, rate: float) -> None:
    """Half of 1000 are put in; 100 guesses must find 100 of them drawn."""
    plan = dataclasses.replace(load_run(trained).plan, sampling_rate=rate, steps=1000)
    steps = control_steps(plan, "side", 0.1)
    drawn_after = [500 * (1 - (1 - rate) ** t) for t in (steps - 1, steps)]
    assert drawn_after[0] < 150 - 1e-9 and drawn_after[1] > 150 - 1e-9  # and no more than it takes
    assert control_steps(plan, "input", 0.1) == 1000


def test_a_kind_that_cannot_refute_the_claim_is_inconclusive_alone(trained: Path) -> None:
    """At ε = 6 24 guesses, all right, say little, and images of random signs do not read the noise."""
    record = json.loads(audit(trained, "audit.canaries.kinds=[input]").read_text())
    assert record["verdict"].startswith("INCONCLUSIVE: canaries (input) cannot refute the claim")
    assert not record["controls"][0]["passed"] and record["controls"][0]["required"]


def test_what_guesses_could_show_at_best() -> None:
    plan = PrivacyPlan(mode="dp", unit="patient", n=500, sampling_rate=1.0, steps=1, clipping_norm=1.0,
                       noise_multiplier=1.0, images_per_patient=1, delta=1e-5)  # fmt: skip
    weak = CouldShow.of(500, half_and_half(500, 0.1), dataclasses.replace(plan, noise_multiplier=0.6), 0.05)
    assert weak.ceiling < weak.claimed and not weak.refutes and weak.by("side") and not weak.by("input")
    assert "could not refute" in weak.sentence()
    strong = CouldShow.of(1000, half_and_half(1000, 0.2), dataclasses.replace(plan, noise_multiplier=4.0), 0.05)
    assert strong.ceiling > strong.claimed and strong.by("input") and strong.smallest_epsilon is not None
    by_the_curve = dataclasses.replace(weak, p_value=0.01)
    assert by_the_curve.refutes and by_the_curve.by("input") and "could refute" in by_the_curve.sentence()


def test_so_few_guesses_that_nothing_could_show_are_refused_before_any_twin(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Twin, "scores", lambda self: pytest.fail("a twin was trained"))
    with pytest.raises(InputError, match=r"audit\.canaries\.m"):
        audit(trained, "audit.canaries.m=20")


def test_the_command_line_knows_it(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked = ["imgsynth", "audit", "canaries", f"output={trained}", *CANARIES, "audit.canaries.kinds=[side]"]
    monkeypatch.setattr("sys.argv", [*asked, "audit.canaries.steps=1"])
    cli.main()
    assert "canaries.json" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*asked, "audit.canaries.kind=[side]", "audit.canaries.m=3"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and "kinds" in said.err and "audit.canaries.m" in said.err
    assert FORMAT in (trained / "canaries.json").read_text()
