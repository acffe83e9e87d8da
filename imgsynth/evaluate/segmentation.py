"""Utility for segmentation: train on synthetic pairs of image and mask, test on real patients, beside the real ceiling.

One small U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with fixed settings, on synthetic, on real and on both
training pairs, on those of the trivial generator at the same ε (``trivial.py``), and on real ones by DP-SGD at the same
ε (``dp_segmenter.py``); Dice of each structure on the test patients, with intervals that resample patients. And whether
images show what their masks say: the real-trained one on the synthetic images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from imgsynth import __version__
from imgsynth.cohort.masks import label_map
from imgsynth.evaluate.metric import NotDone
from imgsynth.evaluate.utility import ATLAS, BOTH, DP_SGD, REAL, SYNTHETIC, TRIVIAL, difference
from imgsynth.measure.images import Images
from imgsynth.measure.kept import digest, kept
from imgsynth.measure.resampling import bootstrap_weights, mean_by_patient, value_and_interval
from imgsynth.types import Structure

MIN_PATIENTS = 5  # with a mask, on every side
STEPS, BATCH, LEARNING_RATE = 200, 8, 2e-3
CHANNELS, STRIDES = (8, 16, 32), (2, 2)


@dataclass(frozen=True, eq=False)
class PairRivals:
    """What synthetic pairs must beat: as many pairs of the trivial generator, and the label maps uint8
    [S, N, *spatial] that S networks trained by DP-SGD, on all ``n_train`` train patients, find in the test images."""

    trivial: Images
    dp_sgd: Callable[[Images], np.ndarray]
    n_train: int


def segmentation_utility(
    train: Images, test: Images, synthetic: Images, structures: tuple[Structure, ...], replicates: int, seeds: int,
    seed: int, both: bool = True, shared: Path | None = None, rivals: PairRivals | None = None,
) -> dict[str, Any]:  # fmt: skip
    """{"network", "steps", "n_test_patients", "results": [{"trained_on", "n_train", "seeds", "structures": [{"name",
    "dice": {value, low, high}, "by_seed", "gap_to_real", "over_trivial"}]}], "shows_its_mask": [{"name", "dice"}],
    "sentences"}; means over ``seeds`` trainings. JSON-able. ``both``: also train on real and synthetic pairs together.
    ``shared``: a folder in which networks that saw nothing synthetic are kept, by content, for other runs on the
    cohort.

    ``shows_its_mask`` is the Dice of synthetic masks and of what the real-trained network finds in their images.
    ``over_trivial`` is the difference from what the trivial pairs taught or, where that is better, from their one mask
    as the answer for everybody (ATLAS), on the same resamples, with its p-value. Where a structure is neither in a
    test mask nor in what was found, its Dice there is 1. What learns from empty masks finds nothing.

    Raises:
        NotDone: without masks, or with fewer patients than MIN_PATIENTS on a side.
    """
    if not structures or any(images.masks_NM is None for images in (train, test, synthetic)):
        raise NotDone("the run has no masks (data.masks)")
    for name, images in (("train", train), ("test", test), ("synthetic", synthetic)):
        if images.n_patients < MIN_PATIENTS:
            raise NotDone(f"{images.n_patients} {name} patients; it takes {MIN_PATIENTS}")
    sides = {SYNTHETIC: (synthetic.x_NC, labels_of(synthetic)), REAL: (train.x_NC, labels_of(train))}
    if both:
        sides[BOTH] = tuple(np.concatenate([real, made.astype(real.dtype)])  # type: ignore[assignment]
                            for made, real in zip(sides[SYNTHETIC], sides[REAL], strict=True))  # fmt: skip
    if rivals is not None:
        sides[TRIVIAL] = rivals.trivial.x_NC, labels_of(rivals.trivial)
    true_N, m = labels_of(test), len(structures)
    weights_RP, made_RP = (bootstrap_weights(images.n_patients, replicates, np.random.default_rng(seed))
                           for images in (test, synthetic))  # fmt: skip
    n_train = {side: len(x_NC) for side, (x_NC, _) in sides.items()}
    dice_SRM: dict[str, list[np.ndarray]] = {}
    shown_SRM = []
    for side, s in product(sides, range(seeds)):
        x_NC, label_N = sides[side]
        if label_N.any():
            network = trained(x_NC, label_N, m, seed + s, shared if side in (REAL, TRIVIAL) else None)
            found_N = found(network, test.x_NC)
        else:
            found_N = np.zeros_like(true_N)
        scores = _by_patient(dice(found_N, true_N, m), test, weights_RP)
        dice_SRM.setdefault(side, []).append(scores)
        if side == REAL:
            shown_NM = dice(found(network, synthetic.x_NC), sides[SYNTHETIC][1], m)
            shown_SRM.append(_by_patient(shown_NM, synthetic, made_RP))
    if rivals is not None:
        dice_SRM[DP_SGD] = [_by_patient(dice(one_N, true_N, m), test, weights_RP) for one_N in rivals.dp_sgd(test)]
        atlas = label_map(rivals.trivial.whole_NC[:, 1:].mean(0))
        everybody_N = np.broadcast_to(atlas, true_N.shape)
        dice_SRM[ATLAS] = [_by_patient(dice(everybody_N, true_N, m), test, weights_RP)]
        n_train[DP_SGD] = n_train[ATLAS] = rivals.n_train
    results = _results(dice_SRM, n_train, structures)
    shown_RM = np.mean(shown_SRM, axis=0)
    shown = [{"name": s.name, "dice": value_and_interval(shown_RM[:, k])} for k, s in enumerate(structures)]
    return {"network": "small_unet", "steps": STEPS, "n_test_patients": test.n_patients, "results": results,
            "shows_its_mask": shown, "sentences": _sentences(results)}  # fmt: skip


def _results(
    dice_SRM: dict[str, list[np.ndarray]], n_train: dict[str, int], structures: Sequence[Structure]
) -> list[dict[str, Any]]:  # fmt: skip
    mean_RM = {side: np.mean(scores, axis=0) for side, scores in dice_SRM.items()}

    def less(a: str, b: str, k: int) -> dict[str, float] | None:
        return difference(mean_RM[a][:, k], mean_RM[b][:, k]) if a != b and b in mean_RM else None

    def trivial(k: int) -> str:
        return max((one for one in (TRIVIAL, ATLAS) if one in mean_RM), key=lambda one: mean_RM[one][0, k],
                   default=TRIVIAL)  # fmt: skip

    return [
        {"trained_on": side, "n_train": n_train[side], "seeds": len(scores), "structures": [
            {"name": structure.name, "dice": value_and_interval(mean_RM[side][:, k]),
             "by_seed": [float(one[0, k]) for one in scores],
             "gap_to_real": None if side == REAL else less(REAL, side, k),
             "over_trivial": less(side, trivial(k), k) if side == SYNTHETIC else None}
            for k, structure in enumerate(structures)
        ]}
        for side, scores in dice_SRM.items()
    ]  # fmt: skip


def _sentences(results: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers come to, for people: do synthetic pairs beat the trivial ones, and DP-SGD."""
    rows = {side["trained_on"]: side["structures"] for side in results}
    said = []
    for row in rows[SYNTHETIC]:
        if (over := row["over_trivial"]) is not None:
            beats = "beat" if over["low"] > 0 else "do not beat"
            said.append(f"{row['name']}: synthetic pairs {beats} noised class means of images and masks at the same ε "
                        f"(Dice {over['value']:+.3f} [{over['low']:+.3f}, {over['high']:+.3f}]).")  # fmt: skip
    for row, direct in zip(rows[SYNTHETIC], rows.get(DP_SGD, ()), strict=False):
        dice_direct, dice_made = (one["dice"]["value"] for one in (direct, row))
        said.append(f"{row['name']}: a U-Net trained by DP-SGD on the patients at the same ε has Dice "
                    f"{dice_direct:.3f}, trained on synthetic pairs {dice_made:.3f}.")  # fmt: skip
    return said


