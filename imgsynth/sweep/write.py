"""curve.json, .csv, .md, .html and a figure for each cohort, from the cells' own files alone."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgsynth import __version__
from imgsynth.files import write_bytes, write_json, write_text
from imgsynth.report.figures import data_uri
from imgsynth.sweep.cells import SweepFolder, read_index
from imgsynth.sweep.combine import ceilings, group, rivals
from imgsynth.sweep.figure import figure_of, png, svg
from imgsynth.sweep.results import row_of
from imgsynth.sweep.spend import CHOICE
from imgsynth.sweep.tables import about, csv_text, markdown, name_of, table_of

FORMAT = "imgsynth-curve-1"
SCOPE = "LOCAL ONLY: measured on real patients without noise, not covered by any ε"
HOW_TO_READ = (
    "A value is the mean over repetitions, its interval 95 % over test patients and repetitions together: half-width "
    "√(h² + (t s/√R)²), h over patients, t s/√R over R trainings; of one repetition over patients alone. All runs of "
    "a cohort are tested on the same patients. Classifiers are trained on synthetic images and tested on real ones; "
    "real data is the ceiling, and of metrics the real-versus-real floor. The DP-SGD network is trained on the "
    "patients, the trivial generator is their noised class means (of pairs, the noised mean mask is the answer for "
    "everybody), all at the same ε. The audited bound is the largest "
    "of the repetitions, in brackets the smallest and the largest: each is too high with probability 5 % at most, the "
    "largest of R with R times that; a small bound says only that this attack found no more."
)


def curve_of(folder: SweepFolder) -> dict[str, Any]:
    """All that the sweep in ``folder`` came to, as its files say now. JSON-able; ε None is ∞. LOCAL."""
    index = read_index(folder)
    rows = [row_of(folder, cell) for cell in index.cells]
    return {
        "format": FORMAT,
        "scope": SCOPE,
        "how_to_read": HOW_TO_READ,
        "choice": CHOICE,
        "overrides": index.overrides,
        "cohorts": index.cohorts,
        "cells": rows,
        "groups": group(rows),
        "rivals": rivals(rows),
        "ceilings": ceilings(rows),
    }


def write_curve(folder: SweepFolder) -> Path:
    """Make every table and figure anew; the page. Each appears whole or not at all."""
    curve = curve_of(folder)
    write_json(folder.root / "curve.json", curve)
    write_text(folder.root / "curve.csv", csv_text(curve))
    write_text(folder.root / "curve.md", markdown(curve))
    pictures = {}
    for cohort in curve["cohorts"]:
        if (figure := figure_of(cohort, curve)) is not None:
            write_bytes(folder.root / f"curve-{cohort}.png", png(figure))
            pictures[cohort] = svg(figure)
            write_bytes(folder.root / f"curve-{cohort}.svg", pictures[cohort])
    return write_text(folder.root / "curve.html", page(curve, pictures))


def page(curve: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """One self-contained file, with the styles of the report."""
    pages = Environment(loader=PackageLoader("imgsynth.sweep"), undefined=StrictUndefined, autoescape=True,
                        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    style = resources.files("imgsynth.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    parts = [
        {"cohort": cohort, "about": about(facts), "public": facts["public"], "table": table_of(cohort, curve),
         "figure": data_uri(pictures[cohort], "image/svg+xml") if cohort in pictures else None}
        for cohort, facts in curve["cohorts"].items()
    ]  # fmt: skip
    failed = [(name_of(row), row["why"]) for row in curve["cells"] if row["state"] == "failed"]
    waiting = [name_of(row) for row in curve["cells"] if row["state"] == "unfinished"]
    return pages.get_template("curve.html.j2").render(
        style=style, curve=curve, parts=parts, failed=failed, waiting=waiting, version=__version__
    )
