"""What is trained before the first private step: on noised answers alone, once, free of charge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dp_accounting import dp_event as dp

from imgsynth.audit import references
from imgsynth.audit.canaries import twin
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.models.class_means import ClassMeans
from imgsynth.privacy.ledger import Ledger
from imgsynth.release.sample import sample_release
from imgsynth.schema import Config
from imgsynth.training import loop, steps
from imgsynth.training.metrics import read_rows
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import InputError

Configure = Callable[..., Config]
Train = Callable[..., Path]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in its order: the query's answer, steps without data, private steps."""
    happened: list[str] = []
    fit, update, private = ClassMeans.fit, steps._post_processing_update, loop.private_update

    def spy(name: str, original: Callable) -> Callable:
        return lambda *arguments, **named: happened.append(name) or original(*arguments, **named)

    monkeypatch.setattr(ClassMeans, "fit", spy("answer", fit))
    monkeypatch.setattr(steps, "_post_processing_update", spy("free", update))
    monkeypatch.setattr(loop, "private_update", spy("private", private))
    return happened


def test_the_network_warms_up_on_the_answer_before_any_private_step(
    configure: Configure, train_run: Train, order: list[str]
) -> None:
    run = load_run(train_run(configure("diffusion")))
    assert order == ["answer", *["free"] * 5, *["private"] * 9]
    assert run.finished and run.step == 9 and run.plan.steps == 9
    rows = read_rows(run.root / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 10)) and not any(
        "warm_up_on_means_loss" in row for row in rows
    )
    train_run(run.config)  # a finished run is left as it is
    assert len(order) == 15


def test_all_queries_are_answered_before_a_network_takes_its_turns(
    configure: Configure, train_run: Train, order: list[str]
) -> None:
    """Class means, a generator by moments, the network on what that makes: five steps each, and two charged queries."""
    plain = configure("diffusion", privacy={"seed": None})
    cfg = dataclasses.replace(plain, model={**plain.model, "warm_up": ["means", "moments"]})
    run = load_run(train_run(cfg))
    assert order == ["answer", *["free"] * 15, *["private"] * 9]
    assert [query.name for query in run.plan.queries] == ["class means", "moments"]
    embedding, plain_generator = run.model.auxiliary.embedding, model_factory(cfg.model)((8, 8), 2).auxiliary.G
    assert embedding.mean.weight.norm() > 0 and not embedding.mean.weight.requires_grad
    one = next(name for name, _ in plain_generator.named_parameters())
    assert not torch.equal(run.model.auxiliary.G.state_dict()[one], plain_generator.state_dict()[one])
    training = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(run.plan.sampling_rate, dp.GaussianDpEvent(1.5)), 9)
    query = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(1.0, dp.GaussianDpEvent(0.7)), 1)
    (entry,) = Ledger(cfg.privacy.ledger).entries(run.manifest.fingerprint)
    assert entry.event == dp.ComposedDpEvent([training, query, query])


