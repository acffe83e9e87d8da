"""Utility for segmentation: train on synthetic pairs of image and mask, test on real patients, beside the real ceiling.

One small U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with fixed settings, on synthetic, on real and on both
training pairs; Dice of each structure on the test patients, with intervals that resample patients. And whether images
show what their masks say: the real-trained one on the synthetic images.
"""

from __future__ import annotations

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
from imgsynth.measure.images import Images
from imgsynth.measure.kept import digest, kept
from imgsynth.measure.resampling import bootstrap_weights, mean_by_patient, value_and_interval
from imgsynth.types import Structure

MIN_PATIENTS = 5  # with a mask, on every side
STEPS, BATCH, LEARNING_RATE = 200, 8, 2e-3
BOTH = "real + synthetic"
CHANNELS, STRIDES = (8, 16, 32), (2, 2)


def segmentation_utility(
    train: Images, test: Images, synthetic: Images, structures: tuple[Structure, ...], replicates: int, seeds: int,
    seed: int, both: bool = True, shared: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """{"network", "steps", "n_test_patients", "results": [{"trained_on", "n_train", "structures": [{"name", "dice":
    {value, low, high}, "by_seed", "gap_to_real"}]}], "shows_its_mask": [{"name", "dice"}]}; means over ``seeds``
    trainings. JSON-able. ``both``: also train on real and synthetic pairs together. ``shared``: a folder in which the
    real-trained networks are kept, by content, for other runs on the cohort.

    ``shows_its_mask`` is the Dice of synthetic masks and of what the real-trained network finds in their images.
    Where a structure is neither in a test mask nor in what was found, its Dice there is 1.

    Raises:
        NotDone: without masks, with fewer patients than MIN_PATIENTS on a side, or synthetic masks that are all empty.
    """
    if not structures or any(images.masks_NM is None for images in (train, test, synthetic)):
        raise NotDone("the run has no masks (data.masks)")
    for name, images in (("train", train), ("test", test), ("synthetic", synthetic)):
        if images.n_patients < MIN_PATIENTS:
            raise NotDone(f"{images.n_patients} {name} patients; it takes {MIN_PATIENTS}")
    labels = {"synthetic": labels_of(synthetic), "real": labels_of(train)}
    if not labels["synthetic"].any():
        raise NotDone("no synthetic mask has a voxel in any structure: there is nothing to learn from")
    sides = {"synthetic": synthetic.x_NC, "real": train.x_NC}
    if both:
        sides[BOTH] = np.concatenate([train.x_NC, synthetic.x_NC.astype(train.x_NC.dtype)])
        labels[BOTH] = np.concatenate([labels["real"], labels["synthetic"]])
    true_N, m = labels_of(test), len(structures)
    weights_RP, made_RP = (bootstrap_weights(images.n_patients, replicates, np.random.default_rng(seed))
                           for images in (test, synthetic))  # fmt: skip
    dice_SRM: dict[str, list[np.ndarray]] = {side: [] for side in sides}
    shown_SRM = []
    for side, s in product(sides, range(seeds)):
        network = trained(sides[side], labels[side], m, seed + s, shared if side == "real" else None)
        dice_SRM[side].append(_by_patient(dice(found(network, test.x_NC), true_N, m), test, weights_RP))
        if side == "real":
            shown_NM = dice(found(network, synthetic.x_NC), labels["synthetic"], m)
            shown_SRM.append(_by_patient(shown_NM, synthetic, made_RP))
    mean_RM, shown_RM = {side: np.mean(scores, axis=0) for side, scores in dice_SRM.items()}, np.mean(shown_SRM, axis=0)
    results = []
    for side, x_NC in sides.items():
        rows = [
            {"name": structure.name, "dice": value_and_interval(mean_RM[side][:, k]),
             "by_seed": [float(scores[0, k]) for scores in dice_SRM[side]],
             "gap_to_real": None if side == "real" else value_and_interval((mean_RM["real"] - mean_RM[side])[:, k])}
            for k, structure in enumerate(structures)
        ]  # fmt: skip
        results.append({"trained_on": side, "n_train": len(x_NC), "seeds": seeds, "structures": rows})
    shown = [{"name": s.name, "dice": value_and_interval(shown_RM[:, k])} for k, s in enumerate(structures)]
    return {"network": "small_unet", "steps": STEPS, "n_test_patients": test.n_patients, "results": results,
            "shows_its_mask": shown}  # fmt: skip


def labels_of(images: Images) -> np.ndarray:
    """[N, *spatial] uint8, one label map for each image."""
    assert images.masks_NM is not None
    return np.stack([label_map(mask_MC) for mask_MC in images.masks_NM])


def trained(x_NC: np.ndarray, label_N: np.ndarray, structures: int, seed: int, folder: Path | None = None) -> nn.Module:
    """A U-Net that learned label maps [N, *spatial] from images [N, 1, *spatial]; ``folder`` keeps its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(x_NC.ndim - 2, 1, 1 + structures, CHANNELS, STRIDES, norm=("group", {"num_groups": 4}))

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
    """float32, with ``value`` behind each axis after the first ``before``, up to what can be halved twice."""
    pads = [pad for side in reversed(array.shape[before:]) for pad in (0, -side % 4)]
    return F.pad(torch.from_numpy(np.asarray(array, np.float32)), pads, value=value)


def _loss(logit_BC: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and soft Dice of the structures in equal parts, as nnU-Net takes them (Isensee et al. 2021)."""
    p_BC = logit_BC.softmax(1)[:, 1:]
    true_BC = torch.stack([y_B == k for k in range(1, logit_BC.shape[1])], dim=1).float()
    axes = [0, *range(2, logit_BC.ndim)]
    soft_C = (2 * (p_BC * true_BC).sum(axes) + 1) / (p_BC.sum(axes) + true_BC.sum(axes) + 1)
    return F.cross_entropy(logit_BC, y_B) + 1 - soft_C.mean()


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
