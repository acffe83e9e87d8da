"""``imgsynth audit canaries``: twins of a run with canaries, and what they say about its ε, into canaries.json.

The twins read the private data and take noisy steps of their own; their weights, gradients and samples never leave
this process, so that they release nothing, and like every audit they are not in the ledger. What stays is the audit's
record: a private-data output without a proof, and local.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import __version__, console
from imgsynth.audit.canaries.coins import GuessCounts, half_and_half, toss
from imgsynth.audit.canaries.control import DIRAC, CouldShow, control_steps, not_run, of_noiseless
from imgsynth.audit.canaries.findings import against
from imgsynth.audit.canaries.text import Strings, burned_in, counted
from imgsynth.audit.canaries.twin import Twin
from imgsynth.audit.controls import Control
from imgsynth.audit.fdp import fdp_p_value
from imgsynth.audit.gdp import WithGaussian
from imgsynth.audit.one_run import Guesses, OneRunBound, guess
from imgsynth.audit.references import Recipe
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.files import write_json
from imgsynth.models.base import GenerativeModel, queries_of
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.tradeoff import trade_off
from imgsynth.release.canary_record import FORMAT, NAME, grave_word, identity, read_canaries
from imgsynth.release.rounding import at_least, at_most
from imgsynth.schema import Config
from imgsynth.training.device import choose_device
from imgsynth.training.fakes import refuse_earlier_fakes
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import Run, load_run
from imgsynth.types import CheckFailed, Fault, InputError

INCONCLUSIVE = "INCONCLUSIVE"
_OF_ALL_LOOKS = ("earlier_looks", "alpha_of_bounds", "of", "meaning")
MEANING = (
    "Trained anew on the run's patients and on pseudo-patients (canaries), each put in by a secret coin. A lower bound "
    "above the proven ε shows that clipping, noise, sampling or accounting are broken; one below shows nothing more "
    "than that these canaries found nothing. It speaks of the code and its settings, not of the run's own weights."
)
_OF_QUERIES = (
    " Not tested: noise and clipping of the queries ({}), put to all patients once beside training. The ε that a bound "
    "is held against is without those that canaries are not in."
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
    counts = half_and_half(settings.m, settings.guesses)
    alpha = cfg.audit.alpha / len(settings.kinds)  # the worst of several twins is a choice, too
    each = alpha / 2  # of a twin's two tests: the bound against ε, and the claimed curve
    model = _model(run)
    claims = {kind: claim_of(plan, model, kind) for kind in settings.kinds}
    could = {kind: CouldShow.of(settings.m, counts, claim, each) for kind, claim in claims.items()}
    of_training = CouldShow.of(settings.m, counts, claim_of(plan, model), each)
    console.say(f"At best: {of_training.sentence()}")
    strings = burned_in(settings.m, run.grid.shape, np.random.default_rng()) if "text" in settings.kinds else None
    patients = PatientDataset(
        run.manifest, "train", run.config.preprocess, plan.images_per_patient, cfg.data.cache,
        cache_dir=RunFolder(run_dir).cache, extra=extra_transforms, copies=plan.augmentation_multiplicity,
    )  # fmt: skip
    twins, controls = [], []
    for kind in settings.kinds:
        console.say(f"Twin with {settings.m} canaries ({kind}), {plan.steps} steps")
        mine = strings if kind == "text" else None
        twins.append(_audited(run, cfg, patients, plan, claims[kind], kind, counts, each, mine))
        if settings.control and could[kind].by(kind):
            controls.append(_noiseless(run, cfg, patients, plan, claims[kind], kind, counts, each, mine))
        elif settings.control:  # that no string is read says nothing of a twin that would draw none in any case
            none = not any(one.by(other) for other, one in could.items())
            controls.append(not_run(kind, could[kind], required=none or kind == "text"))
    record = {
        "format": FORMAT, "scope": "local", "of": identity(run_dir), "imgsynth": __version__,
        "meaning": MEANING + (_OF_QUERIES.format(", ".join(q.name for q in plan.queries)) if plan.queries else ""),
        "proven_epsilon": of_training.claimed, "proven_epsilon_of_run": run.plan.epsilon, "delta": plan.delta,
        "alpha": cfg.audit.alpha, "alpha_of_each_twin": alpha, "alpha_of_each_test": each,
        "alpha_of_look": each * len(twins), "time": datetime.now(timezone.utc).isoformat(), "engine": plan.engine,
        "steps": plan.steps, "steps_of_run": run.plan.steps, "m": settings.m, "guesses": counts._asdict(),
        "guesses_fixed": "before any twin was trained", "could_show": of_training.to_json(),
        "twins": twins, "controls": [c.to_json() for c in controls],
    }  # fmt: skip
    earlier = _earlier(run_dir)
    record["earlier_looks"] = earlier
    record["alpha_of_bounds"] = record["alpha_of_look"] + sum(look["alpha_of_look"] for look in earlier)
    console.say(f"Look {len(earlier) + 1} at the twins of this run; all of them are on record")
    record["verdict"] = verdict = verdict_of(record)
    path = write_json(run_dir / NAME, record)
    for twin in twins:
        console.say(
            f"{twin['kind']}: ε ≥ {at_least(twin['epsilon_lower_bound'])}, "
            f"proven ε ≤ {at_most(twin['proven_epsilon'], 4)}"
        )
    if grave_word(record):
        raise CheckFailed(
            Fault(str(path), verdict, f"nothing against the proven ε of {at_most(of_training.claimed, 4)}",
                  "do not release; clipping, noise, sampling or accounting are broken")
        )  # fmt: skip
    return record


def _earlier(run_dir: Path) -> list[dict[str, Any]]:
    """The looks at this run's twins that are on record, each with its own verdict, coins and settings."""
    last, _ = read_canaries(run_dir)
    if last is None:
        return []
    twins = [{key: value for key, value in twin.items() if key != "scores"} for twin in last["twins"]]
    return [*last["earlier_looks"], {k: v for k, v in last.items() if k not in _OF_ALL_LOOKS} | {"twins": twins}]