@pytest.mark.parametrize("name", ["gan", "pategan"])
def test_a_generator_begins_on_moments_and_is_held_to_them(
    configure: Configure, train_run: Train, order: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One query charged beside the steps or votes; five turns before them, one after each."""
    votes = loop.vote_update
    monkeypatch.setattr(loop, "vote_update", lambda *a, **k: order.append("private") or votes(*a, **k))
    plain = configure(
        name, privacy={"seed": None, "query_noise_multiplier": 0.7}, trainer={"steps": 4, "steps_before": 5}
    )
    run = load_run(train_run(dataclasses.replace(plain, model={**plain.model, "warm_up": ["moments"]})))
    own = 1 if name == "pategan" else 2  # a step of the generator's own after so many private ones
    turns = [["private", "free", *(["free"] if step % own == 0 else [])] for step in range(1, 5)]
    assert order == [*["free"] * 5, *(what for turn in turns for what in turn)]
    assert run.model.moments.mean.weight.norm() > 0
    rows = read_rows(run.root / "metrics.jsonl")
    assert all("held_to_moments_loss" in row and "warm_up_on_moments_loss" not in row for row in rows)
    rate = run.plan.sampling_rate
    steps_of = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(1.5)), 4)
    query = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(1.0, dp.GaussianDpEvent(0.7)), 1)
    (entry,) = Ledger(run.config.privacy.ledger).entries(run.manifest.fingerprint)
    assert entry.event == dp.ComposedDpEvent([steps_of, query])


def test_a_release_says_what_the_network_began_on(configure: Configure, train_run: Train) -> None:
    cfg = configure("diffusion", privacy={"seed": None}, sample={"n": 2, "formats": ["nifti"]})
    run_dir = train_run(cfg)
    card = (sample_release(run_dir, cfg) / "model_card.md").read_text()
    assert "| Training | 5 before, on noised answers of the whole cohort (class means); 9 steps on the cohort" in card
    assert (
        "trained by DP-SGD, and on noised answers of the whole cohort (class means)"
        in (run_dir / "release" / "datasheet.md").read_text()
    )


def test_it_costs_nothing_and_the_query_is_in_the_ledger(configure: Configure, train_run: Train) -> None:
    short, long = (
        load_run(train_run(configure("diffusion", privacy={"seed": None}, trainer={"steps_before": n}), f"run{n}"))
        for n in (1, 6)
    )
    assert short.plan == long.plan
    training = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(long.plan.sampling_rate, dp.GaussianDpEvent(1.5)), 9)
    query = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(1.0, dp.GaussianDpEvent(0.7)), 1)
    entries = Ledger(long.config.privacy.ledger).entries(long.manifest.fingerprint)
    assert [entry.event for entry in entries] == [dp.ComposedDpEvent([training, query])] * 2


def test_after_the_answer_no_patient_is_read_until_the_first_private_step(
    configure: Configure, train_run: Train, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = PatientDataset.batch
    monkeypatch.setattr(PatientDataset, "batch", lambda self, *a, **k: order.append("read") or batch(self, *a, **k))
    train_run(configure("diffusion"))
    first_free, last_free = order.index("free"), len(order) - order[::-1].index("free")
    assert order[:first_free] == ["read", "answer"] and order[first_free:last_free] == ["free"] * 5


def test_killed_while_it_warms_up_or_just_after_a_run_ends_in_the_same_weights(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure("diffusion", trainer={"steps": 5})
    loop.train(cfg, tmp_path / "unbroken", model_factory(cfg.model))
    for name, at in (("_post_processing_update", 3), ("private_update", 2), ("private_update", 5)):
        where, calls = (steps if name.startswith("_") else loop), []
        original = getattr(where, name)

        def dying(*arguments, original=original, calls=calls, at=at):
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(where, name, dying)
            with pytest.raises(KeyboardInterrupt):
                loop.train(cfg, tmp_path / f"{name}{at}", model_factory(cfg.model))
        with monkeypatch.context() as patch:
            # The answer was published, and is not asked for again.
            patch.setattr(ClassMeans, "fit", lambda self, noise_std: pytest.fail("asked again"))
            loop.train(cfg, tmp_path / f"{name}{at}", model_factory(cfg.model))
        ours, theirs = (load_run(tmp_path / one).model.state_dict() for one in (f"{name}{at}", "unbroken"))
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_steps_that_have_nothing_to_train_and_queries_for_nothing_are_refused(
    configure: Configure, train_run: Train
) -> None:
    with pytest.raises(InputError, match=r"trainer\.steps_before"):
        train_run(configure("vae", trainer={"steps_before": 3}))
    with pytest.raises(InputError, match=r"trainer\.steps_before"):
        train_run(configure("diffusion", trainer={"steps_before": 0}))
    with pytest.raises(InputError, match=r"trainer\.steps_after"):
        train_run(configure("diffusion", trainer={"steps_after": 3}))
    plain = configure("diffusion", trainer={"steps_before": 0})
    model = {**plain.model, "warm_up": []}
    assert load_run(train_run(dataclasses.replace(plain, model=model))).plan.queries == ()


def test_twins_and_references_warm_up_as_the_run_did(
    configure: Configure, train_run: Train, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    run = load_run(train_run(configure("diffusion")))
    for room in (references, twin):
        update = room.private_update
        spy = lambda *a, update=update, **k: order.append("private") or update(*a, **k)  # noqa: E731
        monkeypatch.setattr(room, "private_update", spy)
    order.clear()
    recipe, names = references.Recipe.of(run), run.manifest.patients("train")[:10]
    dataset = recipe.images(run.manifest, names)
    references.train_reference(recipe, dataset, names, seed=0)
    assert order == ["answer", *["free"] * 5, *["private"] * 9]
    order.clear()
    plan = recipe.for_patients(len(dataset))
    coins = np.array([True, False, True])
    twin.Twin(
        recipe.networks(), "weights", coins, plan, run.config.trainer, dataset, torch.device("cpu"), seed=1
    ).scores()
    assert order == ["answer", *["free"] * 5, *["private"] * 9]
