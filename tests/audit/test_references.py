"""Reference models: the run's own training on patients that are known, kept at home, found again by content."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from imgsynth.audit import references as module
from imgsynth.audit.references import (
    Recipe,
    complementary_halves,
    content_key,
    for_audit,
    references,
    train_reference,
)
from imgsynth.measure.images import Images
from imgsynth.privacy.ledger import Ledger
from imgsynth.schema import AuditConfig
from imgsynth.training.run import Run, load_run
from imgsynth.types import InputError


@pytest.fixture(scope="module")
def run(small_run) -> Run:  # type: ignore[no-untyped-def]
    return load_run(small_run("gan", 7))


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_a_reference_on_the_runs_own_patients_is_the_run(kind: str, small_run) -> None:  # type: ignore[no-untyped-def]
    """The oracle of "same recipe": the loop that trained the run, seeded, ends in the same weights bit for bit."""
    run = load_run(small_run(kind, 7))
    recipe, names = Recipe.of(run), run.manifest.patients("train")
    dataset = recipe.images(run.manifest, names)
    state = torch.get_rng_state()
    model = train_reference(recipe, dataset, names, 7)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(run.model), strict=True))
    other = train_reference(recipe, dataset, names, 8)
    assert not all(torch.equal(a, b) for a, b in zip(weights(other), weights(run.model), strict=True))


def test_a_reference_reads_its_members_and_nobody_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, names = Recipe.of(run), run.manifest.patients()
    dataset, read = recipe.images(run.manifest, names), set()
    original = dataset.batch
    monkeypatch.setattr(
        dataset, "batch", lambda rows: (read.update(dataset.patient(i) for i in rows), original(rows))[1]
    )
    members = names[1::3]
    train_reference(recipe, dataset, members, 0)
    assert read
    assert read <= set(members)
    everybody = dataclasses.replace(recipe, plan=dataclasses.replace(recipe.plan, sampling_rate=1.0))
    train_reference(everybody, dataset, members, 0)
    assert read == set(members)


def test_the_mechanism_is_the_runs_own_and_never_releasable(run: Run) -> None:
    plan = Recipe.of(run).for_patients(5)
    same = ("mode", "sampling_rate", "noise_multiplier", "clipping_norm", "steps", "images_per_patient", "fakes")
    assert all(getattr(plan, name) == getattr(run.plan, name) for name in same)
    assert plan.n == 5
    assert plan.epsilon == pytest.approx(run.plan.epsilon)
    assert plan.seeded
    assert not plan.releasable


def test_halves_are_complementary_random_and_even() -> None:
    names = [f"p{i:02d}" for i in range(21)]
    halves = complementary_halves(names, 400, 3)
    for one, other in zip(halves[0::2], halves[1::2], strict=True):
        assert sorted(one + other) == names
        assert abs(len(one) - len(other)) == 1
    together = np.zeros((21, 21))
    for half in halves:
        inside = np.isin(names, half).astype(float)
        together += np.outer(inside, inside) / 400
    assert np.diag(together) == pytest.approx(0.5)  # everybody is in exactly half of them
    off = together[~np.eye(21, dtype=bool)]
    assert abs(off - 10.5**2 / 21**2).max() < 0.12  # and no two patients always together or apart
    assert complementary_halves(names, 4, 3) == halves[:4]
    assert complementary_halves(names, 4, 4) != halves[:4]


def test_references_are_found_again_and_a_killed_audit_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, names = Recipe.of(run), run.manifest.patients("train")[:9]
    trained = []

    def counting(*arguments, **more):  # type: ignore[no-untyped-def]
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(arguments[2])
        return train_reference(*arguments, **more)

    monkeypatch.setattr(module, "train_reference", counting)
    with pytest.raises(KeyboardInterrupt):
        references(recipe, run.manifest, names, 4, 0, tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == 3
    monkeypatch.setattr(module, "train_reference", train_reference)
    first = references(recipe, run.manifest, names, 4, 0, tmp_path)
    monkeypatch.setattr(module, "train_reference", lambda *_: pytest.fail("trained again"))
    again = references(recipe, run.manifest, names, 4, 0, tmp_path)
    for one, other, half in zip(first, again, complementary_halves(names, 4, 0), strict=True):
        assert one.members == other.members == frozenset(half)
        assert all(torch.equal(a, b) for a, b in zip(weights(one.model), weights(other.model), strict=True))
        assert one.saw(np.array(names)).tolist() == [name in half for name in names]
    assert not torch.equal(weights(first[0].model)[0], weights(first[1].model)[0])
    assert "LOCAL ONLY" in (tmp_path / "README.txt").read_text()
    assert not list(tmp_path.glob(".*"))


def test_the_key_follows_all_that_training_depends_on_and_nothing_else(run: Run) -> None:
    recipe, manifest, names = Recipe.of(run), run.manifest, run.manifest.patients()[:6]
    trainer = recipe.trainer
    key = content_key(recipe, manifest, names, 0)
    assert content_key(recipe, manifest, list(reversed(names)), 0) == key
    free = dataclasses.replace(trainer, device="auto", threads=5, checkpoint_every=1, sheet_every=1, rank_timeout=1.0)
    assert content_key(dataclasses.replace(recipe, trainer=free), manifest, names, 0) == key
    first = manifest.items[0]
    assert first.patient in names
    relabelled = dataclasses.replace(first, label="1" if first.label == "0" else "0")
    repainted = dataclasses.replace(first, digest="0" * 64)
    others = [
        content_key(recipe, manifest, names, 1),
        content_key(recipe, manifest, names[1:], 0),
        *(
            content_key(recipe, dataclasses.replace(manifest, items=(item, *manifest.items[1:])), names, 0)
            for item in (relabelled, repainted)
        ),
        *(
            content_key(dataclasses.replace(recipe, **change), manifest, names, 0)
            for change in (
                {"plan": dataclasses.replace(recipe.plan, noise_multiplier=9.0)},
                {"trainer": dataclasses.replace(trainer, learning_rate=9.0)},
                {"model": {**recipe.model, "latent": 9}},
                {"preprocess": dataclasses.replace(recipe.preprocess, high=9.0)},
                {"shape": (16, 16)},
                {"classes": 3},
            )
        ),
    ]
    assert len({key, *others}) == 1 + len(others)


def test_references_of_an_audit_stay_in_the_local_part_and_out_of_the_ledger(run: Run) -> None:
    def people(names: list[str]) -> Images:
        return Images(np.zeros((len(names), 1, 8, 8), np.float32), np.zeros(len(names), int), np.array(names))

    members, nonmembers = people(run.manifest.patients("train")), people(run.manifest.patients("holdout"))
    assert for_audit(run, members, nonmembers, AuditConfig()) == ()
    ledger = Ledger(run.config.privacy.ledger)
    before = [ledger.entries(cohort) for cohort in ledger.cohorts()]
    found = for_audit(run, members, nonmembers, AuditConfig(references=4))
    assert [ledger.entries(cohort) for cohort in ledger.cohorts()] == before
    assert len(found) == 4
    assert found[0].members | found[1].members == {*members.names_P, *nonmembers.names_P}
    made = set(run.root.rglob("*.pt")) - {run.root / "checkpoints" / "last.pt"}
    assert len(made) == 4
    assert {path.parent for path in made} == {run.root / "local" / "references"}
    with pytest.raises(InputError):
        load_run(run.root / "local" / "references")  # no verb opens it


def test_faults_come_together(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        references(Recipe.of(run), run.manifest, ["p001"], 3, 0, tmp_path)
    assert len(caught.value.faults) == 2