def labels_of(images: Images) -> np.ndarray:
    """[N, *spatial] uint8, one label map for each image."""
    assert images.masks_NM is not None
    return np.stack([label_map(mask_MC) for mask_MC in images.masks_NM])


def small_unet(dims: int, structures: int) -> nn.Module:
    """Images [B, 1, *spatial], each side a multiple of 4, to logits of the background and each structure."""
    return UNet(dims, 1, 1 + structures, CHANNELS, STRIDES, norm=("group", {"num_groups": 4}))


def trained(x_NC: np.ndarray, label_N: np.ndarray, structures: int, seed: int, folder: Path | None = None) -> nn.Module:
    """A U-Net that learned label maps [N, *spatial] from images [N, 1, *spatial]; ``folder`` keeps its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = small_unet(x_NC.ndim - 2, structures)

        def weights() -> np.ndarray:
            _train(network, padded(x_NC, -1.0, 2), padded(label_N, 0.0, 1).long())
            return parameters_to_vector(network.parameters()).detach().numpy()

        settings = f"{seed} {structures} {STEPS} {CHANNELS} imgsynth {__version__}"
        what = f"small_unet {settings} {digest(x_NC, label_N)}" if folder else ""
        vector_to_parameters(torch.from_numpy(kept(folder, what, weights)), network.parameters())
    return network


def _train(network: nn.Module, images_NC: torch.Tensor, y_N: torch.Tensor) -> None:
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        pick = torch.randint(len(images_NC), (BATCH,))
        loss = _loss(network(images_NC[pick]), y_N[pick])
        adam.zero_grad()
        loss.backward()
        adam.step()


def found(network: nn.Module, x_NC: np.ndarray) -> np.ndarray:
    """Label maps uint8 [N, *spatial] of images [N, 1, *spatial]."""
    inside = (slice(None), *(slice(0, side) for side in x_NC.shape[2:]))
    with torch.inference_mode():
        parts = [network(part).argmax(1) for part in padded(x_NC, -1.0, 2).split(BATCH)]
    return torch.cat(parts).numpy()[inside].astype(np.uint8)


def padded(array: np.ndarray, value: float, before: int) -> torch.Tensor:
    """``pad`` in float32."""
    return pad(torch.from_numpy(np.asarray(array, np.float32)), value, before)


def pad(x: torch.Tensor, value: float, before: int) -> torch.Tensor:
    """With ``value`` behind each axis after the first ``before``, up to what can be halved twice."""
    return F.pad(x, [end for side in reversed(x.shape[before:]) for end in (0, -side % 4)], value=value)


def _loss(logit_BC: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and soft Dice of the structures in equal parts, as nnU-Net takes them (Isensee et al. 2021)."""
    axes = [0, *range(2, logit_BC.ndim)]
    return F.cross_entropy(logit_BC, y_B) + 1 - soft_dice(logit_BC, one_hot(y_B, logit_BC), axes).mean()


