"""The positive controls that remember: found by the attacks, and where they are not, said so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.controls import SAMPLE_ATTACKS, Control
from imgsynth.audit.overfit import (
    REMEMBERED,
    Overfit,
    clipped_control,
    overfit,
    overfit_control,
    overfit_controls,
    overfit_of,
    share_of_each_class,
)
from imgsynth.audit.references import Recipe, train_reference
from imgsynth.audit.registry import build
from imgsynth.audit.run import audit_run
from imgsynth.config import config_folder, from_overrides
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.source import fresh_samples, real_images
from imgsynth.privacy.plan import GaussianQuery
from imgsynth.schema import AuditConfig
from imgsynth.training.run import load_run

PRIMARY = "calibrated_nearest_neighbour/raw"
TOOLS = Tools(get_encoder("random_conv", 2, 0), AuditConfig())


RECONSTRUCTION = "posterior/reconstruction"


def remembering(small_run, folder, clipped: bool) -> Overfit:  # type: ignore[no-untyped-def]
    run = load_run(small_run("vae"))
    recipe = Recipe.of(run)
    recipe = dataclasses.replace(
        recipe,
        model={**recipe.model, "latent": 8, "channels": 8, "widest": 16, "beta": 1e-4},
        trainer=dataclasses.replace(recipe.trainer, learning_rate=5e-3, ema=0.9),
    )
    everybody = real_images(run, "train", 99, 0)
    return overfit(recipe, run.manifest, everybody, Released(fresh_samples(run, 60, 0)), 500, 0, folder, clipped)


@pytest.fixture(scope="module")
def made(small_run, tmp_path_factory) -> Overfit:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("overfit")
    first, again = (remembering(small_run, folder, False) for _ in range(2))
    assert len(list(folder.glob("*.pt"))) == 1
    assert np.array_equal(first.released.samples.x_NC, again.released.samples.x_NC)
    return first


@pytest.fixture(scope="module")
def made_clipped(small_run, tmp_path_factory) -> Overfit:  # type: ignore[no-untyped-def]
    return remembering(small_run, tmp_path_factory.mktemp("clipped"), True)


def test_members_and_nonmembers_are_training_patients_that_do_not_overlap(made: Overfit, small_run) -> None:  # type: ignore[no-untyped-def]
    patients = load_run(small_run("vae")).manifest.patients("train")
    inside, outside = set(made.members.names_P), set(made.nonmembers.names_P)
    assert inside | outside == set(patients)
    assert not inside & outside
    assert len(inside) == len(patients) // 2
    assert len(made.released.samples) == 60
    assert made.released.run is None


def test_a_model_that_was_made_to_remember_is_caught(made: Overfit) -> None:
    control = overfit_control(build(RECONSTRUCTION, TOOLS), made)
    assert control.kind == "positive"
    assert control.passed
    assert 0.5 < control.low < control.value <= control.high
    assert f"{made.members.n_patients} patients" in control.detail
    assert "was caught" in control.detail


def test_a_control_that_does_not_remember_fails_and_one_without_the_part_says_so(made: Overfit) -> None:
    swapped = Overfit(made.released, made.nonmembers, made.members)
    control = overfit_control(build(RECONSTRUCTION, TOOLS), swapped)
    assert control.passed is False
    assert "was not caught" in control.detail
    control = overfit_control(build("logan", TOOLS), made)
    assert control.passed is None
    assert control.detail == "the model has no discriminator"


def test_the_run_s_clipping_without_its_noise_does_not_hide_what_a_model_remembers(
    made: Overfit, made_clipped: Overfit
) -> None:
    assert np.array_equal(made.members.names_P, made_clipped.members.names_P)
    assert not np.array_equal(made.released.samples.x_NC, made_clipped.released.samples.x_NC)
    bare, clipped = overfit_controls(build(RECONSTRUCTION, TOOLS), [made, made_clipped])
    assert bare == overfit_control(build(RECONSTRUCTION, TOOLS), made)
    assert clipped.name == f"clipped overfit model without noise, {RECONSTRUCTION}"
    assert clipped.kind == "positive" and clipped.passed and clipped.required
    assert "through the run's clipping without noise was caught" in clipped.detail
    assert clipped.detail.endswith("power if it remembers as much as without clipping 100%")


@pytest.mark.parametrize(("seen", "required"), [(1.0, True), (0.98, True), (0.9, False), (0.3, False), (None, False)])
def test_a_missed_model_without_noise_decides_where_the_attack_is_sure_of_the_unclipped_one(
    made_clipped: Overfit, seen: float | None, required: bool
) -> None:
    blind = dataclasses.replace(made_clipped, members=made_clipped.nonmembers, nonmembers=made_clipped.members)
    unclipped = Control("overfit", "positive", seen is not None, seen, None, None, "")
    found = clipped_control(build(RECONSTRUCTION, TOOLS), blind, unclipped)
    assert found.passed is False
    assert found.required is required
    absent = clipped_control(build("logan", TOOLS), blind, Control("overfit", "positive", None, None, None, None, ""))
    assert absent.passed is None and not absent.required and "no discriminator" in absent.detail


def test_members_have_the_share_of_every_class_and_everybody_the_same_chance() -> None:
    names, classes = np.array([f"p{i:03d}" for i in range(90)]), np.repeat([0, 1, 2], [60, 20, 10])
    counted, trials = np.zeros(90), 600
    for seed in range(trials):
        chosen = share_of_each_class(names, classes.tolist(), np.random.default_rng(seed))
        assert len(set(chosen)) == REMEMBERED and list(chosen) == sorted(chosen)
        at = np.isin(names, chosen)
        counted += at
        assert (np.abs(np.bincount(classes[at], minlength=3) - REMEMBERED * np.array([60, 20, 10]) / 90) < 1).all()
    share = REMEMBERED / 90
    assert (np.abs(counted / trials - share) < 4.5 * np.sqrt(share * (1 - share) / trials)).all()
    few = share_of_each_class(names[50:70], classes[50:70].tolist(), np.random.default_rng(0))
    assert len(few) == 10 and np.isin(few, names[60:]).sum() == 5


def test_the_overfit_models_members_are_of_every_class_as_the_others_are(small_run, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    run = load_run(small_run("vae"))
    everybody = real_images(run, "train", 99, 0)
    monkeypatch.setattr("imgsynth.audit.overfit.train_reference", lambda *_: run.model)
    for seed in range(8):
        split = overfit(
            Recipe.of(run), run.manifest, everybody, Released(fresh_samples(run, 4, 0)), 3, seed, tmp_path / str(seed)
        )
        classes = run.manifest.patient_classes("train")
        inside = [sum(classes[name] == k for name in split.members.names_P) for k in (0, 1)]
        outside = [sum(classes[name] == k for name in split.nonmembers.names_P) for k in (0, 1)]
        assert max(abs(a - b) for a, b in zip(inside, outside, strict=True)) <= 2, seed


def test_without_noise_only_noise_length_and_patients_are_not_the_runs(small_run) -> None:  # type: ignore[no-untyped-def]
    recipe = Recipe.of(load_run(small_run("gan")))
    trained = recipe.overfitted(12, 34, clipped=True).plan
    assert (trained.mode, trained.noise_multiplier, trained.gradient_noise_multiplier) == ("dp", 0.0, 0.0)
    assert not trained.releasable
    own = dataclasses.replace(
        recipe.plan, noise_multiplier=0.0, n=12, steps=34, sampling_rate=0.5, seeded=True, histogram_epsilon=0.0
    )
    assert trained == own
    adaptive = dataclasses.replace(recipe.plan, clipping_quantile=0.5, count_noise_multiplier=9.0)
    adapted = dataclasses.replace(recipe, plan=adaptive).overfitted(12, 34, clipped=True).plan
    assert (adapted.clipping_quantile, adapted.gradient_noise_multiplier) == (0.5, 0.0)
    asking = dataclasses.replace(recipe.plan, queries=(GaussianQuery("mean", 2.0, 3.0),))
    bare = dataclasses.replace(recipe, plan=asking).overfitted(12, 34, clipped=True).plan
    assert bare.queries == (GaussianQuery("mean", 2.0, 0.0),)


def test_a_run_that_clips_nothing_has_no_model_without_noise(small_run, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    run = load_run(small_run("vae"))
    monkeypatch.setattr("imgsynth.audit.overfit.overfit", lambda *of: of[-1])
    everybody, settings = real_images(run, "train", 99, 0), AuditConfig(overfit_steps=3)
    released = Released(fresh_samples(run, 2, 0))
    assert overfit_of(run, everybody, released, settings) == [False, True]
    bare = dataclasses.replace(run, plan=Recipe.of(run).overfitted(9, 3).plan)
    assert overfit_of(bare, everybody, released, settings) == [False]


def test_an_auc_above_one_half_by_chance_is_not_caught(made: Overfit, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    attack = build("nearest_neighbour/raw", TOOLS)
    scores = {id(made.members): np.arange(8) + 0.5, id(made.nonmembers): np.arange(8)}
    monkeypatch.setattr(attack, "scores", lambda patients: scores[id(patients)])
    found = overfit_control(attack, made)
    assert found.value > 0.5 and found.passed is False


def test_overfitting_changes_privacy_and_length_and_nothing_else(small_run) -> None:  # type: ignore[no-untyped-def]
    recipe = Recipe.of(load_run(small_run("gan")))
    trained = recipe.overfitted(12, 34)
    assert (trained.plan.mode, trained.plan.noise_multiplier, trained.plan.n, trained.plan.steps) == ("none", 0, 12, 34)
    assert not trained.plan.releasable
    assert dataclasses.replace(trained, plan=recipe.plan, trainer=recipe.trainer) == recipe
    assert dataclasses.replace(trained.trainer, steps=recipe.trainer.steps) == recipe.trainer


def test_an_audit_has_the_control_and_the_references_that_it_was_asked_for(  # type: ignore[no-untyped-def]
    small_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsynth.audit.run._too_few", lambda *_: None)  # they are, but quick
    root = small_run("vae")
    run = load_run(root)
    recipes = ["lira/posterior/elbo", "rmia/nearest_neighbour/raw", "groundhog/pca"]
    attacks = ["nearest_neighbour/raw", PRIMARY, *recipes, "logan"]
    settings = AuditConfig(n=60, attacks=attacks, primary=PRIMARY, references=4, overfit_steps=3, bootstrap=20)
    found = audit_run(root, dataclasses.replace(run.config, audit=settings))
    assert {(a["name"], a["access"]) for a in found["attacks"]} == {
        ("nearest_neighbour", "samples"), ("calibrated_nearest_neighbour", "samples+reference"),
        ("lira", "recipe"), ("rmia", "recipe"), ("groundhog", "recipe"),
    }  # fmt: skip
    assert {"what": "attack logan", "why": "the model has no discriminator"} in found["not_done"]
    controls = {c["name"]: c["passed"] for c in found["controls"]}
    assert f"overfit non-private model, {PRIMARY}" in controls
    assert f"clipped overfit model without noise, {PRIMARY}" in controls
    # Half of the test split is the attacker's, the other is held against the holdout.
    assert controls[f"two holdouts, {PRIMARY}"] is not None
    assert [a["name"] for a in found["attacks"] if a["role"] == "primary"] == ["calibrated_nearest_neighbour"]
    assert found["beyond_membership"]["set_classifier"]["pairs"] == 2
    assert len(list((root / "local" / "references").glob("*.pt"))) == 6
    assert found["references"]["count"] == 4
    assert sum(found["references"]["patients_each"][:2]) == found["attacks"][0]["n_members"] + 6
    assert "never to be released" in found["references"]["note"]
    assert found["leakage"]["clean"]
    without = dataclasses.replace(settings, overfit_steps=0)
    assert overfit_of(run, real_images(run, "train", 60, 0), Released(fresh_samples(run, 2, 0)), without) == []


def test_the_sets_that_come_with_imgsynth_are_decided_by_an_attack_that_their_controls_can_try() -> None:
    for path in (config_folder() / "audit").glob("*.yaml"):
        settings = from_overrides("train", [f"audit={path.stem}"]).audit
        assert settings.primary is not None and build(settings.primary, TOOLS).access in SAMPLE_ATTACKS, path.stem
        if settings.overfit_steps:
            assert settings.primary == PRIMARY, path.stem


def test_training_repeats_whatever_was_drawn_before(small_run) -> None:  # type: ignore[no-untyped-def]
    run = load_run(small_run("vae"))
    recipe, names = Recipe.of(run).overfitted(6, 3), run.manifest.patients()[:6]
    dataset = recipe.images(run.manifest, names)
    weights = [train_reference(recipe, dataset, names, 0).state_dict()["encoder.head.weight"] for _ in range(2)]
    assert (weights[0] == weights[1]).all()
