"""What `imgsynth verify` checked and found, as a file: JSON for machines, HTML for people. No time, no path."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgsynth.files import write_json, write_text
from imgsynth.release.rounding import round_up
from imgsynth.release.verify import Examined
from imgsynth.types import Fault, InputError

KINDS = (".json", ".html")


def write_verify_report(path: Path, found: Examined, local: bool = False) -> Path:
    """Write ``found`` to ``path``, by its ending. ``local``: it was measured on patients too, and must stay.

    Raises InputError for another ending.
    """
    value = found.to_json() | {"local_only": local}
    if path.suffix == ".json":
        return write_json(path, value)
    if path.suffix != ".html":
        raise InputError(
            Fault("--report", str(path), f"a file that ends in {' or '.join(KINDS)}", "--report checked.html")
        )
    pages = Environment(
        loader=PackageLoader("imgsynth.release"), undefined=StrictUndefined, autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    pages.filters["up"] = lambda epsilon: "∞" if epsilon is None else round_up(epsilon)
    return write_text(path, pages.get_template("verify.html.j2").render(**value))
