"""Audit a run: attack, controls, copy check, verdict, into audit.json. A private-data output: it stays local."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, Tools, full_name
from imgsynth.audit.beyond import beyond_membership
from imgsynth.audit.blind import blind_baseline
from imgsynth.audit.conclude import conclude
from imgsynth.audit.controls import (
    NOT_RUN,
    SAMPLE_ATTACKS,
    Control,
    Response,
    dose_controls,
    missing,
    responses,
)
from imgsynth.audit.copies import extraction, find_copies
from imgsynth.audit.epsilon import MIN_PATIENTS
from imgsynth.audit.evidence import evidence
from imgsynth.audit.leakage import find_leakage
from imgsynth.audit.negative import label_swap, two_holdouts
from imgsynth.audit.overfit import Overfit, overfit_controls, overfit_of, too_few_to_remember
from imgsynth.audit.power import power_of
from imgsynth.audit.references import described, for_audit
from imgsynth.audit.registry import build, settings_faults
from imgsynth.audit.reidentify import reidentify
from imgsynth.audit.risk import Facts, by_group, facts_of, worst_names, worst_patients
from imgsynth.audit.roc import FPR_TARGETS, Roc, auc_interval, tpr_at
from imgsynth.console import each, warn
from imgsynth.files import write_json
from imgsynth.measure.encoders import Encoder, get_encoder
from imgsynth.measure.images import Images
from imgsynth.measure.source import fresh_samples, real_images, watermark_of
from imgsynth.release.audit_record import audited, release_id
from imgsynth.release.canary_record import read_canaries
from imgsynth.release.sample import require_finished
from imgsynth.schema import AuditConfig, Config
from imgsynth.training.run import load_run
from imgsynth.types import Grid, InputError

FORMAT = "imgsynth-audit-1"
MEANING = (
    "A lower bound says what this attack found, not that there is no more to find; a small one is no evidence of "
    "privacy. Whether there is a leak the primary attack alone decides; the others are exploratory, and not corrected "
    "for multiplicity, but for their bounds where these are held against the proven ε."
)

QUERIES = "they are put to all patients once, beside training; canaries test the mechanism of training alone"


def attack_result(
    attack: Attack, in_P: np.ndarray, out_Q: np.ndarray, settings: AuditConfig, delta: float
) -> dict[str, Any]:
    """ROC, AUC, TPR at low FPR and bound on ε of one attack, with intervals over patients."""
    role = "primary" if full_name(attack) == settings.primary else "exploratory"
    if settings.primary is None:
        role = f"one of {len(settings.attacks)}"
    seen = evidence(in_P, out_Q, settings.alpha, delta, np.random.default_rng(settings.seed))
    low, high = auc_interval(seen["auc"], len(in_P), len(out_Q))
    return {
        "name": attack.name,
        "space": attack.space,
        "access": attack.access,
        "role": role,
        **seen,
        "auc_low": low,
        "auc_high": high,
        "tpr_at": {f"{fpr:g}": tpr_at(in_P, out_Q, fpr) for fpr in FPR_TARGETS},
        "roc": Roc.of(in_P, out_Q).to_json(),
    }


@dataclass
class Attacked:
    """What came of the attacks: results, those that ran with members' and non-members' scores, those that did not."""

    results: list[dict[str, Any]] = field(default_factory=list)
    ran: dict[str, tuple[Attack, np.ndarray, np.ndarray]] = field(default_factory=dict)
    not_done: list[dict[str, str]] = field(default_factory=list)


def run_attacks(members: Images, nonmembers: Images, released: Released, tools: Tools, delta: float) -> Attacked:
    """Every attack of audit.attacks; each that cannot be run with its reason."""
    found = Attacked()
    for name in each(tools.settings.attacks, "attacks"):
        attack = build(name, tools)
        try:
            attack.prepare(released)
        except NotApplicable as reason:
            found.not_done.append({"what": f"attack {name}", "why": str(reason)})
            continue
        in_P, out_Q = attack.scores(members), attack.scores(nonmembers)
        found.ran[name] = attack, in_P, out_Q
        found.results.append(attack_result(attack, in_P, out_Q, tools.settings, delta))
    return found


def run_controls(
    found: Attacked, members: Images, nonmembers: Images, released: Released, tools: Tools, delta: float,
    remembering: Sequence[Overfit] = (),
) -> tuple[list[Control], list[Response]]:  # fmt: skip
    """The controls of the attacks that decide (the primary one, or all), and all attacks on samples on leaking
    synthesizers. An attack that could not have seen a leak must not count as silence."""
    settings = tools.settings
    random = np.random.default_rng(settings.seed)
    names = [name for name in ([settings.primary] if settings.primary else settings.attacks) if name in found.ran]
    if not names:
        return [], []
    controls = []
    for name in names:  # before the doses, which prepare the attacks anew
        attack, in_P, out_Q = found.ran[name]
        swapped = label_swap(in_P, out_Q, settings.alpha, settings.alpha / len(names), delta, random)
        for control in (swapped, two_holdouts(attack, nonmembers, out_Q, released, random)):
            controls.append(replace(control, name=f"{control.name}, {name}"))
    features = [tools.encoder.encode(images.x_NC) for images in (members, nonmembers)]
    controls.append(blind_baseline(features[0], members, features[1], nonmembers))
    deceivable = [attack for attack, _, _ in found.ran.values() if attack.access in SAMPLE_ATTACKS]
    doses = responses(deceivable, members, nonmembers, released, random)
    for name in reversed(names):
        own = dose_controls([one for one in doses if one.attack == name])
        own += overfit_controls(build(name, tools), remembering)
        own += too_few_to_remember(name, members, released, settings)
        controls = [*own, *(replace(one, name=f"{one.name}, {name}") for one in missing(own)), *controls]
    return controls, doses


def audit(
    members: Images, nonmembers: Images, released: Released, encoder: Encoder, settings: AuditConfig,
    proven_epsilon: float | None, delta: float, sheet: tuple[Path, Grid] | None = None,
    remembering: Sequence[Overfit] = (), facts: Facts | None = None, shared: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Attack ``released`` with patients that were (``members``) and were not (``nonmembers``) trained on. JSON-able.

    ``proven_epsilon`` is None for a run without a proof (ε = ∞). ``sheet``: where to write the copy check's pictures,
    and the grid they are on. ``remembering``: overfit models for more positive controls. ``facts``: what is known
    of each patient, for the risk by group. ``shared``: a folder for what does not depend on the generator.
    """
    smallest = min(members.n_patients, nonmembers.n_patients)
    found = Attacked()
    controls: list[Control] = []
    doses: list[Response] = []
    if smallest < MIN_PATIENTS:
        why = f"{members.n_patients} members and {nonmembers.n_patients} non-members; it takes {MIN_PATIENTS} of each"
        found.not_done = [{"what": what, "why": why} for what in ("attacks", "ε lower bound", "controls")]
    else:
        tools = Tools(encoder, settings)
        found = run_attacks(members, nonmembers, released, tools, delta)
        if settings.controls:
            controls, doses = run_controls(found, members, nonmembers, released, tools, delta, remembering)
        else:
            controls = [NOT_RUN]
    again = reidentify(released.samples, members, nonmembers, released.reference, settings, shared)
    if "not_done" in again:
        found.not_done.append({"what": "re-identification", "why": again.pop("not_done")})
    copies = find_copies(released.samples, members, nonmembers, settings, sheet)
    if "not_done" in copies:
        found.not_done.append({"what": "copy check", "why": copies.pop("not_done")})
    return conclude({
        "meaning": MEANING,
        "proven_epsilon": proven_epsilon,
        "delta": delta,
        "alpha": settings.alpha,
        "n_members": members.n_patients,
        "n_nonmembers": nonmembers.n_patients,
        "threshold": "chosen on a random half of the patients, errors counted on the other half",
        "primary": settings.primary,
        "encoder": encoder.name,
        "n_synthetic": len(released.samples),
        "n_reference_patients": released.reference.n_patients if released.reference else 0,
        "attacks": found.results,
        "controls": [control.to_json() for control in controls],
        "dose_response": [one.to_json() for one in doses],
        "risk": _risk(found, members, nonmembers, settings, facts or {}, sheet),
        "copies": copies,
        "reidentification": again,
        "not_done": found.not_done,
    }, None)  # fmt: skip


