"""The cohorts of benchmarks/method_table.py: digital phantoms in one .npz, whose label a small network does learn.

Lesions it does not learn from some hundreds of phantoms (docs/results.md); whether a phantom is of a woman or a man it
does, by breasts and width of the chest. Planes are means along the front-to-back axis, which is about what a radiograph
shows; volumes are the phantoms as they are, at 24 mm.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from imgsynth.cohort.phantom import phantom_volume
from imgsynth.cohort.phantom_anatomy import SCANNERS
from imgsynth.cohort.phantom_draw import draw_patient, draw_study
from imgsynth.files import write_bytes

LABELS = ("F", "M")
LESIONS = 0.4  # chance of one
FRONT_TO_BACK = 1  # of the axes, which are RAS
AIR_HU, BRIGHT_HU = -1000.0, 0.0


def phantoms(n: int, dims: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] of text and images of one study of each of ``n``: [n, size, size, size] in HU, or [n, size, size] from
    0 to 255, as 8-bit radiographs are."""
    images, labels = [], []
    for number in range(n):
        random = np.random.default_rng((seed, number))
        patient = draw_patient(random, has_lesion=bool(random.random() < LESIONS))
        study = draw_study(random, SCANNERS[number % len(SCANNERS)], first=True)
        image = phantom_volume(patient, study, size).array
        images.append(plane(image) if dims == 2 else image)
        labels.append(patient.sex)
    return np.stack(images).astype(np.float32), np.array(labels)


def plane(volume: np.ndarray) -> np.ndarray:
    """Head up, the patient's right on the left; air is 0, and 255 is what no body reaches on average."""
    mean = volume.mean(FRONT_TO_BACK)[:, ::-1].T
    return np.clip((mean - AIR_HU) / (BRIGHT_HU - AIR_HU) * 255, 0, 255)


def write_phantoms(path: Path, n: int, dims: int, size: int, seed: int) -> Path:
    """``path`` with arrays images, labels and patient_ids; as it is where it is there already."""
    if not path.is_file():
        images, labels = phantoms(n, dims, size, seed)
        out = io.BytesIO()
        np.savez(out, images=images, labels=labels, patient_ids=np.array([f"{number:05d}" for number in range(n)]))
        write_bytes(path, out.getvalue())
    return path
