"""Differential privacy broken on purpose: the shipped code minus one property, and what notices it.

Each mutant patches the code that runs. Twins with canaries are trained by it; named unit tests are run on it. What the
table in docs/audit/canaries.md says of each is what is asserted here.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from canary_cohort import make_plan, make_twin

from imgsynth.audit.canaries.coins import half_and_half, toss
from imgsynth.audit.canaries.run import evaluated
from imgsynth.audit.one_run import guess
from imgsynth.cohort import dataset
from imgsynth.privacy import refuse, step
from imgsynth.privacy.engines import functional, ghost, loop
from imgsynth.privacy.engines.base import Clipped
from imgsynth.privacy.engines.ghost import GhostEngine
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.types import PatientBatch

TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs" / "audit" / "canaries.md"
K = 8  # images of a patient, where each is clipped by itself

Patch = pytest.MonkeyPatch


def noise_divided_by_8(patch: Patch) -> None:
    add = NoiseSource.add
    patch.setattr(NoiseSource, "add", lambda self, value, std, *more: add(self, value, std / 8, *more))


def no_clipping(patch: Patch) -> None:
    for engine in (ghost, functional, loop):
        patch.setattr(engine, "clip_factors", lambda norms_P, clipping_norm: torch.ones_like(norms_P))


def clip_per_image(patch: Patch) -> None:
    whole = GhostEngine._sum

    def each(self, module, parameters, batch, aux_PK, clipping_norm, physical_batch) -> Clipped:
        one = PatientBatch(*(t.flatten(0, 1)[:, None] for t in (batch.x_PKC, batch.y_PK, batch.w_PK)))
        aux = tuple(a.flatten(0, 1)[:, None] for a in aux_PK)
        found = whole(self, module, parameters, one, aux, clipping_norm, physical_batch)
        return Clipped(found.sums, found.norms_P.view(batch.w_PK.shape).norm(dim=1), found.loss_P[: len(batch)])

    patch.setattr(GhostEngine, "_sum", each)


def normaliser_of_the_drawn_batch(patch: Patch) -> None:
    whole, drawn = step._sum, [1]

    def counting(plan, engine, module, batch, aux, clipping_norm) -> Clipped:
        drawn[0] = max(1, len(batch))
        return whole(plan, engine, module, batch, aux, clipping_norm)

    inside: Callable[..., Any] = step._gradients

    def divided(plan, clipping, noise, real, fake=None):
        made = inside(plan, clipping, noise, real, fake)
        return {name: g * plan.normaliser / drawn[0] for name, g in made.items()}

    patch.setattr(step, "_sum", counting)
    patch.setattr(step, "_gradients", divided)


def shuffled_batches(patch: Patch) -> None:
    def draw(self: PoissonPatients) -> list[int]:
        rate = self._threshold / 2**63
        parts = max(1, round(1 / rate))
        if self.drawn % parts == 0:
            self.order = np.array_split(np.random.default_rng().permutation(self._population), parts)
        self.drawn += 1
        return sorted(self.order[(self.drawn - 1) % parts].tolist())

    patch.setattr(PoissonPatients, "draw", draw)


def double_counted_chunk(patch: Patch) -> None:
    whole = GhostEngine._chunks

    def twice(self, module, parameters, batch, aux_PK, clipping_norm, physical_batch) -> Clipped:
        found = whole(self, module, parameters, batch, aux_PK, clipping_norm, physical_batch)
        last = slice((len(batch) - 1) // physical_batch * physical_batch, None)
        part = PatientBatch(batch.x_PKC[last], batch.y_PK[last], batch.w_PK[last])
        again = self._clipped(module, parameters, part, tuple(a[last] for a in aux_PK), clipping_norm)
        return Clipped({n: s + again.sums[n] for n, s in found.sums.items()}, found.norms_P, found.loss_P)

    patch.setattr(GhostEngine, "_chunks", twice)


def noise_once_per_chunk(patch: Patch) -> None:
    """Each part of the batch is noised at full strength, beside the step's own noise."""
    whole = GhostEngine._chunks

    def noised(self, module, parameters, batch, aux_PK, clipping_norm, physical_batch) -> Clipped:
        found = whole(self, module, parameters, batch, aux_PK, clipping_norm, physical_batch)
        sums = found.sums
        for _ in range(0, len(batch), physical_batch):
            sums = {n: NoiseSource().add(s, clipping_norm).to(s.dtype) for n, s in sums.items()}
        return Clipped(sums, found.norms_P, found.loss_P)

    patch.setattr(GhostEngine, "_chunks", noised)


