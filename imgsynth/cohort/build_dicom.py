"""A folder of DICOM series, in any nesting."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.load import joined_digest
from imgsynth.schema import DataConfig
from imgsynth.types import Fault
from imgsynth.volumes.dicom_index import Series, read_dicom_tree
from imgsynth.volumes.file_index import FileIndex
from imgsynth.volumes.file_tree import list_files


def find_dicom(data: DataConfig) -> Found:
    """One scan per series (an even stack of slices) or per radiograph; ids, sex, age and site from the headers.

    ``data.modality`` chooses among the modalities of a mixed folder. ``data.label`` may be a DICOM keyword where no
    table is given.
    """
    root = Path(str(data.root))
    memory = FileIndex(root)
    tree = list_files(root)
    index = read_dicom_tree(tree, memory)
    found = Found(root, skipped=list(index.faults))
    kept = [series for series in index.series if data.modality in (None, series.modality)]
    for modality in sorted({series.modality for series in index.series} - {data.modality}):
        if data.modality is not None:
            others = [series for series in index.series if series.modality == modality]
            found.skipped.append(
                Fault(
                    str(root),
                    f"{len(others)} series of modality {modality}",
                    data.modality,
                    f"nothing, if only {data.modality} is wanted; else data.modality={modality}",
                    "other_modality",
                    tuple(str(path) for series in others for path in series.files),
                )
            )
    found.scans = [scan_of(series, root, data) for series in kept]
    digests = memory.digests(tree, (name for scan in found.scans for name in scan.files))
    for scan in found.scans:
        scan.digest = joined_digest([digests[name] for name in scan.files])
    return found


def scan_of(series: Series, root: Path, data: DataConfig) -> Scan:
    meta = series.meta
    above = len(root.as_posix()) + 1
    files = tuple(path.as_posix()[above:] for path in series.files)
    names = (files[0], Path(files[0]).name, Path(files[0]).parent.as_posix(), meta["StudyInstanceUID"], series.uid)
    frames = tuple(part.frame for part in series.slices)
    label = series.header_value(data.label) if data.label is not None and data.table is None else None
    return Scan(
        names,
        files,
        series.modality,
        series.shape,
        series.spacing,
        "".join(nib.aff2axcodes(series.affine)),
        patient=meta.get("PatientID"),
        study=meta["StudyInstanceUID"],
        series=series.uid,
        label=label,
        site=meta.get("InstitutionName"),
        sex=meta.get("PatientSex"),
        age=meta.get("PatientAge"),
        affine=tuple(series.affine.ravel().tolist()),
        frames=frames if any(frames) or len(files) != len(frames) else (),
    )
