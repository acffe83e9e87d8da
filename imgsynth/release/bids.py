"""BIDS derivative layout (BIDS 1.10, "BIDS Derivatives") for synthetic MR volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imgsynth import __version__
from imgsynth.cohort.facts import UNKNOWN
from imgsynth.files import write_json, write_text
from imgsynth.release.anonymity import SUPPRESSED
from imgsynth.release.metadata import Table
from imgsynth.release.patients import bids_subject
from imgsynth.types import Structure

BIDS_VERSION = "1.10.0"
BIDS_FILES = ("dataset_description.json", "README", "participants.tsv", "participants.json", "descriptions.tsv")


def bids_path(number: int, suffix: str) -> str:
    """Where the image of synthetic patient ``number`` lies in the dataset; ``suffix`` names the contrast, T1w say."""
    subject = f"sub-{bids_subject(number)}"
    return f"{subject}/anat/{subject}_desc-synthetic_{suffix}.nii.gz"


def structures_table(structures: Sequence[Structure], suffix: str | None) -> tuple[str, str]:
    """Name and text of the table of the masks' values, which lies in the folder of the NIfTI files. BIDS, which files
    are of where there is a ``suffix``, inherits it to all that have its entities."""
    rows = [f"{number}\t{structure.name}" for number, structure in enumerate(structures, 1)]
    return "desc-synthetic_dseg.tsv" if suffix else "dseg.tsv", "\n".join(
        ["index\tname", "0\tbackground", *rows]
    ) + "\n"


def write_bids_dataset(folder: Path, labels: Sequence[str | None], description: str, table: Table) -> None:
    """Write what makes ``folder`` a dataset: description, README, participants and the meaning of ``desc-``."""
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "Synthetic volumes",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "imgsynth", "Version": __version__, "Description": description}],
        },
    )
    write_text(folder / "README", README.format(description=description))
    rows = [
        [f"sub-{bids_subject(i)}", label or "n/a", *map(_cell, facts)]
        for i, (label, facts) in enumerate(zip(labels, table.rows, strict=True), 1)
    ]
    lines = ["\t".join(row) for row in [["participant_id", "label", *table.facts], *rows]]
    write_text(folder / "participants.tsv", "\n".join(lines) + "\n")
    write_json(
        folder / "participants.json",
        {
            "participant_id": {"Description": "Synthetic subject; it is no person."},
            "label": {"Description": "Class that the generator was asked for; n/a where the cohort has none."},
            **{
                fact: {"Description": f"Synthetic {fact.replace('_', ' ')}; n/a where none is said."}
                for fact in table.facts
            },
        },
    )
    write_text(folder / "descriptions.tsv", f"desc_id\tdescription\ndesc-synthetic\t{description}\n")


def _cell(value: str) -> str:
    return "n/a" if value in (UNKNOWN, SUPPRESSED) else value


README = """Synthetic volumes
=================

No image in this dataset is of a person. {description}

Not for diagnostic use. The privacy card, the README and the checksums are in the folder above.
"""
