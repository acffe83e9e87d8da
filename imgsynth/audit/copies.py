"""Copy check: is a synthetic image nearer to a training patient than to a patient it has never seen?

Descriptive, not an attack: noise on copies evades it. Every count is calibrated by the same count against holdout
patients, of the same number, because the rate of "near" neighbours grows with the number of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgsynth.audit.spaces import flat
from imgsynth.measure.distances import distances, nearest
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import clopper_pearson, recentred_interval
from imgsynth.training.sheets import save_png, sheet
from imgsynth.types import Grid

SHOWN = 8
TOO_NEAR = 0.05  # quantile of holdout-to-train distances: nearer than this is unusual for two different patients
MIN_PATIENTS = 4


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For every synthetic image, the nearest image among train and among holdout patients (voxel distance)."""

    train_distance_N: np.ndarray
    train_index_N: np.ndarray
    holdout_distance_N: np.ndarray
    holdout_index_N: np.ndarray

    @staticmethod
    def of(synthetic: Images, train: Images, holdout: Images) -> Neighbours:
        x_ND = flat(synthetic.x_NC)
        return Neighbours(*nearest(x_ND, flat(train.x_NC)), *nearest(x_ND, flat(holdout.x_NC)))


def distance_to_patients(synthetic: Images, patients: Images) -> np.ndarray:
    """[N, P] distance of each synthetic image to the nearest image of each patient."""
    order = np.argsort(patients.owner_N, kind="stable")
    starts_P = np.searchsorted(patients.owner_N[order], np.arange(patients.n_patients))
    to_images_NM = distances(flat(synthetic.x_NC), flat(patients.x_NC[order]))
    return np.minimum.reduceat(to_images_NM, starts_P, axis=1)


def copy_counts(
    synthetic: Images, train: Images, holdout: Images, replicates: int, random: np.random.Generator
) -> dict[str, Any]:
    """How many synthetic images are nearer to train than to holdout; one half is expected without copying.

    ``low, high``: binomial, for these very patients (equal numbers of each). ``patients_low, patients_high``: over
    random halves of the patients, which vary as a bootstrap would without repeating anybody (delete-half jackknife).
    ``too_near``: how many are nearer than almost any two different patients are, to train and to holdout.
    """
    m = min(train.n_patients, holdout.n_patients)
    to_train, to_holdout = distance_to_patients(synthetic, train), distance_to_patients(synthetic, holdout)
    one = to_train[:, random.permutation(train.n_patients)[:m]].min(1)
    other = to_holdout[:, random.permutation(holdout.n_patients)[:m]].min(1)
    closer = int((one < other).sum())
    low, high = clopper_pearson(closer, len(synthetic))
    halves = []
    for _ in range(replicates):
        pick = random.permutation(train.n_patients)[: m // 2]
        pick_other = random.permutation(holdout.n_patients)[: m // 2]
        halves.append((to_train[:, pick].min(1) < to_holdout[:, pick_other].min(1)).mean())
    patients_low, patients_high = recentred_interval(closer / len(synthetic), np.array(halves))
    threshold = float(np.quantile(nearest(flat(holdout.x_NC), flat(train.x_NC))[0], TOO_NEAR))
    return {
        "n_synthetic": len(synthetic),
        "n_patients_each": m,
        "closer_to_train": closer,
        "share": closer / len(synthetic),
        "low": low,
        "high": high,
        "patients_low": max(patients_low, 0.0),
        "patients_high": min(patients_high, 1.0),
        "too_near": {
            "distance": threshold,
            "train": int((one < threshold).sum()),
            "holdout": int((other < threshold).sum()),
        },
        "note": "one half is expected without copying; descriptive only: noisy copies evade it",
    }


def most_suspicious(neighbours: Neighbours) -> np.ndarray:
    """Indices of the synthetic images that are nearest to train in proportion to holdout, worst first."""
    ratio_N = neighbours.train_distance_N / np.maximum(neighbours.holdout_distance_N, 1e-12)
    return np.argsort(ratio_N, kind="stable")[:SHOWN]


def write_copy_sheet(path: Path, synthetic: Images, train: Images, holdout: Images, grid: Grid) -> Path:
    """A PNG of the most suspicious samples, each beside its nearest train and holdout image. LOCAL ONLY."""
    neighbours = Neighbours.of(synthetic, train, holdout)
    images, titles = [], []
    for i in most_suspicious(neighbours):
        j, k = neighbours.train_index_N[i], neighbours.holdout_index_N[i]
        images += [synthetic.x_NC[i], train.x_NC[j], holdout.x_NC[k]]
        near, far = neighbours.train_distance_N[i], neighbours.holdout_distance_N[i]
        titles += [f"synthetic {i}", f"train, {near:.3g}", f"holdout, {far:.3g}"]
    return save_png(_with_banner(sheet(np.stack(images), titles, grid, columns=6)), path)


def _with_banner(picture: Image.Image) -> Image.Image:
    """The words that keep the picture at home, in white on red above it."""
    banner = 52
    paper = Image.new("RGB", (max(picture.width, 420), picture.height + banner), "black")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(size=12)
    draw.rectangle((0, 0, paper.width, banner - 4), fill="darkred")
    draw.text((8, 6), "LOCAL ONLY: shows real patients, must not leave this site", fill="white", font=font)
    draw.text((8, 26), "each sample, its nearest train and holdout patient, distance", fill="white", font=font)
    paper.paste(picture, (0, banner))
    return paper
