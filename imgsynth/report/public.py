"""What anyone may see of a run: outputs of the private mechanism and facts that are declared public."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imgsynth.files import read_json
from imgsynth.release.card import CARD_JSON, VERDICTS, audit_part, build_card, cohort_ledger
from imgsynth.release.documents import provenance
from imgsynth.report import figures
from imgsynth.report.pictures import release_sheet
from imgsynth.training.metrics import read_rows
from imgsynth.training.propose import honest_word
from imgsynth.training.run import Run

# Read nothing else here: the manifest, evaluation.json, audit.json and everything in local/ is measured on patients.


def public_part(run: Run) -> dict[str, Any]:
    """Everything that the public report is made of. Numbers in it are of the plan, the noisy weights or the release."""
    release = run.root / "release"
    has_release = (release / CARD_JSON).is_file()
    card = (
        read_json(release / CARD_JSON)
        if has_release
        else build_card(run.plan, run.config.sample.labels, cohort_ledger(run), audit_part(run.root))
    )
    plan = run.plan
    epsilon = card["guarantee"]["epsilon"]
    return {
        "card": card,
        "verdicts": VERDICTS,
        "word": honest_word(plan.n, epsilon, plan.noise_multiplier, max(1, round(plan.normaliser))),
        "grid": run.grid,
        "classes": run.manifest.classes,
        "provenance": provenance(run),
        "steps_done": run.step,
        "curves": figures.curves(read_rows(run.root / "metrics.jsonl"), leave_out=("noise_multiplier",)),
        "synthetic": figures.png_uri(release_sheet(release)) if has_release else None,
        "released": len(read_json(release / "synthetic_cohort.json")["patients"]) if has_release else 0,
    }