def noise_used_twice(patch: Patch) -> None:
    """Steps 2k and 2k + 1 have the same noise: each alone is as the plan says."""
    add = NoiseSource.add
    kept: dict[torch.Size, torch.Tensor] = {}

    def again(self: NoiseSource, value: torch.Tensor, std: float, divisor: float = 1.0) -> torch.Tensor:
        noise = kept.pop(value.shape, None)
        if noise is None:
            noise = kept[value.shape] = add(self, torch.zeros_like(value), std) / std
        return (value.double() + noise * std) / divisor

    patch.setattr(NoiseSource, "add", again)


def batch_norm_left_in(patch: Patch) -> None:
    judge = refuse._reason_and_fix
    batch_norms = torch.nn.modules.batchnorm._BatchNorm
    patch.setattr(refuse, "_reason_and_fix", lambda layer: None if isinstance(layer, batch_norms) else judge(layer))


def data_fitted_normalisation(patch: Patch) -> None:
    """Intensities are divided by the largest of the cohort."""
    whole = dataset.cached

    def fitted(*arguments: Any) -> Any:
        images = whole(*arguments)
        fill = images.fill
        largest = max(float(images[i].abs().max()) for i in range(len(arguments[1])))

        def scaled(rows_B: torch.Tensor, out_BC: torch.Tensor) -> None:
            fill(rows_B, out_BC)
            out_BC /= largest

        images.fill = scaled
        return images

    patch.setattr(dataset, "cached", fitted)


MUTANTS: dict[str, Callable[[Patch], None]] = {
    "noise ÷ 8": noise_divided_by_8,
    "no clipping": no_clipping,
    "clip per image": clip_per_image,
    "normaliser of the drawn batch": normaliser_of_the_drawn_batch,
    "shuffled batches": shuffled_batches,
    "double-counted chunk": double_counted_chunk,
    "noise once per chunk": noise_once_per_chunk,
    "noise used twice": noise_used_twice,
    "BatchNorm left in": batch_norm_left_in,
    "data-fitted normalisation": data_fitted_normalisation,
}
BY_BOUND = {"noise ÷ 8", "no clipping", "clip per image"}
BY_CHECK = {  # the check of the mechanism that must fail, whatever else does
    "noise ÷ 8": "noise",
    "no clipping": "dose",
    "clip per image": "dose",
    "normaliser of the drawn batch": "noise",
    "shuffled batches": "draws",
    "double-counted chunk": "dose",
    "noise once per chunk": "noise",
    "noise used twice": "steps",
}
BY_TEST: dict[str, tuple[str, str, tuple[Any, ...]]] = {  # file, test, arguments
    "noise ÷ 8": ("privacy/test_step.py", "test_noise_on_the_sum_has_standard_deviation_sigma_C", ([],)),
    "no clipping": ("privacy/test_step.py", "test_the_arithmetic_by_hand", ()),
    "clip per image": (
        "privacy/test_step.py", "test_copies_of_a_patients_images_are_one_mean_clipped_once", ("ghost",),
    ),
    "normaliser of the drawn batch": (
        "privacy/test_step.py", "test_the_normaliser_never_depends_on_the_drawn_batch", (),
    ),
    "shuffled batches": ("privacy/test_sampling.py", "test_batches_are_poisson_samples", (None,)),
    "double-counted chunk": ("contracts/test_engines.py", "test_physical_batch_changes_nothing", (GhostEngine(),)),
    "noise once per chunk": ("contracts/test_engines.py", "test_physical_batch_changes_nothing", (GhostEngine(),)),
    "noise used twice": (
        "privacy/test_step.py", "test_noise_is_fresh_in_every_step_and_differs_between_parameters", (),
    ),
    "BatchNorm left in": ("privacy/test_refuse.py", "test_all_are_named_at_once", ()),
    "data-fitted normalisation": (
        "cohort/test_independence.py", "test_a_patients_images_do_not_depend_on_the_other_patients", ("window",),
    ),
}  # fmt: skip


