"""A reader study kit: real and synthetic images in random order, a form for the readers, and the key that scores it.

LOCAL ONLY: the folder holds real patients' images. Who reads must not see ``key.json``, which lies outside the folder
that readers are given.
"""

from __future__ import annotations

import csv
import io
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imgsynth.evaluate.scores import weighted_auc
from imgsynth.files import read_json, write_json, write_text
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, clopper_pearson, percentile_interval
from imgsynth.types import Fault, InputError

FORM, KEY = "form.csv", "key.json"
COLUMNS = ("image", "synthetic (1 surely real ... 5 surely synthetic)", "quality (1 poor ... 5 good)", "remark")
SIDE = 384  # pixels of the longer side of a picture
FORMAT = "imgsynth-reader-study-1"


def write_kit(folder: Path, real: Images, synthetic: Images, n: int, seed: int | None = None) -> Path:
    """Write ``folder``/images/001.png …, ``form.csv`` and ``instructions.txt``; the key goes to ``folder``-key.json.

    ``n`` images of each kind (one of each patient), in an order that the operating system's entropy gives; ``seed`` is
    for tests. Volumes are shown by their three middle planes. Raises InputError where there are fewer.
    """
    if min(real.n_patients, len(synthetic)) < n:
        raise InputError(
            Fault("evaluate.readers", f"{n} images of each kind, of {real.n_patients} patients and {len(synthetic)} "
                  "samples", "as many patients and samples", f"evaluate.readers={min(real.n_patients, len(synthetic))}")
        )  # fmt: skip
    random = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    _, first = np.unique(real.patients_N, return_index=True)
    chosen = real.select(random.permutation(first)[:n])
    made = synthetic.select(random.permutation(len(synthetic))[:n])
    truth = [(image, 0, str(patient)) for image, patient in zip(chosen.x_NC, chosen.patients_N, strict=True)]
    truth += [(image, 1, "") for image in made.x_NC]
    order = random.permutation(len(truth))
    names = [f"{number:03d}.png" for number in range(1, len(truth) + 1)]
    for leftover in (folder, key_of(folder)):  # another study's pictures beside this one's key would be a wrong score
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    (folder / "images").mkdir(parents=True)
    for name, index in zip(names, order, strict=True):
        picture(truth[index][0]).save(folder / "images" / name)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *([name, "", "", ""] for name in names)])
    write_text(folder / FORM, text.getvalue())
    write_text(folder / "instructions.txt", INSTRUCTIONS.format(n=len(names)))
    key = {name: truth[index][1] for name, index in zip(names, order, strict=True)}
    owners = {name: truth[index][2] for name, index in zip(names, order, strict=True) if truth[index][2]}
    write_json(key_of(folder), {"format": FORMAT, "local_only": True, "synthetic": key, "patients": owners})
    return folder


def key_of(folder: Path) -> Path:
    """Beside the folder, not in it."""
    return folder.with_name(f"{folder.name}-{KEY}")


def picture(x_C: np.ndarray) -> Image.Image:
    """8-bit picture of [1, *spatial] in [-1, 1], enlarged by whole voxels; the same for real and synthetic images.

    Both are on the public grid and in single precision, so that neither size nor depth tells them apart.
    """
    x = x_C[0]
    planes = [x] if x.ndim == 2 else [np.rot90(x.take(x.shape[axis] // 2, axis=axis)) for axis in (2, 1, 0)]
    height = max(plane.shape[0] for plane in planes)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 0)), constant_values=-1) for p in planes]
    grey = ((np.clip(np.concatenate(padded, axis=1), -1, 1) + 1) * 127.5).round().astype(np.uint8)
    scale = max(1, SIDE // max(grey.shape))
    return Image.fromarray(grey.repeat(scale, axis=0).repeat(scale, axis=1), mode="L")


def score(form: Path, key: Path, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Score one reader's filled form: {"n", "auc", "sensitivity", "specificity", "quality": {"real", "synthetic"}}.

    AUC of the reader's certainty with a bootstrap interval over images (one a patient); sensitivity and specificity of
    4 and 5 as "synthetic", with exact intervals. AUC ½: he could not tell. Raises InputError with every line at fault.
    """
    truth: dict[str, int] = read_json(key)["synthetic"]
    rows = _answers(form, truth)
    names = sorted(rows)
    y_N = np.array([truth[name] for name in names])
    certainty_N, quality_N = (np.array([rows[name][k] for name in names], dtype=float) for k in (0, 1))
    resampled_RN = bootstrap_weights(len(names), replicates, np.random.default_rng(seed))
    weights_RN = np.vstack([np.ones(len(names)), resampled_RN])
    auc_R = weighted_auc(certainty_N, y_N == 1, weights_RN)
    low, high = percentile_interval(auc_R[1:])
    return {
        "n": {"real": int((y_N == 0).sum()), "synthetic": int((y_N == 1).sum())},
        "auc": {"value": float(auc_R[0]), "low": low, "high": high},
        "sensitivity": _share(certainty_N[y_N == 1] >= 4),
        "specificity": _share(certainty_N[y_N == 0] < 4),
        "quality": {"real": float(quality_N[y_N == 0].mean()), "synthetic": float(quality_N[y_N == 1].mean())},
    }


def _answers(form: Path, truth: dict[str, int]) -> dict[str, tuple[int, int]]:
    faults, found = [], {}
    with form.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.reader(handle))[1:]
    for number, row in enumerate(rows, 2):
        name, marks = ([*row, "", "", ""])[0].strip(), [mark.strip() for mark in ([*row, "", "", ""])[1:3]]
        if name not in truth or name in found:
            faults.append(Fault(f"{form}, line {number}", repr(name), "each image of the study, once", "mend the name"))
        elif not all(mark in "12345" and mark for mark in marks):
            faults.append(Fault(f"{form}, line {number}", f"{name}: {', '.join(map(repr, marks))}", "two marks, 1 to 5",
                                "ask the reader"))  # fmt: skip
        else:
            found[name] = int(marks[0]), int(marks[1])
    missing = sorted(set(truth) - {([*row, ""])[0].strip() for row in rows})
    if missing:
        got = f"no line for {', '.join(missing[:5])}"
        faults.append(Fault(str(form), got, "every image of the study", "ask the reader"))
    if faults:
        raise InputError(*faults)
    return found


def _share(hit_N: np.ndarray) -> dict[str, float]:
    low, high = clopper_pearson(int(hit_N.sum()), len(hit_N))
    return {"value": float(hit_N.mean()), "low": low, "high": high}


INSTRUCTIONS = """{n} images, some of patients, some made by a generator. Please look at each alone, in the order of
their numbers, and write into form.csv for each
  - how sure you are that it is synthetic: 1 surely real, 2 rather real, 3 undecided, 4 rather, 5 surely synthetic;
  - its quality as an image of its kind: 1 poor to 5 good;
  - a remark, if anything tells you.
Do not go back. Images of patients are among them: they must not leave this house.
"""
