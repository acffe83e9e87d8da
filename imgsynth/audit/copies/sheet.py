"""The contact sheet of the copy check: suspicious samples beside their nearest real patients. LOCAL ONLY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgsynth.audit.copies.invariant import Nearness
from imgsynth.measure.images import Images
from imgsynth.training.sheets import save_png, sheet
from imgsynth.types import Grid

SHOWN = 8


def most_suspicious(to_train_NP: np.ndarray, to_holdout_NQ: np.ndarray) -> np.ndarray:
    """Indices of the synthetic images that are nearest to train in proportion to holdout, worst first."""
    ratio_N = to_train_NP.min(1) / np.maximum(to_holdout_NQ.min(1), 1e-12)
    return np.argsort(ratio_N, kind="stable")[:SHOWN]


def write_copy_sheet(
    path: Path, synthetic: Images, train: Images, holdout: Images, near: Nearness, far: Nearness, grid: Grid
) -> Path:
    """A PNG of the most suspicious samples, each beside its nearest train and holdout image. LOCAL ONLY.

    ``near`` and ``far`` are the samples' nearness to train and to holdout patients.
    """
    images, titles = [], []
    for i in most_suspicious(near.distance_NP, far.distance_NP):
        p, q = near.distance_NP[i].argmin(), far.distance_NP[i].argmin()
        images += [synthetic.x_NC[i], train.x_NC[near.image_NP[i, p]], holdout.x_NC[far.image_NP[i, q]]]
        distances = near.distance_NP[i, p], far.distance_NP[i, q]
        titles += [f"synthetic {i}", f"train, {distances[0]:.3g}", f"holdout, {distances[1]:.3g}"]
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
