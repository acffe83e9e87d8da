"""One phantom patient as a scanner and its archive would export it: folders of DICOM files, with their oddities."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from imgsynth.cohort.phantom_anatomy import SCANNERS, PatientAnatomy, Study
from imgsynth.cohort.phantom_dicom import Header, Storage, encode_localizer, encode_series, slices_of
from imgsynth.cohort.phantom_draw import draw_patient, draw_study
from imgsynth.cohort.phantom_plan import Job
from imgsynth.cohort.phantom_render import render
from imgsynth.cohort.phantom_scanner import FOV_MM

_ANATOMY, _SITE, _STUDY, _FILES, _DAY = range(5)  # streams of random numbers


def draw_job(job: Job) -> tuple[PatientAnatomy, list[Study]]:
    """The patient and the studies that ``write_patient`` renders. All studies are made at the patient's site."""
    anatomy = draw_patient(job.random(_ANATOMY), job.has_lesion)
    scanner = SCANNERS[int(job.random(_SITE).choice(len(SCANNERS), p=(0.5, 0.3, 0.2)))]
    return anatomy, [draw_study(job.random(_STUDY, n), scanner, first=n == 0) for n in range(job.studies)]


def write_patient(root: Path, job: Job) -> dict[str, str]:
    """Write ``root/<patient>/…`` and return the patient's row of labels.csv."""
    anatomy, studies = draw_job(job)
    day = date(2020, 1, 1) + timedelta(days=int(job.random(_DAY).integers(0, 1000)))
    for number, study in enumerate(studies):
        hu = render(anatomy, study, job.size)
        header = _header(job, anatomy, study, number, day + timedelta(days=180 * number))
        folder = root / job.patient
        if "one_folder" not in job.traps:
            folder /= f"study-{number + 1}" if job.orderly else _scramble(job, "study", number)[:8].upper()
        folder.mkdir(parents=True, exist_ok=True)
        _write_series(folder, job, number, header, hu)
    return {
        "patient": job.patient,
        "label": "lesion" if anatomy.lesion else "normal",
        "sex": anatomy.sex,
        "age": str(anatomy.age),
        "site": studies[0].scanner.site,
        "studies": str(job.studies),
    }


def storage_of(job: Job) -> Storage:
    return Storage(
        signed="unsigned" not in job.traps,
        mixed_rescale="mixed_rescale" in job.traps,
        padding="padding" in job.traps,
        feet_first="feet_first" in job.traps,
        syntax="rle" if "rle" in job.traps else "implicit" if "implicit" in job.traps else "explicit",
    )


def _header(job: Job, anatomy: PatientAnatomy, study: Study, number: int, day: date) -> Header:
    return Header(
        patient=job.patient,
        sex=anatomy.sex,
        age=anatomy.age,
        site=study.scanner.site,
        manufacturer=study.scanner.manufacturer,
        model=study.scanner.model,
        study_uid=job.uid("study", number),
        series_uid=job.uid("series", number),
        frame_uid=job.uid("frame", number),
        study_date=day.strftime("%Y%m%d"),
    )


def _write_series(folder: Path, job: Job, number: int, header: Header, hu: np.ndarray) -> None:
    random = job.random(_FILES, number)
    spacing = FOV_MM / job.size
    uids = [job.uid("object", number, k) for k in range(job.size)]
    slices = slices_of(hu, spacing, storage_of(job), uids, _instance_numbers(job, random))
    files = encode_series(header, spacing, storage_of(job), slices)
    for k, content in enumerate(files):
        (folder / _name(job, number, k)).write_bytes(content)
    if "localizer" in job.traps:
        scout = encode_localizer(header, spacing, job.uid("scout", number), hu)
        (folder / _name(job, number, "scout")).write_bytes(scout)
    if "duplicate" in job.traps:
        for k in random.choice(job.size, 2, replace=False):
            (folder / _name(job, number, f"copy {k}")).write_bytes(files[k])
    if "report" in job.traps:
        text = (
            f"DIGITAL PHANTOM, no patient.\n{header.patient}\nThorax CT of {header.study_date}. Report: see labels.\n"
        )
        (folder / f"report_{header.study_date}.txt").write_text(text, encoding="utf-8")


def _instance_numbers(job: Job, random: np.random.Generator) -> list[int]:
    """Instance Numbers of the slices from feet to head."""
    numbers = np.arange(1, job.size + 1)
    if "instance_reversed" in job.traps:
        numbers = numbers[::-1]
    if "instance_shuffled" in job.traps:
        numbers = random.permutation(numbers)
    return [int(n) for n in numbers]


def _name(job: Job, number: int, item: object) -> str:
    """Orderly, or as archives name files: by a hash, with and without an extension."""
    if job.orderly:
        return f"IM{item + 1:04d}.dcm" if isinstance(item, int) else f"{item}.dcm"
    scrambled = _scramble(job, "file", number, item)
    return scrambled[:16].upper() + (".dcm" if int(scrambled[-1], 16) % 2 else "")


def _scramble(job: Job, *name: object) -> str:
    return hashlib.sha256("/".join(map(str, (job.key, job.patient, *name))).encode()).hexdigest()