def twin_plan(plan: PrivacyPlan, steps: int | None) -> PrivacyPlan:
    """The run's plan with ``steps`` steps of it (None: all), no label histogram, and the system's entropy. InputError
    where there is nothing to audit."""
    if plan.mode != "dp" or plan.noise_multiplier == 0:
        raise InputError(
            Fault("plan.json", f"a run of mode {plan.mode} with noise multiplier {plan.noise_multiplier:g}",
                  "a run with a proven ε, for a lower bound to be set beside", "imgsynth audit attacks any run")
        )  # fmt: skip
    if plan.teachers is not None:
        raise InputError(
            Fault("model", "a run whose teachers vote (PATE)",
                  "a run of which patients' gradients are summed: a canary is a gradient that nobody else has, and a "
                  "teacher gives one bit for each image, whatever its patients are",
                  "imgsynth audit, whose attacks take the release and the student")
        )  # fmt: skip
    return replace(
        plan, steps=min(plan.steps, steps or plan.steps), histogram_epsilon=0.0, selection=None, seeded=False
    )


def claim_of(plan: PrivacyPlan, model: GenerativeModel, kind: str | None = None) -> PrivacyPlan:
    """``plan`` without what canaries of that kind do not go through: all queries, or for strings those before training.

    A bound is held against the ε of this alone: against that of the whole plan it would have to exceed, beside
    training, what queries cost that no canary is in.
    """
    names = [query.name for query in queries_of(model.objectives(), "after")] if kind == "text" else []
    return replace(plan, queries=tuple(query for query in plan.queries if query.name in names))


def _audited(
    run: Run, cfg: Config, patients: PatientDataset, plan: PrivacyPlan, claim: PrivacyPlan, kind: str,
    counts: GuessCounts, alpha: float, strings: Strings | None,
) -> dict[str, Any]:  # fmt: skip
    """One twin, its scores and what they show."""
    began = time.monotonic()
    coins_M = toss(cfg.audit.canaries.m)
    twin = _twin(run, cfg, patients, plan, kind, coins_M, strings)
    scores_M = twin.scores()
    text = {} if strings is None else {"text": counted(strings, scores_M, coins_M, cfg.audit.canaries.samples)}
    return {
        "kind": kind, "proven_epsilon": claim.epsilon,
        **evaluated(_guessed(scores_M, coins_M, counts), claim, alpha), **text,
        "mechanism": [check.to_json() for check in twin.mechanism.checks()],
        "seconds": round(time.monotonic() - began, 1),
        "coins": "".join("1" if c else "0" for c in coins_M), "scores": [float(f"{s:.6g}") for s in scores_M],
    }  # fmt: skip


def evaluated(guesses: Guesses, plan: PrivacyPlan, alpha: float) -> dict[str, Any]:
    """What guesses at the coins of one twin show about ``plan``, which holds no more than canaries go through."""
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


def _noiseless(
    run: Run, cfg: Config, patients: PatientDataset, plan: PrivacyPlan, claim: PrivacyPlan, kind: str,
    counts: GuessCounts, alpha: float, strings: Strings | None,
) -> Control:  # fmt: skip
    """A positive control: a twin without noise, which nothing protects and of which nothing is kept, judged as the
    real one is: by the same number of guesses, level, claim and tests of the mechanism."""
    coins_M = toss(cfg.audit.canaries.m)
    shorter = replace(plan, steps=control_steps(plan, kind, cfg.audit.canaries.guesses))
    twin = _twin(run, cfg, patients, shorter, kind, coins_M, strings, silent=True)
    scores_M = twin.scores()
    found = evaluated(_guessed(scores_M, coins_M, counts), claim, alpha)
    judged = {"kind": kind, **found, "mechanism": [check.to_json() for check in twin.mechanism.checks()]}
    seen = against({"proven_epsilon": claim.epsilon, "alpha_of_each_test": alpha, "twins": [judged]})
    called_in = _guessed(scores_M, coins_M, GuessCounts(counts.included, 0))
    read = kind not in DIRAC or called_in.correct == called_in.guessed
    return of_noiseless(kind, shorter.steps, seen, found, read)


def _twin(
    run: Run, cfg: Config, patients: PatientDataset, plan: PrivacyPlan, kind: str, coins_M: np.ndarray,
    strings: Strings | None, silent: bool = False,
) -> Twin:  # fmt: skip
    trainer = replace(run.config.trainer, device=cfg.trainer.device, threads=cfg.trainer.threads)
    return Twin(
        _model(run), kind, coins_M, plan, trainer, patients, choose_device(trainer), silent=silent, strings=strings,
        samples=cfg.audit.canaries.samples,
    )  # fmt: skip


def _model(run: Run) -> GenerativeModel:
    """The run's model as it was before its first step."""
    return Recipe.of(run).networks()


def verdict_of(record: Mapping[str, Any]) -> str:
    """One sentence, the gravest first."""
    found = against(record)
    if found:
        word = found[0][0]
        return f"{word}: {'; '.join(seen for other, seen in found if other == word)}: do not release"
    controls = record["controls"]
    missed = [control["detail"] for control in controls if control["required"] and not control["passed"]]
    if missed:
        return f"{INCONCLUSIVE}: {'; '.join(missed)}"
    if not controls:
        return f"{INCONCLUSIVE}: no positive control was run"
    mute = [f"; {control['detail']}" for control in controls if not control["passed"]]
    return f"NO VIOLATION FOUND (by these canaries{''.join(mute)})"
