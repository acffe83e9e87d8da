"""Re-identification: would a system that recognises patients call a synthetic image a patient who was trained on?

After Packhäuser et al. 2022 (Sci. Rep. 12:14851): a siamese encoder is trained on *other* patients to put two images of
one patient together and those of different patients apart (InfoNCE, Oord et al. 2018, arXiv:1807.03748). Where a
patient has one image, its two views are that image twice under flips, shifts, other contrast and noise. A pair is "the
same patient" above a similarity that real different patients reach in 0.1 % of pairs. A patient is hit when any sample
is called him; the finding is the share of train patients hit, less that of holdout patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from imgsynth import __version__
from imgsynth.audit.copies.counts import MIN_PATIENTS
from imgsynth.audit.copies.invariant import pooled
from imgsynth.audit.copies.memorised import difference_interval
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.measure.images import Images
from imgsynth.measure.kept import digest, kept
from imgsynth.schema import AuditConfig

FPR = 0.001
PAIRS = 10 / FPR  # different-patient pairs that fix a threshold at FPR
MIN_OTHERS = 64  # patients to train the encoder on
STEPS, BATCH, LEARNING_RATE, TEMPERATURE = 300, 48, 2e-3, 0.1
ALIKE = 4  # images that are flipped and shifted alike
WIDTHS, FEATURES = (16, 32, 64, 64), 64

Encode = Callable[[Tensor], np.ndarray]  # pooled images [N, 1, *spatial] to vectors [N, FEATURES] of length 1


def reidentify(
    synthetic: Images, train: Images, holdout: Images, others: Images | None, settings: AuditConfig,
    shared: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Shares of patients hit, with the interval of their difference over patients; {"not_done": why}. JSON-able.

    ``others`` are patients who are neither train nor holdout. ``underpowered``: there were too few different-patient
    pairs for FPR 0.1 %, and ``fpr`` says which it is. ``recognised``: the share of holdout patients of whom two real
    views are called the same; where it is low, few hits say little. ``auc``: of each patient's greatest similarity,
    train against holdout, whatever the threshold. ``shared``: a folder in which the encoder is kept, by its
    patients, for audits of other runs on the cohort.
    """
    n_others = others.n_patients if others is not None else 0
    smallest = min(train.n_patients, holdout.n_patients)
    if others is None or n_others < MIN_OTHERS:
        return {"not_done": f"{n_others} patients to train the encoder on; it takes {MIN_OTHERS}"}
    if smallest < MIN_PATIENTS or not len(synthetic):
        return {"not_done": f"{smallest} patients on one side, {len(synthetic)} samples; it takes {MIN_PATIENTS} and 1"}
    encode = train_encoder(others, STEPS, settings.seed, shared)
    return {
        "pairs": "two images of a patient" if _several(others) else "two views of one image",
        "trained_on": n_others,
        **verified(encode, synthetic, train, holdout, np.random.default_rng([settings.seed, 1])),
    }


def verified(
    encode: Encode, synthetic: Images, train: Images, holdout: Images, random: np.random.Generator
) -> dict[str, Any]:
    """Who is hit, as ``encode`` sees it: see ``reidentify``."""
    x_ND, train_MD, holdout_QD = (encode(pooled(images.x_NC)) for images in (synthetic, train, holdout))
    different = (holdout_QD @ train_MD.T).ravel()
    fpr = max(FPR, 10 / len(different))
    threshold = float(np.quantile(different, 1 - fpr))
    best_P, best_Q = (_best(x_ND @ y_MD.T, images) for y_MD, images in ((train_MD, train), (holdout_QD, holdout)))
    hit, chance = int((best_P >= threshold).sum()), int((best_Q >= threshold).sum())
    low, high = difference_interval(hit, len(best_P), chance, len(best_Q))
    area = auc(best_P, best_Q)
    area_low, area_high = auc_interval(area, len(best_P), len(best_Q))
    return {
        "fpr": fpr,
        "n_pairs": len(different),
        "underpowered": len(different) < PAIRS,
        "threshold": threshold,
        "recognised": float(np.mean(_same(holdout, encode, random) >= threshold)),
        "train": hit / len(best_P),
        "holdout": chance / len(best_Q),
        "n_train": len(best_P),
        "n_holdout": len(best_Q),
        "excess": hit / len(best_P) - chance / len(best_Q),
        "low": low,
        "high": high,
        "auc": area,
        "auc_low": area_low,
        "auc_high": area_high,
    }