def _risk(
    found: Attacked, members: Images, nonmembers: Images, settings: AuditConfig, facts: Facts,
    sheet: tuple[Path, Grid] | None,
) -> dict[str, Any]:  # fmt: skip
    """By group and of single patients, whose names go into a file of their own beside the sheet."""
    name = settings.primary or settings.attacks[0]
    if name not in found.ran:
        return {}
    _, in_P, out_Q = found.ran[name]
    if sheet is not None:
        write_json(sheet[0].with_name("patients_at_risk.json"), worst_names(in_P, members.names_P))
    groups = by_group(in_P, members.names_P, out_Q, nonmembers.names_P, facts, settings.alpha)
    return {"attack": name, **groups, "worst": worst_patients(in_P, out_Q)}


def _too_few(members: Images, nonmembers: Images, settings: AuditConfig, delta: float) -> str | None:
    """Why so few patients cannot show anything, so that no model is trained for comparison; None where they can."""
    each = settings.alpha if settings.primary else settings.alpha / len(settings.attacks)
    power = power_of(members.n_patients, nonmembers.n_patients, each, delta, split=True)
    if min(members.n_patients, nonmembers.n_patients) >= MIN_PATIENTS and power.epsilon is not None:
        return None
    warn(f"{power.sentence()} The verdict will be INCONCLUSIVE.")
    return f"{members.n_patients} members and {nonmembers.n_patients} non-members: no leak, however large, would show"


