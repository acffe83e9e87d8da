"""Utility for segmentation: train on synthetic pairs of image and mask, test on real patients, beside the real ceiling.

One small U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with fixed settings, on synthetic, on real and on both
training pairs, on those of the trivial generator at the same ε (``trivial.py``), and on real ones by DP-SGD at the same
ε (``dp_segmenter.py``); Dice of each structure on the test patients, with intervals that resample patients. And whether
images show what their masks say: the real-trained one on the synthetic images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from imgsynth.evaluate.segmentation_groups import beside_few, dice_by_group, resampled
from imgsynth.evaluate.subgroups import Attributes
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
    shares: Sequence[float] = (), attributes: Attributes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """{"network", "steps", "n_test_patients", "results": [{"trained_on", "n_train", "seeds", "structures": [{"name",
    "dice": {value, low, high}, "by_seed", "gap_to_real", "over_trivial"}]}], "shows_its_mask": [{"name", "dice"}],
    "curve", "by_group" (``segmentation_groups``), "sentences"}; means over ``seeds`` trainings. JSON-able.

    ``both``: also train on real and synthetic pairs together. ``shared``: a folder in which networks that saw nothing
    synthetic are kept, by content, for other runs on the cohort. ``shares`` of the train patients are those of the
    curve.

    ``shows_its_mask`` is the Dice of synthetic masks and of what the real-trained network finds in their images.
    ``over_trivial`` is the difference from what the trivial pairs taught or, where that is better, from their one mask
    as the answer for everybody (ATLAS), on the same resamples, with its p-value. Where a structure is neither in a
    test mask nor in what was found, its Dice there is 1. What learns from empty masks finds nothing.

    Raises:
        NotDone: without masks, or with fewer patients than MIN_PATIENTS on a side.
    """
    _require_pairs({"train": train, "test": test, "synthetic": synthetic}, structures)
    sides = {SYNTHETIC: (synthetic.x_NC, labels_of(synthetic)), REAL: (train.x_NC, labels_of(train))}
    if both:
        sides[BOTH] = _together(sides[REAL], sides[SYNTHETIC])
    if rivals is not None:
        sides[TRIVIAL] = rivals.trivial.x_NC, labels_of(rivals.trivial)
    m = len(structures)
    weights_RP, made_RP = (bootstrap_weights(images.n_patients, replicates, np.random.default_rng(seed))
                           for images in (test, synthetic))  # fmt: skip
    bench = _Bench(test, labels_of(test), m, range(seed, seed + seeds), shared)
    networks = {side: bench.networks(x_NC, label_N, keep=side in (REAL, TRIVIAL))
                for side, (x_NC, label_N) in sides.items()}  # fmt: skip
    patients_SPM = {side: bench.by_patient(learned) for side, learned in networks.items()}
    n_train = {side: len(x_NC) for side, (x_NC, _) in sides.items()}
    if rivals is not None:
        atlas = label_map(rivals.trivial.whole_NC[:, 1:].mean(0))
        patients_SPM[DP_SGD] = [bench.patients(found_N) for found_N in rivals.dp_sgd(test)]
        patients_SPM[ATLAS] = [bench.patients(np.broadcast_to(atlas, bench.true_N.shape))]
        n_train[DP_SGD] = n_train[ATLAS] = rivals.n_train
    dice_SRM = {side: [resampled(one_PM, weights_RP) for one_PM in scores] for side, scores in patients_SPM.items()}
    results = _results(dice_SRM, n_train, structures)

    def beside(keep_N: np.ndarray, with_synthetic: bool) -> np.ndarray:
        """[1 + R, m] of training on some real pairs, and on all synthetic ones too where so asked."""
        if keep_N.all() and (on := BOTH if with_synthetic else REAL) in dice_SRM:
            return np.mean(dice_SRM[on], axis=0)
        real = train.x_NC[keep_N], sides[REAL][1][keep_N]
        pair = _together(real, sides[SYNTHETIC]) if with_synthetic else real
        learned_SPM = bench.by_patient(bench.networks(pair[0], pair[1], keep=not with_synthetic))
        return np.mean([resampled(one_PM, weights_RP) for one_PM in learned_SPM], axis=0)

    real_PM, made_PM = (np.mean(patients_SPM[side], axis=0) for side in (REAL, SYNTHETIC))
    shown_SNM = [dice(finds(one, synthetic.x_NC), sides[SYNTHETIC][1], m) for one in networks[REAL]]
    shown_RM = resampled(mean_by_patient(np.mean(shown_SNM, axis=0), synthetic.owner_N, synthetic.n_patients), made_RP)
    return {
        "network": "small_unet",
        "steps": STEPS,
        "n_test_patients": test.n_patients,
        "results": results,
        "shows_its_mask": [
            {"name": s.name, "dice": value_and_interval(shown_RM[:, k])} for k, s in enumerate(structures)
        ],
        "curve": beside_few(train, shares, MIN_PATIENTS, seed, beside),
        "by_group": dice_by_group(real_PM, made_PM, test, attributes or {}, structures, weights_RP),
        "sentences": _sentences(results),
    }


def _require_pairs(sides: dict[str, Images], structures: Sequence[Structure]) -> None:
    if not structures or any(images.masks_NM is None for images in sides.values()):
        raise NotDone("the run has no masks (data.masks)")
    for name, images in sides.items():
        if images.n_patients < MIN_PATIENTS:
            raise NotDone(f"{images.n_patients} {name} patients; it takes {MIN_PATIENTS}")


@dataclass(frozen=True, eq=False)
class _Bench:
    """The test patients with their label maps ``true_N``, the seeds of trainings, and where networks are kept."""

    test: Images
    true_N: np.ndarray
    structures: int
    seeds: Sequence[int]
    shared: Path | None

    def networks(self, x_NC: np.ndarray, label_N: np.ndarray, keep: bool) -> list[nn.Module | None]:
        """One for each seed; None where there is nothing to learn from."""
        if not label_N.any():
            return [None for _ in self.seeds]
        folder = self.shared if keep else None
        return [trained(x_NC, label_N, self.structures, seed, folder) for seed in self.seeds]

    def by_patient(self, networks: Sequence[nn.Module | None]) -> list[np.ndarray]:
        return [self.patients(finds(network, self.test.x_NC)) for network in networks]

    def patients(self, found_N: np.ndarray) -> np.ndarray:
        """[P, m] Dice of label maps that were found in the test images."""
        found_NM = dice(found_N, self.true_N, self.structures)
        return mean_by_patient(found_NM, self.test.owner_N, self.test.n_patients)


Pair = tuple[np.ndarray, np.ndarray]  # images [N, 1, *spatial] and their label maps


def _together(real: Pair, made: Pair) -> Pair:
    x_NC, label_N = (np.concatenate([a, b.astype(a.dtype)]) for a, b in zip(real, made, strict=True))
    return x_NC, label_N


def finds(network: nn.Module | None, x_NC: np.ndarray) -> np.ndarray:
    """``found``; nothing anywhere without a network."""
    return np.zeros((len(x_NC), *x_NC.shape[2:]), np.uint8) if network is None else found(network, x_NC)


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
