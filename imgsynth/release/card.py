"""The privacy card: what is proven about a release, what an audit found, and what neither covers."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgsynth import __version__
from imgsynth.files import read_json, write_json, write_text
from imgsynth.privacy import accounting
from imgsynth.privacy.budget import describe
from imgsynth.privacy.cross_check import cross_check
from imgsynth.privacy.entries import composed
from imgsynth.privacy.events import event_to_json, training_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.release.attacker import members_found_at_most
from imgsynth.release.card_audit import NOT_RELEASABLE, VERDICTS, audit_part
from imgsynth.release.card_text import (
    WATERMARKED,
    burned_in_text,
    chosen_by,
    counted_unit,
    declared_public,
    group_of_two,
    not_covered,
    unit_warning,
    weak_proof,
)
from imgsynth.release.metadata import note_of, table_limits
from imgsynth.release.rounding import round_up
from imgsynth.release.supplied_masks import note_of as masks_note
from imgsynth.release.watermark import KEY
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import Run

FORMAT = "imgsynth-privacy-card-1"
CARD_JSON = "privacy_card.json"
CARD_MD = "privacy_card.md"

ADJACENCY = {
    "patient": "add or remove all data of one patient",
    "case": "add or remove all data filed under one case id",
    "image": "add or remove one image",
}


def build_card(
    plan: PrivacyPlan, labels: str, ledger: dict[str, Any], audit: dict[str, Any], burned_in: str | None = None,
    metadata: dict[str, Any] | None = None, watermark: float | None = None, masks: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The card as a JSON-able dict; null ε means ∞. A function of public facts, but for the marked ``audit`` part.

    ``labels`` is sample.labels, ``ledger`` what ``cohort_ledger`` returned, ``audit`` what ``audit_part`` returned,
    ``burned_in`` is sample.burned_in, ``metadata`` the record of the table of synthetic patients (``metadata.py``),
    ``watermark`` is release.watermark, ``masks`` the record of masks that were supplied (``supplied_masks.py``).
    """
    reasons = not_releasable_because(plan, audit, ledger)
    return {
        "format": FORMAT,
        "imgsynth": __version__,
        "releasable": not reasons,
        "not_releasable_because": reasons,
        "statement": plan.statement(),
        "unit": plan.unit,
        "patient_ids": plan.ids,
        "counted_unit": counted_unit(plan),
        "unit_warning": unit_warning(plan),
        "weak_proof": weak_proof(plan.epsilon),
        "adjacency": ADJACENCY[counted_unit(plan)],
        "guarantee": guarantee(plan),
        "weights_chosen": chosen_by(plan),
        "accountants_training_only": dict(accountants(plan)),
        "plan": plan.to_json(),
        "event": event_to_json(plan.event()),
        "cohort_ledger": ledger,
        "audit": audit,
        "any_attacker_at_most": [
            {"false_alarm_rate": rate, "members_found_at_most": found}
            for rate, found in members_found_at_most(plan).items()
        ],
        "two_units": _two_units(plan),
        "synthetic_labels": labels,
        "released_metadata": metadata and metadata | {"note": note_of(metadata, plan)},
        "supplied_masks": masks and masks | {"note": masks_note(masks)},
        "burned_in_annotation": judged_burned_in(plan, burned_in),
        "burned_in_note": burned_in_text(judged_burned_in(plan, burned_in), plan.releasable),
        "watermark": None if watermark is None else {"strength": watermark, "key": KEY, "note": WATERMARKED},
        "declared_public": declared_public(plan, labels),
        "not_covered": [
            *([masks_note(masks)] if masks else []),
            *table_limits(metadata, plan),
            *not_covered(plan, labels),
        ],
    }


def judged_burned_in(plan: PrivacyPlan, declared: str | None) -> Literal["YES", "NO"] | None:
    """Burned In Annotation (0028,0301): what the custodian declared after looking, None where nobody did.

    Absent says "may or may not" (PS3.3 C.7.6.1). A guarantee for each patient says nothing of text that many share.
    Where the plan protects nobody it is YES whatever was declared: a copy of one patient's text cannot be excluded.
    """
    if not plan.releasable:
        return "YES"
    if declared is None:
        return None
    return "NO" if declared == "NO" else "YES"


@lru_cache(maxsize=64)
def accountants(plan: PrivacyPlan) -> dict[str, float | None]:
    """``cross_check``, which takes a second, once for each plan."""
    return cross_check(plan)


def guarantee(plan: PrivacyPlan) -> dict[str, Any]:
    """The proven upper bounds at δ; ε null is ∞."""
    training = training_event(plan.sampling_rate, plan.noise_multiplier, plan.steps)
    alone = accounting.epsilon(training, plan.delta) if plan.mode == "dp" else math.inf
    return {
        "epsilon": _finite(plan.epsilon),
        "epsilon_training": _finite(alone),
        "epsilon_histogram": plan.histogram_epsilon,
        "epsilon_selection": 0.0 if plan.selection is None else plan.selection.epsilon,
        "delta": plan.delta,
        "epsilon_queries": {
            query.name: _finite(accounting.epsilon(plan.for_query(query.name).event(), plan.delta))
            for query in plan.queries
        },
    }


