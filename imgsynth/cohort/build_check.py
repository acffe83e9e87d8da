"""What makes a cohort unusable, said all at once; and what is merely worth knowing."""

from __future__ import annotations

from collections import Counter, defaultdict

from imgsynth.cohort.build_scan import Found, Scan
from imgsynth.cohort.ids import lookalikes
from imgsynth.cohort.labels import class_of
from imgsynth.schema import DataConfig
from imgsynth.types import Fault


def cohort_faults(found: Found, data: DataConfig) -> list[Fault]:
    """Faults of ids, labels, modality and number; the scans have been joined with pattern and table by now."""
    faults = (
        _id_faults(found, data)
        + _same_person_faults(found, data)
        + _label_faults(found.scans, data)
        + _modality_faults(found.scans, data)
    )
    if not any(fault.where.startswith("data.patient") for fault in faults):
        faults += _number_faults(found.scans, data)
    return faults


def doubts(found: Found, data: DataConfig) -> list[Fault]:
    """What does not stop a run, but may break what its guarantee means, where each image is protected on its own."""
    return _shared_images(found, data) if data.unit == "image" else []


def _same_person_faults(found: Found, data: DataConfig) -> list[Fault]:
    """One person under two ids: the guarantee would cover half of them, and they could be in training and in test."""
    if data.unit != "patient":
        return []
    alike = lookalikes(scan.patient for scan in found.scans if scan.patient)
    if not alike:
        return _shared_images(found, data)
    shown = "; ".join(" and ".join(group) for group in alike[:5]) + ("; …" if len(alike) > 5 else "")
    fault = Fault(
        "patient ids",
        f"{len(alike)} groups of ids that differ only by letter case, blanks, leading zeros or invisible characters: "
        + shown,
        "one spelling for each patient, and ids that clearly differ for different patients",
        "write them alike in the source or table if they are one person, rename one if they are two",
        "lookalike_ids",
    )
    return [fault, *_shared_images(found, data)]


def _shared_images(found: Found, data: DataConfig) -> list[Fault]:
    """Images of equal content (``Item.digest``: files byte by byte, rows of an array value by value) under two ids."""
    owners: dict[str, set[str]] = defaultdict(set)
    for scan in found.scans:
        owners[scan.digest].add(scan.patient or scan.names[0])
    shared = [sorted(patients) for patients in owners.values() if len(patients) > 1]
    if not shared:
        return []
    code = "image_two_patients" if data.unit == "patient" else "image_twice"
    shown = "; ".join(" and ".join(ids[:3]) for ids in shared[:5]) + ("; …" if len(shared) > 5 else "")
    return [
        Fault(
            "patient ids",
            f"{len(shared)} images that occur under more than one id: {shown}",
            "each image under one id",
            "remove one of them, or give both the same id: who is in the cohort twice is protected less",
            code,
        )
    ]


def _id_faults(found: Found, data: DataConfig) -> list[Fault]:
    without = [scan for scan in found.scans if not scan.patient]
    if data.unit == "patient" and without:
        return [
            Fault(
                "data.patient",
                f"no patient id for {len(without)} of {len(found.scans)} images, {without[0].names[0]} for instance",
                "an id for each, because the privacy unit is the patient",
                "data.patient=<column or array>, data.pattern='(?P<patient>…)', or data.unit=image if every image "
                "is of another person",
                "no_patient_id",
            )
        ]
    if data.unit == "image" and not without and found.ids == "source":
        several = len(found.scans) - len({scan.patient for scan in found.scans})
        return [
            Fault(
                "data.unit",
                f"image, though the source has patient ids ({several} images are a patient's second or later one)",
                "patient: a guarantee for an image says little about a person who has several",
                "data.unit=patient",
                "unit_is_image",
            )
        ]
    return []


def _label_faults(scans: list[Scan], data: DataConfig) -> list[Fault]:
    seen = Counter(scan.label for scan in scans if scan.label is not None)
    values = ", ".join(f"{value} ({count})" for value, count in seen.most_common(12)) + (
        ", …" if len(seen) > 12 else ""
    )
    if seen and data.classes is None:
        return [
            Fault(
                "data.classes",
                f"nothing, and labels in the source: {values}",
                "the public list of labels, in order: a list read from private data is not free",
                "data.classes=[…], from the normal to the severe",
            )
        ]
    if data.classes is None:
        return []
    if not seen:
        return [
            Fault(
                "data.label",
                "nothing that gives labels",
                f"labels for data.classes={data.classes}",
                "data.label=<column, array or DICOM keyword>, data.pattern='(?P<label>…)', or no data.classes",
            )
        ]
    faults = []
    unknown = {value: count for value, count in seen.items() if class_of(value, data.classes) is None}
    if unknown:
        shown = ", ".join(f"{value} ({count})" for value, count in sorted(unknown.items())[:12])
        faults.append(
            Fault(
                "data.classes",
                f"labels that are not declared: {shown}",
                f"one of {data.classes}, or a number below {len(data.classes)}",
                "declare them, or correct the labels",
                "unknown_label",
            )
        )
    missing = [scan.names[0] for scan in scans if scan.label is None]
    if missing:
        faults.append(
            Fault(
                "data.label",
                f"no label for {len(missing)} of {len(scans)} images: {', '.join(missing[:5])}",
                "a label for each",
                "label them or take them out of data.root",
                "no_label",
            )
        )
    return faults


def _modality_faults(scans: list[Scan], data: DataConfig) -> list[Fault]:
    modalities = Counter(scan.modality for scan in scans)
    if None in modalities:
        return [Fault("data.modality", "nothing, and the source does not say", "CT, MR, DX or CR", "data.modality=MR")]
    if len(modalities) > 1:
        listed = ", ".join(f"{count} × {modality}" for modality, count in modalities.most_common())
        return [
            Fault(
                "data.modality",
                f"a mixture: {listed}",
                "one modality a run",
                "data.modality=CT chooses one (dicom); elsewhere separate them into folders",
                "mixed_modalities",
            )
        ]
    (modality,) = modalities
    if data.modality is not None and modality != data.modality:
        return [
            Fault(
                "data.modality",
                data.modality,
                f"{modality}, which the source states",
                f"data.modality={modality} and its grid, preprocess={str(modality).lower()} say",
            )
        ]
    return []


def _number_faults(scans: list[Scan], data: DataConfig) -> list[Fault]:
    images = Counter(scan.patient if data.unit == "patient" else scan.names[0] for scan in scans)
    faults = []
    if len(images) == 1:
        faults.append(
            Fault(
                "data.root",
                f"one {data.unit}",
                f"a cohort of many {data.unit}s",
                "more data, or the right ids: data.patient, data.pattern",
                "one_patient",
            )
        )
    if images and data.images_per_patient > max(images.values()):
        faults.append(
            Fault(
                "data.images_per_patient",
                str(data.images_per_patient),
                f"at most {max(images.values())}, the most that any patient has",
                f"data.images_per_patient={max(images.values())}",
            )
        )
    return faults