def one_hot(y_B: torch.Tensor, logit_BC: torch.Tensor) -> torch.Tensor:
    """[B, m, *spatial] 1 where the label map has the structure."""
    return torch.stack([y_B == k for k in range(1, logit_BC.shape[1])], dim=1).float()


def soft_dice(logit_BC: torch.Tensor, true_BM: torch.Tensor, axes: list[int]) -> torch.Tensor:
    """Of each structure, over ``axes``; 1 added above and below the line."""
    p_BM = logit_BC.softmax(1)[:, 1:]
    return (2 * (p_BM * true_BM).sum(axes) + 1) / (p_BM.sum(axes) + true_BM.sum(axes) + 1)


def dice(found_N: np.ndarray, true_N: np.ndarray, structures: int) -> np.ndarray:
    """[N, m] 2 |A ∩ B| / (|A| + |B|) of each structure in each image; 1 where both are empty."""
    flat = tuple(range(1, true_N.ndim))
    out = np.ones((len(true_N), structures))
    for m in range(structures):
        a_N, b_N = found_N == m + 1, true_N == m + 1
        size_N = a_N.sum(flat) + b_N.sum(flat)
        np.divide(2 * (a_N & b_N).sum(flat), size_N, out=out[:, m], where=size_N > 0)
    return out


def _by_patient(dice_NM: np.ndarray, test: Images, weights_RP: np.ndarray) -> np.ndarray:
    """[1 + R, m] the mean over patients of their mean over images; entry 0 is the test set itself."""
    patient_PM = mean_by_patient(dice_NM, test.owner_N, test.n_patients)
    everyone_RP = np.vstack([np.ones(test.n_patients), weights_RP])
    return everyone_RP @ patient_PM / everyone_RP.sum(1, keepdims=True)
