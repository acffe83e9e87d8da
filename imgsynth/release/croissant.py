"""Croissant metadata (MLCommons Croissant 1.0, RAI vocabulary 1.0): croissant.json, for machines and catalogues.

Written here as JSON-LD; the tests have mlcroissant judge it.
"""

from __future__ import annotations

import json
from typing import Any

from imgsynth.release.croissant_rai import rai
from imgsynth.release.facts import Facts
from imgsynth.release.licences import licence_url
from imgsynth.release.patients import COHORT_CSV
from imgsynth.release.sentences import no_person

CONFORMS_TO = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
# The vocabulary's terms as JSON-LD names; what is not listed here is schema.org's.
_CR = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
    "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _CR},
}
# format: (media types, the paths it may have). The second one of DICOM is what mlcroissant reads pixels by; it has no
# reader for the other two, whose paths are in the table of patients.
FILES = {
    "dicom": (["application/dicom", "image/dicom"], ["dicom/*.dcm"]),
    "nifti": (["application/x-nifti"], ["nifti/*.nii.gz"]),
    "zarr": (["application/vnd+zarr"], ["zarr/*"]),
}


def croissant(facts: Facts) -> str:
    """The text of croissant.json."""
    says = facts.answers
    about: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.title,
        "description": " ".join([*([says.description] if says.description else []), _described(facts)]),
        "conformsTo": CONFORMS_TO,
        "keywords": ["synthetic data", "medical imaging", facts.grid.modality, "differential privacy"],
        "version": "1.0.0",
        **({"license": licence_url(says.license) or says.license} if says.license else {}),
        **({"creator": [_creator(name) for name in says.creators]} if says.creators else {}),
        **({"citeAs": _cited(facts)} if says.creators else {}),
        **({"datePublished": says.date} if says.date else {}),
        **rai(facts),
        "distribution": [_table(facts), *(_files(facts, name) for name in facts.formats)],
        "recordSet": [_patients(), *([_slices()] if "dicom" in facts.formats else [])],
    }
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"


def _described(facts: Facts) -> str:
    labels = f" of the classes {', '.join(facts.classes)}" if facts.classes else ""
    warning = "" if facts.card["releasable"] else "NOT RELEASABLE: not protected by a privacy guarantee. "
    return (
        f"{warning}{len(facts.patients)} synthetic patients{labels}, one {facts.grid.modality} image of "
        f"{' × '.join(map(str, facts.grid.shape))} voxels each, sampled from a generative model "
        f"({facts.made['model']['name']}). {no_person(facts)} Not for diagnostic use. {facts.card['statement']}"
    )


def _creator(name: str) -> dict[str, str]:
    return {"@type": "sc:Person" if ", " in name else "sc:Organization", "name": name}


def _cited(facts: Facts) -> str:
    year = f" ({facts.answers.date[:4]})" if facts.answers.date else ""
    return f"{'; '.join(facts.answers.creators or [])}{year}. {facts.title} [data set]."


def _table(facts: Facts) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": "cohort",
        "name": COHORT_CSV,
        "description": "One row for each synthetic patient.",
        "contentUrl": COHORT_CSV,
        "encodingFormat": "text/csv",
        "sha256": facts.table,
    }


def _files(facts: Facts, form: str) -> dict[str, Any]:
    media, includes = FILES[form]
    return {
        "@type": "cr:FileSet",
        "@id": form,
        "name": form,
        "description": f"Every image as {form}; SHA-256 sums of the files are in checksums.sha256.",
        "encodingFormat": media,
        "includes": includes,
    }


def _patients() -> dict[str, Any]:
    fields = {
        "id": "The synthetic patient. It is no person.",
        "label": "The class that the generator was asked for; empty where the cohort has none.",
        "files": "The patient's files, parted by semicolons; of a DICOM series its folder.",
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "patients",
        "name": "patients",
        "key": {"@id": "patients/id"},
        "field": [
            _field("patients", name, text, {"fileObject": {"@id": "cohort"}, "extract": {"column": name}})
            for name, text in fields.items()
        ],
    }


def _slices() -> dict[str, Any]:
    def source(what: str) -> dict[str, Any]:
        return {"fileSet": {"@id": "dicom"}, "extract": {"fileProperty": what}}

    return {
        "@type": "cr:RecordSet",
        "@id": "dicom_files",
        "name": "dicom_files",
        "field": [
            _field("dicom_files", "path", "Where the file is in the release.", source("fullpath")),
            _field(
                "dicom_files",
                "pixels",
                "Stored values, before Rescale Slope and Intercept.",
                source("content"),
                "sc:Integer",
            ),
        ],
    }


def _field(records: str, name: str, description: str, source: dict[str, Any], kind: str = "sc:Text") -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{name}",
        "name": name,
        "description": description,
        "dataType": kind,
        "source": source,
    }