def train_encoder(others: Images, steps: int, seed: int, shared: Path | None = None) -> Encode:
    """A network trained to recognise the patients of ``others``; ``shared`` keeps its weights."""
    random = np.random.default_rng(seed)
    draws = torch.Generator().manual_seed(int(random.integers(2**31)))
    network = _network(others.x_NC.ndim - 2, draws)

    def weights() -> np.ndarray:
        _train(network, others, steps, random, draws)
        return parameters_to_vector(network.parameters()).detach().numpy()

    what = f"patients {seed} {steps} imgsynth {__version__} {digest(others.x_NC, others.owner_N)}" if shared else ""
    vector_to_parameters(torch.from_numpy(kept(shared, what, weights)), network.parameters())
    network.eval()

    @torch.inference_mode()
    def encode(images_NC: Tensor) -> np.ndarray:
        parts = [F.normalize(network(images_NC[i : i + 256])) for i in range(0, len(images_NC), 256)]
        features: np.ndarray = torch.cat(parts).numpy()
        return features

    return encode


def _train(
    network: nn.Module, others: Images, steps: int, random: np.random.Generator, draws: torch.Generator
) -> None:  # fmt: skip
    x_NC = pooled(others.x_NC)
    owned = [np.flatnonzero(others.owner_N == p) for p in range(others.n_patients)]
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for _ in range(steps):
        patients = random.permutation(len(owned))[:BATCH]
        one, other = zip(*(_two(owned[p], random) for p in patients), strict=True)
        views = torch.cat([augmented(x_NC[list(one)], draws), augmented(x_NC[list(other)], draws)])
        a_BD, b_BD = F.normalize(network(views)).chunk(2)
        similar_BB = a_BD @ b_BD.T / TEMPERATURE
        own = torch.arange(len(patients))
        loss = F.cross_entropy(similar_BB, own) + F.cross_entropy(similar_BB.T, own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def augmented(x_BC: Tensor, draws: torch.Generator) -> Tensor:
    """Images flipped along random axes and shifted by up to an eighth, a few at a time alike, and each in another
    contrast and brightness, and noised."""
    found = []
    for x_AC in x_BC.split(ALIKE):
        for axis in range(2, x_AC.ndim):
            if torch.rand((), generator=draws) < 0.5:
                x_AC = x_AC.flip(axis)
            most = x_AC.shape[axis] // 8
            x_AC = x_AC.roll(int(torch.randint(-most, most + 1, (), generator=draws)), axis)
        each = (len(x_AC),) + (1,) * (x_AC.ndim - 1)
        gain, offset = 0.8 + 0.4 * torch.rand(each, generator=draws), 0.2 * torch.rand(each, generator=draws) - 0.1
        found.append(x_AC * gain + offset + 0.05 * torch.randn(x_AC.shape, generator=draws))
    return torch.cat(found)


def _network(dims: int, draws: torch.Generator) -> nn.Module:
    """Four convolutions of stride 2, means over two cells along each axis, one linear layer."""
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    pool = nn.AdaptiveAvgPool2d(2) if dims == 2 else nn.AdaptiveAvgPool3d(2)
    layers: list[nn.Module] = []
    before = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=draws)))
        for width in WIDTHS:
            layers += [conv(before, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            before = width
        return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(before * 2**dims, FEATURES))


def _two(own: np.ndarray, random: np.random.Generator) -> tuple[int, int]:
    """Two images of a patient, the same one twice where there is no other."""
    one, other = random.permutation(own)[:2] if len(own) > 1 else (own[0], own[0])
    return int(one), int(other)


def _several(images: Images) -> bool:
    """Whether most patients have more than one image."""
    return len(images) / images.n_patients >= 1.5 or bool(np.median(np.bincount(images.owner_N)) > 1)


def _same(images: Images, encode: Encode, random: np.random.Generator) -> np.ndarray:
    """[P] similarity of two real views of each patient: two images where there are, else one and itself augmented."""
    draws = torch.Generator().manual_seed(int(random.integers(2**31)))
    x_NC = pooled(images.x_NC)
    pairs = [_two(np.flatnonzero(images.owner_N == p), random) for p in range(images.n_patients)]
    one, other = (x_NC[list(side)] for side in zip(*pairs, strict=True))
    again = [augmented(o[None], draws)[0] if i == j else o for (i, j), o in zip(pairs, other, strict=True)]
    similar: np.ndarray = (encode(one) * encode(torch.stack(again))).sum(1)
    return similar


def _best(similar_NM: np.ndarray, images: Images) -> np.ndarray:
    """[P] greatest similarity of any sample to any image of each patient."""
    best_P = np.full(images.n_patients, -math.inf)
    np.maximum.at(best_P, images.owner_N, similar_NM.max(0))
    return best_P
