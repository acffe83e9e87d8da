"""What people read beside the images, and what machines read about them: functions of the release's own facts.

Privacy card, provenance and cohort table are written first; everything here follows from them, so that whoever has the
release alone can write it again and compare (``verify_documents``).
"""

from __future__ import annotations

from pathlib import Path

import jinja2

from imgsynth import __version__
from imgsynth.files import write_text
from imgsynth.release import sentences
from imgsynth.release.bids import bids_documents, structures_table
from imgsynth.release.citation import citation
from imgsynth.release.croissant import croissant
from imgsynth.release.facts import Facts, facts_of
from imgsynth.release.licences import LICENSE, licence_url, license_document

README = "README.md"
DATASHEET = "datasheet.md"
MODEL_CARD = "model_card.md"
CROISSANT = "croissant.json"
CITATION = "CITATION.cff"
FACES = {
    None: "Nobody has declared whether the source's images show faces",
    True: "The source's images are declared to show no faces (removed, or skulls stripped)",
    False: "The source's images are declared to show faces",
}


def documents(facts: Facts) -> dict[str, str]:
    """Every document that follows from ``facts``: its path in the release, and its text."""
    found = {
        README: _page("README.md.j2", facts),
        DATASHEET: _page("datasheet.md.j2", facts),
        MODEL_CARD: _page("model_card.md.j2", facts),
        LICENSE: license_document(facts.answers, facts.made["licence_text"]),
        CROISSANT: croissant(facts),
    }
    if (cited := citation(facts)) is not None:
        found[CITATION] = cited
    if facts.suffix and "nifti" in facts.formats:
        of_bids = bids_documents(facts.patients, facts.provenance.derivation, facts.answers, facts.suffix)
        found |= {f"nifti/{name}": text for name, text in of_bids.items()}
    if facts.grid.structures and "nifti" in facts.formats:
        name, text = structures_table(facts.grid.structures, facts.suffix)
        found[f"nifti/{name}"] = text
    return found


def write_documents(folder: Path) -> None:
    """Write them into the release in ``folder``, whose privacy card, provenance and cohort are there."""
    for name, text in documents(facts_of(folder)).items():
        write_text(folder / name, text)


def _page(template: str, facts: Facts) -> str:
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("imgsynth.release"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return pages.get_template(template).render(
        facts=facts,
        card=facts.card,
        config=facts.made["config"],
        made=facts.made,
        grid=facts.grid,
        says=facts.answers,
        license_url=licence_url(facts.answers.license or ""),
        cited=citation(facts) is not None,
        say=sentences,
        version=__version__,
        faces=FACES[facts.made["config"]["data"]["defaced"]],
    )