def audit_run(run_dir: Path, cfg: Config, extra_transforms: Sequence[Any] = ()) -> dict[str, Any]:
    """Audit the run in ``run_dir``; write ``audit.json`` and ``local/copy_sheet.png`` there (each whole or not at all).

    Members are train patients, non-members the holdout patients, that were set aside before training at random, and
    the attacker's reference patients are those of the test split.

    ``extra_transforms`` are those of ``cfg.preprocess.extra``, instantiated.

    Raises:
        InputError: if the encoder or the attacks' names are wrong (before anything is loaded), or the run cannot be
            read or is not trained to its end.
    """
    chosen = cfg.encoder
    encoder = get_encoder(chosen.name, len(cfg.preprocess.shape), chosen.seed, chosen.path, chosen.network)
    encoder.folder = Path(cfg.evaluate.shared or run_dir / "local") / "features"
    if faults := settings_faults(cfg.audit):
        raise InputError(*faults)
    run = load_run(run_dir)
    require_finished(run)
    of = audited(run)
    settings = cfg.audit
    members = real_images(run, "train", settings.n, settings.seed, extra_transforms)
    nonmembers = real_images(run, "holdout", settings.n, settings.seed, extra_transforms)
    too_few = _too_few(members, nonmembers, settings, run.plan.delta)
    released = Released(
        samples=fresh_samples(run, settings.samples or 4 * settings.n, settings.seed),
        reference=real_images(run, "test", settings.n, settings.seed, extra_transforms),
        model=run.model,
        run=run,
        references=() if too_few else for_audit(run, members, nonmembers, settings, extra_transforms),
    )
    proven = run.plan.epsilon if math.isfinite(run.plan.epsilon) else None
    sheet = run_dir / "local" / "copy_sheet.png", run.grid
    remembering = [] if too_few else overfit_of(run, members, released, settings, extra_transforms)
    result = audit(
        members, nonmembers, released, encoder, settings, proven, run.plan.delta, sheet, remembering,
        facts_of(run.manifest), None if cfg.evaluate.shared is None else Path(cfg.evaluate.shared) / "reidentification",
    )  # fmt: skip
    result["watermark"] = watermark_of(run)
    result["references"] = described(released.references)
    if too_few and (settings.references or settings.overfit_steps):
        result["not_done"].append({"what": "reference and overfit models", "why": too_few})
    result["beyond_membership"] = beyond_membership(members, nonmembers, released, Tools(encoder, settings))
    many = fresh_samples(run, settings.extraction_samples, settings.seed + 1)
    result["copies"]["extraction"] = extraction(many, members, nonmembers, np.random.default_rng(settings.seed))
    of["release"] = release_id(run_dir / "release")  # before the search: one that is written meanwhile is another
    result["leakage"] = find_leakage(run_dir, run.manifest, cfg, released.samples)
    if "not_done" in result["leakage"]["pixels"]:
        result["not_done"].append({"what": "text in pixels", "why": result["leakage"]["pixels"]["not_done"]})
    if "not_done" in result["copies"]["extraction"]:
        result["not_done"].append({"what": "extraction", "why": result["copies"]["extraction"]["not_done"]})
    if run.plan.queries:
        names = ", ".join(query.name for query in run.plan.queries)
        result["not_done"].append({"what": f"noise and clipping of queries ({names})", "why": QUERIES})
    result = conclude(result, *read_canaries(run_dir))
    header = {
        "format": FORMAT,
        "scope": "local",
        "of": of,
        "unit": run.manifest.unit,
        "cohort_notes": list(run.manifest.notes),
    }
    result = header | result
    write_json(run_dir / "audit.json", result)
    return result
