"""The report: report.html, whole, which must stay; and report_public.html, which may be shown to anyone."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgsynth import __version__
from imgsynth.audit.leakage import source_strings, write_searched
from imgsynth.audit.leakage.sought import Sought
from imgsynth.files import write_text
from imgsynth.release.rounding import outward_digits, outward_percent, round_up
from imgsynth.report.audit_details import down, share
from imgsynth.report.glossary import GLOSSARY
from imgsynth.report.local import local_part
from imgsynth.report.public import made_by_the_mechanism, public_part
from imgsynth.training.run import load_run


def write_report(run_dir: Path, sought: Sought | None = None) -> Path:
    """Write ``report.html`` and ``report_public.html`` into ``run_dir``; returns the former.

    Each is one self-contained file: styles and pictures are in it, no script, nothing is fetched. The public one is
    rendered from ``public_part`` alone, so that no template mistake can put anything else into it. Evaluation, audit
    and release may be missing; the page then says which command makes them.

    The public one is searched for the strings of the source, ``sought`` (None: they are collected here), before it has
    its name. Raises InputError where there is no run, and CheckFailed, the whole report being written, where a string
    is found; then there is no public report.
    """
    run = load_run(Path(run_dir))
    if sought is None:
        sought, _ = source_strings(run.manifest, run.config)
    public = public_part(run)
    whole = public | made_by_the_mechanism(run)
    path = write_text(run.root / "report.html", render(whole, local_part(run)))
    write_searched(run.root / "report_public.html", render(public, None), sought)
    return path


def render(public: dict[str, Any], local: dict[str, Any] | None) -> str:
    """The page; ``local`` None gives the public one."""
    pages = Environment(
        loader=PackageLoader("imgsynth.report"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(up=up, num=num, band=band, down=down, share=share, ends=ends, percent=outward_percent)
    style = resources.files("imgsynth.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return pages.get_template("report.html.j2").render(
        **public, local=local, style=style, glossary=GLOSSARY, version=__version__
    )


def up(value: float | None) -> str:
    """An upper bound, rounded up; ∞ for None."""
    return "∞" if value is None else round_up(value)


def num(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def band(entry: dict[str, Any] | None) -> str:
    """A value with its interval."""
    if entry is None or entry["value"] is None:
        return "–"
    return f"{num(entry['value'])} {ends(entry['low'], entry['high'])}"


def ends(low: float | None, high: float | None) -> str:
    """An interval, rounded outward."""
    return "[–, –]" if low is None or high is None else outward_digits(low, high)
