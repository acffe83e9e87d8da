"""What must stay where the patients are: the cohort, real images, and everything measured on them without noise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from imgsynth.audit.conclude import summary
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.explain.run import explained_locally
from imgsynth.files import read_json
from imgsynth.measure.source import real_images
from imgsynth.release.audit_record import refused
from imgsynth.release.canary_record import read_canaries
from imgsynth.release.card import local_ledger
from imgsynth.release.card_text import counted_unit
from imgsynth.report import figures
from imgsynth.report.audit_part import audit_part
from imgsynth.report.pictures import SHOWN, real_sheet
from imgsynth.training.metrics import read_rows
from imgsynth.training.run import Run
from imgsynth.types import SPLITS, InputError


def local_part(run: Run) -> dict[str, Any]:
    """Everything that only the whole report has. What is missing is None, and the page says how to get it."""
    evaluation, audit = _json(run.root / "evaluation.json"), _json(run.root / "audit.json")
    if audit is not None and refused(audit, run.root):  # the card says why
        audit = None
    canaries, not_taken = read_canaries(run.root)
    sheet = run.root / "local" / "copy_sheet.png"
    return {
        "output": str(run.root),
        "cohort": cohort_tables(run.manifest),
        "ledger": local_ledger(run),
        "inspection": _json(run.root / "inspect.json"),
        "real": _real(run),
        "curves": figures.curves(read_rows(run.root / "local" / "metrics.jsonl")),
        "evaluation": evaluation,
        "intervals": figures.intervals(evaluation["metrics"]) if evaluation else None,
        "histogram": figures.histogram(evaluation["histogram"]) if evaluation and evaluation["histogram"] else None,
        "audit": audit,
        "audited": audit_part(audit, counted_unit(run.plan)) if audit else None,
        "canaries": summary(canaries) if canaries else None,
        "canaries_not_taken": not_taken,
        "explained": figures.with_pictures(explained_locally(run)),
        "copy_sheet": figures.data_uri(sheet.read_bytes(), "image/png") if audit and sheet.is_file() else None,
    }


def cohort_tables(manifest: Manifest) -> dict[str, Any]:
    """Exact counts of patients by split, and of each fact that the manifest knows. Private data without noise."""
    by_split = []
    for split in SPLITS:
        items = [item for item in manifest.items if item.split == split]
        counts = manifest.class_counts(split)
        by_split.append(
            {"split": split, "patients": len({i.patient for i in items}), "images": len(items), "classes": counts}
        )
    facts = {
        "sex": _by_patient(manifest, "sex"),
        "age": _by_patient(manifest, "age_band"),
        "site": _by_patient(manifest, "site"),
    }
    shapes = Counter((" × ".join(map(str, i.shape)), " × ".join(f"{s:g}" for s in i.spacing)) for i in manifest.items)
    return {
        "unit": manifest.unit,
        "classes": manifest.classes,
        "by_split": by_split,
        "facts": {name: counts for name, counts in facts.items() if set(counts) != {"unknown"}},
        "shapes": [{"shape": shape, "spacing": spacing, "images": n} for (shape, spacing), n in shapes.most_common(8)],
        "more_shapes": max(0, len(shapes) - 8),
        "notes": manifest.notes,
    }


def _by_patient(manifest: Manifest, field: str) -> dict[str, int]:
    first: dict[str, Item] = {}
    for item in manifest.items:
        first.setdefault(item.patient, item)
    return dict(sorted(Counter(getattr(item, field) or "unknown" for item in first.values()).items()))


def _real(run: Run) -> str | None:
    """A sheet of real test images; None where the images cannot be read any more."""
    try:
        real = real_images(run, "test", 4 * SHOWN, seed=0)
    except (InputError, OSError):
        return None
    return figures.png_uri(real_sheet(real, run.grid, run.manifest.classes)) if len(real) else None


def _json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
