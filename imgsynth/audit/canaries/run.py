"""``imgsynth audit canaries``: twins of a run with canaries, and what they say about its ε, into canaries.json.

The twins read the private data and take noisy steps of their own; their weights, gradients and samples never leave
this process, so that they release nothing, and like every audit they are not in the ledger. What stays is the audit's
record: a private-data output without a proof, and local.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import __version__, console
from imgsynth.audit.canaries.coins import GuessCounts, half_and_half, toss
from imgsynth.audit.canaries.findings import against
from imgsynth.audit.canaries.twin import Twin
from imgsynth.audit.controls import Control
from imgsynth.audit.fdp import fdp_p_value
from imgsynth.audit.gdp import WithGaussian
from imgsynth.audit.one_run import Guesses, OneRunBound, guess
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.files import write_json
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.tradeoff import trade_off
from imgsynth.release.canary_record import FORMAT, NAME, grave_word, identity
from imgsynth.schema import Config
from imgsynth.training.device import choose_device
from imgsynth.training.fakes import refuse_earlier_fakes
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import Run, load_run, model_factory
from imgsynth.types import CheckFailed, Fault, InputError

INCONCLUSIVE = "INCONCLUSIVE"
MEANING = (
    "Trained anew on the run's patients and on pseudo-patients (canaries), each put in by a secret coin. A lower bound "
    "above the proven ε shows that clipping, noise, sampling or accounting are broken; one below shows nothing more "
    "than that these canaries found nothing. It speaks of the code and its settings, not of the run's own weights."
)


def audit_canaries(run_dir: Path, cfg: Config, extra_transforms: Sequence[Any] = ()) -> dict[str, Any]:
    """Audit the trainer of the run in ``run_dir`` as ``cfg.audit.canaries`` says; write ``canaries.json`` there.

    ``extra_transforms`` are those of ``cfg.preprocess.extra``, instantiated. Killed, it leaves nothing, and the same
    call begins anew with new coins. Raises InputError for a run that cannot be audited, and CheckFailed, after the
    record is written, where a bound is above the proven ε.
    """
    run, settings = load_run(run_dir), cfg.audit.canaries
    plan = twin_plan(run.plan, settings.steps)
    refuse_earlier_fakes(plan, str(run_dir))
    patients = PatientDataset(
        run.manifest, "train", run.config.preprocess, plan.images_per_patient, cfg.data.cache,
        cache_dir=RunFolder(run_dir).cache, extra=extra_transforms, copies=plan.augmentation_multiplicity,
    )  # fmt: skip
    counts = half_and_half(settings.m, settings.guesses)
    alpha = cfg.audit.alpha / len(settings.kinds)  # the worst of several twins is a choice, too
    each = alpha / 2  # of a twin's two tests: the bound against ε, and the claimed curve
    twins, controls = [], []
    for kind in settings.kinds:
        console.say(f"Twin with {settings.m} canaries ({kind}), {plan.steps} steps")
        twins.append(_audited(run, cfg, patients, plan, kind, counts, each))
        if settings.control:
            controls.append(_noiseless(run, cfg, patients, plan, kind))
    record = {
        "format": FORMAT, "scope": "local", "of": identity(run_dir), "imgsynth": __version__, "meaning": MEANING,
        "proven_epsilon": plan.epsilon, "proven_epsilon_of_run": run.plan.epsilon, "delta": plan.delta,
        "alpha": cfg.audit.alpha, "alpha_of_each_twin": alpha, "alpha_of_each_test": each,
        "alpha_of_bounds": each * len(twins), "engine": plan.engine,
        "steps": plan.steps, "steps_of_run": run.plan.steps, "m": settings.m, "guesses": counts._asdict(),
        "guesses_fixed": "before any twin was trained", "twins": twins, "controls": [c.to_json() for c in controls],
    }  # fmt: skip
    record["verdict"] = verdict = verdict_of(record)
    path = write_json(run_dir / NAME, record)
    for twin in twins:
        console.say(f"{twin['kind']}: ε ≥ {twin['epsilon_lower_bound']:.3g}, proven ε ≤ {plan.epsilon:.4g}")
    if grave_word(record):
        raise CheckFailed(
            Fault(str(path), verdict, f"nothing against the proven ε of {plan.epsilon:.4g}",
                  "do not release; clipping, noise, sampling or accounting are broken")
        )  # fmt: skip
    return record


def twin_plan(plan: PrivacyPlan, steps: int | None) -> PrivacyPlan:
    """The run's plan with ``steps`` steps of it (None: all), no label histogram, and the system's entropy. InputError
    where there is nothing to audit."""
    if plan.mode != "dp" or plan.noise_multiplier == 0:
        raise InputError(
            Fault("plan.json", f"a run of mode {plan.mode} with noise multiplier {plan.noise_multiplier:g}",
                  "a run with a proven ε, for a lower bound to be set beside", "imgsynth audit attacks any run")
        )  # fmt: skip
    return replace(plan, steps=min(plan.steps, steps or plan.steps), histogram_epsilon=0.0, seeded=False)


def control_steps(rate: float, share: float) -> int:
    """Steps in which, of canaries half of which are put in, one and a half times the ``share`` that is guessed at is
    drawn on average."""
    return 1 if rate >= 1 else max(1, math.ceil(math.log(1 - 3 * share) / math.log(1 - rate)))


def _audited(
    run: Run, cfg: Config, patients: PatientDataset, plan: PrivacyPlan, kind: str, counts: GuessCounts, alpha: float
) -> dict[str, Any]:
    """One twin, its scores and what they show."""
    began = time.monotonic()
    coins_M = toss(cfg.audit.canaries.m)
    twin = _twin(run, cfg, patients, plan, kind, coins_M)
    scores_M = twin.scores()
    return {
        "kind": kind, **evaluated(_guessed(scores_M, coins_M, counts), plan, alpha),
        "mechanism": [check.to_json() for check in twin.mechanism.checks()],
        "seconds": round(time.monotonic() - began, 1),
        "coins": "".join("1" if c else "0" for c in coins_M), "scores": [float(f"{s:.6g}") for s in scores_M],
    }  # fmt: skip


def evaluated(guesses: Guesses, plan: PrivacyPlan, alpha: float) -> dict[str, Any]:
    """What guesses at the coins of one twin show about ``plan``."""
    found = WithGaussian.of(OneRunBound.of(guesses, alpha, plan.delta))
    assert isinstance(found.valid, OneRunBound)
    return {
        "guesses": guesses.guessed,
        "correct": guesses.correct,
        "epsilon_lower_bound": found.valid.epsilon,
        "ceiling": found.valid.ceiling,
        "p_value_of_claimed_curve": fdp_p_value(guesses, trade_off(plan)),
        "epsilon_under_gaussian_hypothesis": found.epsilon_under_gaussian_hypothesis,
    }


def _guessed(scores_M: np.ndarray, coins_M: np.ndarray, counts: GuessCounts) -> Guesses:
    return guess(scores_M, coins_M, counts.included, counts.excluded, np.random.default_rng())


def _noiseless(run: Run, cfg: Config, patients: PatientDataset, plan: PrivacyPlan, kind: str) -> Control:
    """A positive control: a few steps of a twin without noise, which nothing protects, and of which nothing is kept.
    It is caught when every guess is right. Guesses are at canaries put in only, as few steps do not draw them all."""
    settings = cfg.audit.canaries
    steps = min(plan.steps, control_steps(plan.sampling_rate, settings.guesses))
    counts = GuessCounts(max(1, round(settings.guesses * settings.m)), 0)
    coins_M = toss(settings.m)
    bare = replace(plan, noise_multiplier=0.0, steps=steps)
    scores_M = _twin(run, cfg, patients, bare, kind, coins_M).scores()
    found = OneRunBound.of(_guessed(scores_M, coins_M, counts), cfg.audit.alpha, plan.delta)
    right, guessed = found.guesses.correct, found.guesses.guessed
    caught = right == guessed
    detail = (
        f"a twin without noise, not private, {steps} steps, {'was' if caught else 'was not'} caught: "
        f"{right} of {guessed} guesses right, ε ≥ {found.epsilon:.3g}, ceiling {found.ceiling:.3g}"
    )
    return Control(f"canaries without noise, {kind}", "positive", caught, found.epsilon, None, None, detail)


def _twin(run: Run, cfg: Config, patients: PatientDataset, plan: PrivacyPlan, kind: str, coins_M: np.ndarray) -> Twin:
    trainer = replace(run.config.trainer, device=cfg.trainer.device, threads=cfg.trainer.threads)
    model = model_factory(run.config.model)(run.grid.shape, len(run.manifest.classes))
    return Twin(model, kind, coins_M, plan, trainer, patients, choose_device(trainer))


def verdict_of(record: Mapping[str, Any]) -> str:
    """One sentence, the gravest first."""
    found = against(record)
    if found:
        word = found[0][0]
        return f"{word}: {'; '.join(seen for other, seen in found if other == word)}: do not release"
    missed = [control["detail"] for control in record["controls"] if not control["passed"]]
    if missed:
        return f"{INCONCLUSIVE}: {'; '.join(missed)}"
    if not record["controls"]:
        return f"{INCONCLUSIVE}: no positive control was run"
    return "NO VIOLATION FOUND (by these canaries)"
