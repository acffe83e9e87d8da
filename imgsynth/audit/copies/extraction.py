"""Extraction by mass sampling: what a generator says again and again it may have by heart.

After Carlini et al. 2023 (arXiv:2301.13188, section 4): many samples, their near-duplicates by a distance that a common
background cannot make small (the largest over patches), clusters of these. A generator of few modes makes clusters too,
so that each cluster's nearest train patient is set beside its nearest holdout patient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest
from torch import Tensor

from imgsynth.audit.copies.counts import MIN_PATIENTS, TOO_NEAR
from imgsynth.audit.copies.invariant import pooled
from imgsynth.measure.images import Images

PATCHES = 4  # along each axis
CLOSER = 0.5  # of the distance below which two patients are unusually near
SMALLEST = 3  # samples in a cluster
SHOWN = 20


def extraction(samples: Images, train: Images, holdout: Images, random: np.random.Generator) -> dict[str, Any]:
    """Clusters of near-duplicates among ``samples``, and how near their middle is to train and to holdout; JSON-able.

    Two samples are near-duplicates when nearer than half the distance that 95 % of holdout images keep from every train
    image, equally many patients of each. ``extracted``: in how many clusters the sample with most neighbours is as near
    as that to a train patient, and to a holdout patient; ``p_value`` of the sign test on the clusters that are near to
    one of them alone.
    {"not_done": why} with too few patients.
    """
    m = min(train.n_patients, holdout.n_patients)
    if m < MIN_PATIENTS or len(samples) < SMALLEST:
        return {"not_done": f"{m} patients on one side, {len(samples)} samples; it takes {MIN_PATIENTS} and {SMALLEST}"}
    train, holdout = train.draw_patients(m, random), holdout.draw_patients(m, random)
    x_NC, train_MC, holdout_QC = (pooled(images.x_NC) for images in (samples, train, holdout))
    threshold = CLOSER * float(np.quantile(patch_distance(holdout_QC, train_MC).min(1), TOO_NEAR))
    near_NN = patch_distance(x_NC, x_NC) < threshold
    _, label_N = connected_components(csr_matrix(near_NN), directed=False)
    sizes = np.bincount(label_N)
    large = [c for c in np.argsort(-sizes, kind="stable") if sizes[c] >= SMALLEST]
    middles = [int(np.flatnonzero(label_N == c)[near_NN[label_N == c].sum(1).argmax()]) for c in large]
    found: dict[str, Any] = {
        "n_samples": len(samples),
        "n_patients_each": m,
        "threshold": threshold,
        "clusters": len(large),
        "samples_in_clusters": int(sizes[large].sum()) if large else 0,
        "largest": int(sizes.max()),
    }
    if not large:
        return found
    to_train, to_holdout = (patch_distance(x_NC[middles], y).min(1) for y in (train_MC, holdout_QC))
    hit, chance = to_train < threshold, to_holdout < threshold
    alone = int((hit & ~chance).sum()), int((chance & ~hit).sum())
    p_value = binomtest(alone[0], sum(alone), alternative="greater").pvalue if sum(alone) else 1.0
    found["extracted"] = {"train": int(hit.sum()), "holdout": int(chance.sum()), "p_value": float(p_value)}
    found["largest_clusters"] = [
        {"size": int(sizes[c]), "train_distance": float(a), "holdout_distance": float(b)}
        for c, a, b in zip(large[:SHOWN], to_train[:SHOWN], to_holdout[:SHOWN], strict=True)
    ]
    return found


def patch_distance(x_NC: Tensor, y_MC: Tensor) -> np.ndarray:
    """[N, M] largest over patches of the root mean square difference; 4 patches along each axis, or 1 of a voxel."""
    worst_NM = torch.zeros(len(x_NC), len(y_MC))
    for x_ND, y_MD in zip(_patches(x_NC), _patches(y_MC), strict=True):
        squares = torch.cdist(x_ND, y_MD, compute_mode="use_mm_for_euclid_dist").square() / x_ND.shape[1]
        torch.maximum(worst_NM, squares, out=worst_NM)
    distance: np.ndarray = worst_NM.sqrt().numpy()
    return distance


def _patches(x_NC: Tensor) -> list[Tensor]:
    """Each patch of all images, flat."""
    parts = [x_NC]
    for axis in range(2, x_NC.ndim):
        parts = [piece for part in parts for piece in part.tensor_split(min(PATCHES, x_NC.shape[axis]), dim=axis)]
    return [part.flatten(1) for part in parts]