@contextmanager
def broken(name: str | None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if name is not None:
            MUTANTS[name](patch)
        yield


def audited(name: str | None, sigma: float, **changes: Any) -> tuple[dict[str, Any], dict[str, bool], float]:
    """(what guesses show, check: passed, claimed ε) of a twin with side canaries, trained by broken code."""
    plan = make_plan(**{"delta": 1e-5, "noise_multiplier": sigma, "physical_batch": 40, **changes})
    coins = toss(600, seed=11)
    with broken(name):
        twin = make_twin("moments", "side", coins, plan)
        scores = twin.scores()
    guesses = guess(scores, coins, *half_and_half(600, 0.14), np.random.default_rng(0))
    return evaluated(guesses, plan, 0.05), {c.name: c.passed for c in twin.mechanism.checks()}, plan.epsilon


# ε of about 1 at δ = 1e-5 with full batches; of about 10 with a fifth of them, where no bound could pass the claim.
FULL = {"sigma": 7.5, "sampling_rate": 1.0, "steps": 4}
SAMPLED = {"sigma": 1.0, "sampling_rate": 0.2, "steps": 20}


def settings(name: str | None) -> dict[str, Any]:
    images = {"images": K} if name == "clip per image" else {}
    return {**(FULL if name in BY_BOUND else SAMPLED), **images}


@pytest.mark.parametrize("way", [FULL, SAMPLED], ids=["full", "sampled"])
def test_sound_code_is_not_suspected(way: dict[str, Any]) -> None:
    shown, checks, claimed = audited(None, **way)
    assert 0.8 < claimed < 1.2 if way is FULL else claimed > 5
    assert shown["epsilon_lower_bound"] < claimed and shown["p_value_of_claimed_curve"] > 0.05
    assert all(checks.values()) and len(checks) == (6 if way is FULL else 8)


@pytest.mark.parametrize("name", sorted(BY_BOUND))
def test_canaries_bound_epsilon_above_the_claim(name: str) -> None:
    shown, _, claimed = audited(name, **settings(name))
    assert shown["epsilon_lower_bound"] > claimed
    assert shown["p_value_of_claimed_curve"] < 0.001


@pytest.mark.parametrize("name", sorted(BY_CHECK))
def test_canaries_see_that_the_mechanism_is_another(name: str) -> None:
    _, checks, _ = audited(name, **settings(name))
    assert not checks[BY_CHECK[name]]


def test_every_mutant_is_caught_by_something() -> None:
    assert set(BY_TEST) == set(MUTANTS) and BY_BOUND | set(BY_CHECK) <= set(MUTANTS)


def the_test(file: str, name: str) -> Callable[..., None]:
    """A test function of another file, as this process would run it."""
    sys.path[:0] = [str(TESTS / "contracts"), str(TESTS / Path(file).parent)]
    spec = importlib.util.spec_from_file_location(f"mutated_{Path(file).stem}", TESTS / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., None] = getattr(module, name)
    return found


@pytest.mark.parametrize("name", list(MUTANTS))
def test_the_named_unit_test_fails_on_the_mutant_and_passes_without(name: str) -> None:
    file, test, arguments = BY_TEST[name]
    go = the_test(file, test)
    go(*arguments)
    with broken(name), pytest.raises((AssertionError, pytest.fail.Exception)):
        go(*arguments)


def test_the_table_in_the_docs_names_what_catches_each() -> None:
    rows = {cells[0]: cells for cells in map(cells_of, DOCS.read_text().splitlines()) if len(cells) == 4}
    for name in MUTANTS:
        _, bound, check, test = rows[name]
        assert (bound == "above the claim") == (name in BY_BOUND), name
        assert check == (f"`{BY_CHECK[name]}`" if name in BY_CHECK else "–"), name
        assert f"`{BY_TEST[name][1]}`" in test, name
    named = set(re.findall(r"`(test_\w+)`", DOCS.read_text()))
    written = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert named and all(f"def {test}(" in written for test in named)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
