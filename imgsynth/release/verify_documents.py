"""Do the documents of a release say what card, provenance and cohort give? They are written anew, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imgsynth import __version__
from imgsynth.files import read_json
from imgsynth.release.documents import documents
from imgsynth.release.facts import Facts
from imgsynth.release.sbom import SBOM
from imgsynth.types import Fault

REMEDY = "do not rely on this document; get the release again from whoever published it"
_BILL = {"$schema", "bomFormat", "specVersion", "version", "metadata", "components", "dependencies"}
_COMPONENT = {"type", "bom-ref", "name", "version", "purl", "licenses"}


def document_faults(folder: Path, facts: Facts) -> Iterator[Fault]:
    """A release of another version of imgsynth must have its documents; their words may be others."""
    for name, text in documents(facts).items():
        path = folder / name
        if not path.is_file():
            yield Fault(name, "no such file", "a document of the release", REMEDY)
        elif facts.made["imgsynth"] == __version__ and path.read_text(encoding="utf-8") != text:
            yield Fault(name, "another text", "the one that card, provenance and cohort give", REMEDY)
    yield from _bill_faults(folder, facts)


def _bill_faults(folder: Path, facts: Facts) -> Iterator[Fault]:
    path = folder / SBOM
    if not path.is_file():
        yield Fault(SBOM, "no such file", "the bill of materials", REMEDY)
        return
    bill: dict[str, Any] = read_json(path)
    version = bill["metadata"]["component"]["version"]
    if bill.get("bomFormat") != "CycloneDX" or version != facts.made["imgsynth"]:
        yield Fault(
            SBOM, f"{bill.get('bomFormat')} of imgsynth {version}", f"of imgsynth {facts.made['imgsynth']}", REMEDY
        )
    more = set(bill) - _BILL | set(bill["metadata"]) - {"component"}
    more |= {key for component in bill["components"] for key in component.keys() - _COMPONENT}
    if more:
        yield Fault(SBOM, f"{', '.join(sorted(more))}", "names, versions and licences of packages alone", REMEDY)
    torch = [part["version"] for part in bill["components"] if part["name"] == "torch"]
    if torch != [facts.made["torch"]]:
        yield Fault(f"{SBOM}: torch", str(torch), f"{facts.made['torch']}, as the provenance says", REMEDY)
