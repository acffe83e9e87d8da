"""A model that learns from one noised mean: what is released, what it costs, what sees no patients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from imgsynth.audit import references
from imgsynth.audit.references import Recipe
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.manifest import Manifest
from imgsynth.models import MERF
from imgsynth.models.moments import Generator
from imgsynth.privacy.ledger import Ledger
from imgsynth.schema import Config
from imgsynth.training import loop, publish
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.metrics import read_rows
from imgsynth.training.run import load_run, read_config
from imgsynth.types import InputError

Configure = Callable[..., Config]
Train = Callable[..., Path]
NONE = {"mode": "none", "epsilon": None, "noise_multiplier": None}


def released(run_dir: Path) -> torch.Tensor:
    return load_checkpoint(run_dir / "checkpoints" / "last.pt")["state"]["model"]["embedding.mean.weight"]


def naive_mean(run_dir: Path, images_per_patient: int) -> np.ndarray:
    """The mean over patients of the mean over each one's images of e_y ψ(x)', in a loop."""
    cfg, manifest = read_config(run_dir / "config.json"), Manifest.load(run_dir / "manifest.json")
    model = load_run(run_dir).model
    assert isinstance(model, MERF)
    dataset = PatientDataset(manifest, "train", cfg.preprocess, images_per_patient)
    total = np.zeros(tuple(model.embedding.mean.weight.shape))
    for i in range(len(dataset)):
        x_KC, y_K, w_K = dataset[i]
        for x_C, y, w in zip(x_KC, y_K, w_K, strict=True):
            total[int(y)] += float(w) * model.embedding.embed(x_C[None])[0].double().numpy()
    return total / len(dataset)


@pytest.mark.parametrize("engine", ["ghost", "functional", "loop"])
@pytest.mark.parametrize("mode", ["none", "dp"])
def test_without_noise_the_naive_mean_is_released(
    configure: Configure, train_run: Train, engine: str, mode: str
) -> None:
    privacy = NONE if mode == "none" else {"noise_multiplier": 1e-9}
    cfg = configure("merf", privacy={**privacy, "engine": engine, "physical_batch": 5}, data={"images_per_patient": 2})
    run_dir = train_run(cfg)
    np.testing.assert_allclose(released(run_dir).numpy(), naive_mean(run_dir, 2), atol=1e-6)


def test_the_noise_is_that_of_the_plan_in_every_entry(configure: Configure, train_run: Train) -> None:
    run_dir = train_run(configure("merf", privacy={"noise_multiplier": 3.0}))
    n = len(Manifest.load(run_dir / "manifest.json").patients("train"))
    noise = (released(run_dir).numpy() - naive_mean(run_dir, 1)) * n / 3.0
    assert noise.size == 2 * (256 + 1 + 60)
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.size)  # 14 %: neither 2/3 nor 3/2 of it
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)


def test_it_costs_one_gaussian_mechanism_and_the_closed_form_agrees(configure: Configure, train_run: Train) -> None:
    cfg = configure("merf", privacy={"seed": None})
    run_dir = train_run(cfg)
    plan = json.loads((run_dir / "plan.json").read_text())
    assert (plan["sampling_rate"], plan["steps"], plan["noise_multiplier"], plan["clipping_norm"]) == (1, 1, 1.5, 1)
    (entry,) = Ledger(cfg.privacy.ledger).entries(json.loads((run_dir / "manifest.json").read_text())["fingerprint"])
    epsilon = entry.epsilon  # Balle and Wang 2018 (arXiv:1805.06530), Theorem 8, sensitivity 1
    delta = norm.cdf(0.5 / 1.5 - epsilon * 1.5) - math.exp(epsilon) * norm.cdf(-0.5 / 1.5 - epsilon * 1.5)
    assert delta == pytest.approx(1e-2, rel=0.02)
    assert entry.state == "closed" and epsilon == plan["epsilon"]


def test_steps_after_cost_nothing_and_are_all_taken(configure: Configure, train_run: Train) -> None:
    run_dir = train_run(configure("merf", privacy={"seed": None}))
    rows, run = read_rows(run_dir / "metrics.jsonl"), load_run(run_dir)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert {row["epsilon"] for row in rows} == {run.plan.epsilon}
    assert [row["step"] for row in rows if "gradient_norm" in row] == [1]
    assert all("generator_loss" in row for row in rows)
    assert run.finished and run.step == 9
    assert sorted(p.name for p in (run_dir / "samples").iterdir()) == ["step-000006.png", "step-000009.png"]


def test_what_is_released_stays_and_the_generator_moves(configure: Configure, train_run: Train) -> None:
    short, long = (
        train_run(configure("merf", trainer={"steps_after": after}), f"run{after}") for after in (0, 8)
    )  # fmt: skip
    assert torch.equal(released(short), released(long))
    before, after = (load_run(run_dir).model.generator.state_dict() for run_dir in (short, long))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_step_takes_as_many_generated_images_as_the_model_says(
    configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    draw = Generator.draw
    monkeypatch.setattr(Generator, "draw", lambda self, n, random: seen.append(n) or draw(self, n, random))
    train_run(configure("merf"))
    assert seen.count(8) >= 9 and 26 not in seen  # there are 26 patients in the step


@pytest.mark.parametrize("steps", [None, 4])
def test_references_and_the_overfit_control_take_the_summary_once_and_then_train_the_generator(
    steps: int | None, configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(train_run(configure("merf")))
    recipe = Recipe.of(run) if steps is None else Recipe.of(run).overfitted(10, steps)
    calls = {"private_update": 0, "post_processing_updates": 0}
    for name in calls:
        monkeypatch.setattr(references, name, counted(calls, name, getattr(references, name)))
    names = run.manifest.patients("train")[:10]
    model = references.train_reference(recipe, recipe.images(run.manifest, names), names, seed=0)
    assert calls == {"private_update": 1, "post_processing_updates": 1 + (8 if steps is None else steps)}
    assert recipe.plan.sampling_rate == 1
    assert isinstance(model, MERF)
    if steps is not None:
        share_C = model.embedding.mean.weight[:, 256] / math.sqrt(0.1)
        assert share_C.sum() == pytest.approx(1, abs=1e-5)  # the mean, not a sum of several


def counted(calls: dict[str, int], name: str, original: Callable[..., object]) -> Callable[..., object]:
    def go(*arguments: object) -> object:
        calls[name] += 1
        return original(*arguments)

    return go


def test_after_the_private_step_no_image_is_opened(
    configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure("merf")
    unbroken = train_run(cfg, "unbroken")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publish.Metrics, "publish", interrupt)
        train_run(cfg)
    monkeypatch.setattr(loop, "PatientDataset", unreachable)
    ours, theirs = (load_checkpoint(d / "checkpoints" / "last.pt")["state"] for d in (train_run(cfg), unbroken))
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def unreachable(*_: object, **__: object) -> None:
    raise AssertionError("images of patients were opened after the private steps")


MISFITS = {
    "trainer.optimizer": {"trainer": {"optimizer": "adam"}},
    "trainer.learning_rate": {"trainer": {"learning_rate": 0.5}},
    "trainer.steps": {"trainer": {"steps": 2}},
    "privacy.sampling_rate": {"privacy": {"sampling_rate": 0.5}},
    "privacy.clipping_norm": {"privacy": {"clipping_norm": 0.3}},
    "privacy.clipping_quantile": {"privacy": {"clipping_quantile": 0.5}},
}


@pytest.mark.parametrize("where", MISFITS)
def test_settings_that_would_release_another_vector_are_refused_before_any_work(
    where: str, configure: Configure, train_run: Train, tmp_path: Path
) -> None:
    cfg = configure("merf", **MISFITS[where])
    with pytest.raises(InputError) as caught:
        train_run(cfg)
    assert [fault.where for fault in caught.value.faults] == [where]
    assert not Ledger(cfg.privacy.ledger).cohorts()


def test_a_network_is_not_taken_as_a_summary_and_needs_no_steps_after(configure: Configure, train_run: Train) -> None:
    with pytest.raises(InputError, match=r"trainer\.optimizer"):
        train_run(configure("gan", trainer={"optimizer": "summary", "learning_rate": 1.0}))
    with pytest.raises(InputError, match=r"trainer\.steps_after"):
        train_run(configure("vae", trainer={"steps_after": 3}))
    run_dir = train_run(configure("gan", trainer={"steps_after": 3}))
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl") if "gradient_norm" in row] == [*range(1, 10)]
    assert load_run(run_dir).step == 12