def cohort_ledger(run: Run) -> dict[str, Any]:
    """ε of everything that was run on the cohort *under its name*, as the ledger has it now. Names no cohort, no run.

    Who else read its patients, under other names, is left out: that depends on who is in which cohort, and so on single
    patients. ``local_ledger`` has it. ``runs`` is None, and with it the rest, where ``data.cohort`` is not set: which
    runs had the same content then depends on every patient, too. With runs, an ``epsilon`` of None is ∞.
    """
    ledger, name = Ledger(run.config.privacy.ledger), run.config.data.cohort
    entries = ledger.entries(_cohort(run))
    own = RunFolder(run.root).run_id()
    return {
        "epsilon": _finite(composed(entries, run.plan.delta)) if entries and name else None,
        "delta": run.plan.delta,
        "runs": len(entries) if name else None,
        "this_run_recorded": any(entry.run == own for entry in entries),
        "budget_epsilon": ledger.budget(name) if name else None,
    }


def local_ledger(run: Run) -> dict[str, Any]:
    """ε for the patient of the cohort on whom most was spent, under whatever name, as the ledger has it now. LOCAL
    ONLY: it tells who is in which cohort."""
    ledger, cohort = Ledger(run.config.privacy.ledger), _cohort(run)
    return {
        "epsilon": _finite(ledger.composed_epsilon(cohort, run.plan.delta)),
        "delta": run.plan.delta,
        "runs": len(ledger.composed_entries(cohort, run.plan.delta)),
        "shared": [describe(one) for one in ledger.shared(cohort)],
    }


def _cohort(run: Run) -> str:
    return run.config.data.cohort or run.manifest.fingerprint


def not_releasable_because(plan: PrivacyPlan, audit: dict[str, Any], ledger: dict[str, Any]) -> list[str]:
    """Why this release must not leave; empty when nothing stands against it but the custodian's judgement of ε."""
    reasons = []
    if plan.mode == "none":
        reasons.append("training was not differentially private (privacy.mode=none): ε = ∞, images may copy patients")
    elif not math.isfinite(plan.epsilon):
        reasons.append("the noise multiplier is 0: ε = ∞, images may copy patients")
    if plan.seeded:
        reasons.append(
            "noise and sampling came from a seed (privacy.seed): whoever knows or guesses it can remove them"
        )
    if not ledger["this_run_recorded"]:
        reasons.append(
            "the cohort's privacy ledger does not have this run: what was spent on these patients is not known "
            "(restore the ledger, or set privacy.ledger to the folder that the run was trained with)"
        )
    if audit["verdict"] in NOT_RELEASABLE:
        reasons.append(NOT_RELEASABLE[audit["verdict"]].format(bound=audit["epsilon_lower_bound"]))
    return reasons


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write ``privacy_card.json`` and ``.md`` into ``folder``."""
    write_json(folder / CARD_JSON, card)
    write_text(folder / CARD_MD, card_markdown(card))


def card_markdown(card: dict[str, Any]) -> str:
    """The card for people to read: everything in it comes from ``card``."""
    pages = Environment(
        loader=PackageLoader("imgsynth.release"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters["up"] = lambda value: "∞" if value is None else round_up(value)
    return pages.get_template("privacy_card.md.j2").render(card=card, verdicts=VERDICTS)


def fresh_card(run: Run) -> dict[str, Any]:
    """The card that the run deserves now: by its plan, its audit.json and the ledger, whatever a card on disk says.

    Of a release's own card only what the run does not know is taken: how labels and the table of patients were drawn,
    what was declared of text in the pixels, and the watermark.
    """
    path = run.root / "release" / CARD_JSON
    labels, burned_in = run.config.sample.labels, run.config.sample.burned_in
    watermark, table, masks = run.config.release.watermark, None, None
    if path.is_file():
        on_disk = read_json(path)
        labels, burned_in = on_disk["synthetic_labels"], on_disk["burned_in_annotation"]
        table, masks = on_disk.get("released_metadata"), on_disk.get("supplied_masks")
        watermark = (on_disk.get("watermark") or {}).get("strength")
    audit = audit_part(run.root, run.root / "release")
    return build_card(run.plan, labels, cohort_ledger(run), audit, burned_in, table, watermark, masks)


def _two_units(plan: PrivacyPlan) -> dict[str, float] | None:
    pair = group_of_two(plan.epsilon, plan.delta)
    return None if pair is None else {"epsilon": pair[0], "delta": pair[1]}


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None
