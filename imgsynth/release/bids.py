"""BIDS derivative layout (BIDS 1.10, "BIDS Derivatives") for synthetic MR and CT volumes.

BIDS has a place for MR (``anat``). For CT there is a draft only (BIDS extension proposal 24, ``ct``): CT volumes lie as
it says and are named in ``.bidsignore``, BIDS' own way for what is not standard yet; all else is checked as ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from imgsynth import __version__
from imgsynth.cohort.facts import UNKNOWN
from imgsynth.release.anonymity import SUPPRESSED
from imgsynth.release.patients import SyntheticPatient, bids_subject
from imgsynth.schema import ReleaseConfig
from imgsynth.types import Grid, Structure

BIDS_VERSION = "1.10.0"
CT = "ct"
BIDSIGNORE = ".bidsignore"


def bids_suffix(grid: Grid, contrast: str) -> str | None:
    """The BIDS suffix of the images; None where BIDS has no place for them (radiographs, single images)."""
    if grid.spatial_dims != 3:
        return None
    return {"MR": contrast, "CT": CT}.get(grid.modality)


def bids_path(number: int, suffix: str, mask: bool = False) -> str:
    """Where the image of synthetic patient ``number``, or its mask, lies in the dataset; ``suffix`` is the image's, and
    names the contrast, T1w say."""
    subject = f"sub-{bids_subject(number)}"
    what = "dseg" if mask else suffix
    return f"{subject}/{CT if suffix == CT else 'anat'}/{subject}_desc-synthetic_{what}.nii.gz"


def structures_table(structures: Sequence[Structure], suffix: str | None) -> tuple[str, str]:
    """Name and text of the table of the masks' values, which lies in the folder of the NIfTI files. BIDS, which files
    are of where there is a ``suffix``, inherits it to all that have its entities."""
    rows = [f"{number}\t{structure.name}" for number, structure in enumerate(structures, 1)]
    return "desc-synthetic_dseg.tsv" if suffix else "dseg.tsv", "\n".join(
        ["index\tname", "0\tbackground", *rows]
    ) + "\n"


def bids_documents(
    patients: Sequence[SyntheticPatient], description: str, release: ReleaseConfig, suffix: str
) -> dict[str, str]:
    """What makes a folder of images a dataset, by name: description, README, participants and the meaning of ``desc-``.

    ``description`` says how the images were made.
    """
    dataset: dict[str, Any] = {
        "Name": release.title or "Synthetic volumes",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        **({"License": release.license} if release.license else {}),
        **({"Authors": release.creators} if release.creators else {}),
        "GeneratedBy": [{"Name": "imgsynth", "Version": __version__, "Description": description}],
    }
    facts = list(patients[0].facts) if patients else []
    columns = {
        "participant_id": {"Description": "Synthetic subject; it is no person."},
        "label": {"Description": "Class that the generator was asked for; n/a where the cohort has none."},
        **{fact: {"Description": f"Synthetic {fact.replace('_', ' ')}; n/a where none is said."} for fact in facts},
    }
    rows = [
        [f"sub-{bids_subject(number)}", one.label or "n/a", *map(_cell, one.facts.values())]
        for number, one in enumerate(patients, 1)
    ]
    lines = ["\t".join(row) for row in [["participant_id", "label", *facts], *rows]]
    return {
        "dataset_description.json": _json(dataset),
        "README": README.format(description=description),
        "participants.tsv": "\n".join(lines) + "\n",
        "participants.json": _json(columns),
        "descriptions.tsv": f"desc_id\tdescription\ndesc-synthetic\t{description}\n",
        **({BIDSIGNORE: f"sub-*/{CT}\n"} if suffix == CT else {}),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _cell(value: str) -> str:
    return "n/a" if value in (UNKNOWN, SUPPRESSED) else value


README = """Synthetic volumes
=================

No image in this dataset was taken of a person. {description}

Not for diagnostic use. The privacy card, the README and the checksums are in the folder above.
"""
