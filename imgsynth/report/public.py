"""What anyone may see of a run: outputs of the private mechanism and facts that are declared public."""

from __future__ import annotations

from typing import Any

from imgsynth.explain.run import explained_alone
from imgsynth.files import read_json
from imgsynth.release.card import CARD_JSON, fresh_card
from imgsynth.release.card_audit import VERDICTS
from imgsynth.release.patients import COHORT_JSON
from imgsynth.release.provenance import provenance
from imgsynth.release.rounding import round_up
from imgsynth.report import figures
from imgsynth.report.pictures import release_sheet
from imgsynth.training.metrics import read_rows
from imgsynth.training.propose import honest_word
from imgsynth.training.run import Run

# Read nothing else here: the manifest, evaluation.json, audit.json and everything in local/ is measured on patients.

LEFT_OUT = {"curves": None, "synthetic": None, "explained": None}


def public_part(run: Run) -> dict[str, Any]:
    """Everything that the public report is made of. Numbers in it are of the plan, the noisy weights or the release.

    Where the run is not releasable (no noise, a known seed, an audit that contradicts the proof) its images and
    training curves are as private as the patients, and are left out.
    """
    release, plan = run.root / "release", run.plan
    card = fresh_card(run)
    epsilon = card["guarantee"]["epsilon"]
    stated = None if epsilon is None else float(round_up(epsilon))
    summary = run.config.trainer.optimizer == "summary"
    batch = max(1, round(plan.normaliser))
    facts = {
        "card": card,
        "verdicts": VERDICTS,
        "word": honest_word(plan.n, stated, plan.gradient_noise_multiplier, batch, plan.unit, summary),
        "grid": run.grid,
        "classes": run.manifest.classes,
        "provenance": provenance(run),
        "steps_done": run.step,
        "released": len(read_json(release / COHORT_JSON)["patients"]) if has_release(run) else 0,
    }
    return facts | (made_by_the_mechanism(run) if card["releasable"] else LEFT_OUT)


def made_by_the_mechanism(run: Run) -> dict[str, Any]:
    """Training curves, a sheet of the release, the generator explained: as public as the mechanism is private."""
    return {
        "curves": figures.curves(read_rows(run.root / "metrics.jsonl"), leave_out=("noise_multiplier",)),
        "synthetic": figures.png_uri(release_sheet(run.root / "release")) if has_release(run) else None,
        "explained": figures.with_pictures(explained_alone(run)),
    }


def has_release(run: Run) -> bool:
    return (run.root / "release" / CARD_JSON).is_file()
