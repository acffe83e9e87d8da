"""The page of ``imgsynth inspect``: findings, what was left out, who is in the cohort, and pictures. LOCAL ONLY."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgsynth import __version__
from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.excluded import write_excluded
from imgsynth.cohort.preflight import Preflight
from imgsynth.files import write_json, write_text

PAGE, TABLE, FACTS = "inspect.html", "excluded.csv", "inspect.json"
PICTURES = 48  # in the page: images of errors and warnings first, at most half of them
LISTED = 200  # files that were left out; excluded.csv has them all


def write_inspection(folder: Path, facts: dict[str, Any], found: Preflight, scans: Sequence[Scan]) -> Path:
    """Write ``inspect.json``, ``inspect.html`` and ``excluded.csv`` into ``folder``; returns the first.

    The page is one self-contained file: no script, nothing is fetched. ``facts`` are what ``inspect_cohort`` found, or
    less where the cohort is unusable; ``scans`` are those that ``found.looks`` are of.
    """
    write_excluded(folder / TABLE, found.account.excluded)
    write_text(folder / PAGE, render_inspection(facts, found, scans))
    return write_json(folder / FACTS, facts | found.to_json())


def render_inspection(facts: dict[str, Any], found: Preflight, scans: Sequence[Scan]) -> str:
    pages = Environment(
        loader=PackageLoader("imgsynth.report"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("imgsynth.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return pages.get_template("inspect.html.j2").render(
        facts=facts,
        **found.to_json(),
        excluded=found.account.excluded[:LISTED],
        pictures=_pictures(found, scans),
        style=style,
        version=__version__,
    )


def _pictures(found: Preflight, scans: Sequence[Scan]) -> list[dict[str, Any]]:
    """Middle slices: of images that errors and warnings name, then of others, evenly spread."""
    number = {scan.names[0]: n for n, scan in enumerate(scans)}
    marks: dict[int, list[tuple[str, str]]] = {}
    for one in found.findings:
        for place in one.where if one.severity != "note" else ():
            for name in place.split(" and "):
                if name in number:
                    marks.setdefault(number[name], []).append((one.severity, one.code))
    shown = [n for n in range(len(scans)) if found.looks[n].thumbnail]
    doubtful = [n for n in shown if n in marks][: PICTURES // 2]
    others = [n for n in shown if n not in marks]
    chosen = doubtful + others[:: max(1, -(-len(others) // (PICTURES - len(doubtful))))]
    return [
        {"name": scans[n].names[0], "patient": scans[n].patient or "", "marks": list(dict.fromkeys(marks.get(n, []))),
         "uri": f"data:image/png;base64,{found.looks[n].thumbnail}"}
        for n in chosen
    ]  # fmt: skip
