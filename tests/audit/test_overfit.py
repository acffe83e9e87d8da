"""The positive control that remembers: found by the attacks, and where it is not, said so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.controls import SAMPLE_ATTACKS
from imgsynth.audit.overfit import Overfit, overfit, overfit_control, overfit_of
from imgsynth.audit.references import Recipe, train_reference
from imgsynth.audit.registry import build
from imgsynth.audit.run import audit_run
from imgsynth.config import config_folder, from_overrides
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.source import fresh_samples, real_images
from imgsynth.schema import AuditConfig
from imgsynth.training.run import load_run

PRIMARY = "calibrated_nearest_neighbour/raw"
TOOLS = Tools(get_encoder("random_conv", 2, 0), AuditConfig())


@pytest.fixture(scope="module")
def made(small_run, tmp_path_factory) -> Overfit:  # type: ignore[no-untyped-def]
    run = load_run(small_run("vae"))
    recipe = Recipe.of(run)
    recipe = dataclasses.replace(
        recipe,
        model={**recipe.model, "latent": 8, "channels": 8, "widest": 16, "beta": 1e-4},
        trainer=dataclasses.replace(recipe.trainer, learning_rate=5e-3, ema=0.9),
    )
    everybody = real_images(run, "train", 99, 0)
    released = Released(fresh_samples(run, 60, 0))
    folder = tmp_path_factory.mktemp("overfit")
    first = overfit(recipe, run.manifest, everybody, released, 500, 0, folder)
    again = overfit(recipe, run.manifest, everybody, released, 500, 0, folder)
    assert len(list(folder.glob("*.pt"))) == 1
    assert np.array_equal(first.released.samples.x_NC, again.released.samples.x_NC)
    return first


def test_members_and_nonmembers_are_training_patients_that_do_not_overlap(made: Overfit, small_run) -> None:  # type: ignore[no-untyped-def]
    patients = load_run(small_run("vae")).manifest.patients("train")
    inside, outside = set(made.members.names_P), set(made.nonmembers.names_P)
    assert inside | outside == set(patients)
    assert not inside & outside
    assert len(inside) == len(patients) // 2
    assert len(made.released.samples) == 60
    assert made.released.run is None


def test_a_model_that_was_made_to_remember_is_caught(made: Overfit) -> None:
    control = overfit_control(build("posterior/reconstruction", TOOLS), made)
    assert control.kind == "positive"
    assert control.passed
    assert 0.5 < control.low < control.value <= control.high
    assert f"{made.members.n_patients} patients" in control.detail
    assert "was caught" in control.detail


def test_a_control_that_does_not_remember_fails_and_one_without_the_part_says_so(made: Overfit) -> None:
    swapped = Overfit(made.released, made.nonmembers, made.members)
    control = overfit_control(build("posterior/reconstruction", TOOLS), swapped)
    assert control.passed is False
    assert "was not caught" in control.detail
    control = overfit_control(build("logan", TOOLS), made)
    assert control.passed is None
    assert control.detail == "the model has no discriminator"


def test_overfitting_changes_privacy_and_length_and_nothing_else(small_run) -> None:  # type: ignore[no-untyped-def]
    recipe = Recipe.of(load_run(small_run("gan")))
    trained = recipe.overfitted(12, 34)
    assert (trained.plan.mode, trained.plan.noise_multiplier, trained.plan.n, trained.plan.steps) == ("none", 0, 12, 34)
    assert not trained.plan.releasable
    assert dataclasses.replace(trained, plan=recipe.plan, trainer=recipe.trainer) == recipe
    assert dataclasses.replace(trained.trainer, steps=recipe.trainer.steps) == recipe.trainer


def test_an_audit_has_the_control_and_the_references_that_it_was_asked_for(small_run) -> None:  # type: ignore[no-untyped-def]
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
    # Half of them against the other: the reference is the attacker's.
    assert controls[f"two holdouts, {PRIMARY}"] is not None
    assert [a["name"] for a in found["attacks"] if a["role"] == "primary"] == ["calibrated_nearest_neighbour"]
    assert found["beyond_membership"]["set_classifier"]["pairs"] == 2
    assert len(list((root / "local" / "references").glob("*.pt"))) == 5
    assert found["references"]["count"] == 4
    assert sum(found["references"]["patients_each"][:2]) == found["attacks"][0]["n_members"] + 6
    assert "never to be released" in found["references"]["note"]
    assert found["leakage"]["clean"]
    without = dataclasses.replace(settings, overfit_steps=0)
    assert overfit_of(run, real_images(run, "train", 60, 0), Released(fresh_samples(run, 2, 0)), without) is None


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
