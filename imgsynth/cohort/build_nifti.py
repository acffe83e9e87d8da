"""A folder of NIfTI files in no particular layout; one with imagesTr is handed to its own reader."""

from __future__ import annotations

import re
from pathlib import Path

from imgsynth.cohort.build_mask_check import check_masks
from imgsynth.cohort.build_nnunet import find_nnunet
from imgsynth.cohort.build_probe import probe_all
from imgsynth.cohort.build_scan import Found, Scan, files_under, names_of, stem_of
from imgsynth.cohort.build_table import read_table
from imgsynth.cohort.dataset_json import modality_of
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError

SUFFIXES = (".nii", ".nii.gz")
_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)(?:_ses-([A-Za-z0-9]+))?(?=_|$)")  # names as in BIDS, without its folders
_MASK_NAME = re.compile(r"(?:^|[_\-.])(mask|seg|dseg|probseg|segmentation|label|labels|roi|lesion)$", re.IGNORECASE)
_MASK_FOLDER = re.compile(r"(masks?|labels?|labelsTr|labelsTs|segmentations?|segs?)", re.IGNORECASE)


def find_nifti(data: DataConfig) -> Found:
    """Find the images (never the masks, which are recorded beside their image) and read each of them once.

    A name that begins with sub-<label> says the subject, and ses-<label> the session. Otherwise there are no patient
    ids, unless ``data.pattern`` or a table (``data.table``, participants.tsv beside) has them.

    Raises:
        InputError: if it is a BIDS dataset, whose folders and sidecars mean more than is read here.
    """
    root = Path(str(data.root))
    if root.name == "imagesTr" or (root / "imagesTr").is_dir():
        return find_nnunet(data)
    if fault := _bids_fault(root):
        raise InputError(fault)
    if data.channel is not None:
        raise InputError(Fault("data.channel", data.channel, "null, where there is no imagesTr", "leave it out"))
    found = Found(root)
    masks: dict[str, str] = {}
    for path in files_under(root, SUFFIXES):
        name = path.relative_to(root)
        in_mask_folder = any(_MASK_FOLDER.fullmatch(part) for part in name.parts[:-1])
        if in_mask_folder or _MASK_NAME.search(stem_of(name)):
            masks[_MASK_NAME.sub("", stem_of(name))] = name.as_posix()
        else:
            found.scans.append(nifti_scan(name, data.modality))
    for scan in found.scans:
        scan.mask = masks.get(scan.names[2])
    if (root / "participants.tsv").is_file():
        found.beside = read_table(root / "participants.tsv")
    return check_masks(probe_all(found))


def nifti_scan(name: Path, declared: str | None) -> Scan:
    """One file, whose name may tell subject, session and contrast."""
    stem = stem_of(name)
    subject = _SUBJECT.match(stem)
    modality = modality_of(stem.rpartition("_")[2]) or declared  # NIfTI does not record it
    patient, study = (subject.group(1), f"ses-{subject.group(2) or '1'}") if subject else (None, stem)
    return Scan(names_of(name), (name.as_posix(),), modality, patient=patient, study=study, series=stem)


def _bids_fault(root: Path) -> Fault | None:
    folders = [*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")]
    described = root / "dataset_description.json"
    if not folders and not described.is_file():
        return None
    remedy = "" if described.is_file() else ', with a dataset_description.json: {"Name": "…", "BIDSVersion": "1.8.0"}'
    return Fault(str(root), "a BIDS dataset", "a folder of NIfTI files without that layout", f"data=bids{remedy}")
