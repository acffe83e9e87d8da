"""Utility for segmentation: train on synthetic pairs of image and mask, test on real patients, beside the real ceiling.

One small U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with fixed settings, once on synthetic and once on real
training pairs; Dice of each structure on the test patients, with intervals that resample patients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet
from torch.nn import functional as F

from imgsynth.cohort.masks import label_map
from imgsynth.evaluate.metric import NotDone
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, mean_by_patient, value_and_interval
from imgsynth.types import Structure

MIN_PATIENTS = 5  # with a mask, on every side
STEPS, BATCH, LEARNING_RATE = 200, 8, 2e-3
CHANNELS, STRIDES = (8, 16, 32), (2, 2)


def segmentation_utility(
    train: Images, test: Images, synthetic: Images, structures: tuple[Structure, ...], replicates: int, seeds: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """{"network", "steps", "n_test_patients", "results": [{"trained_on", "n_train", "structures": [{"name", "dice":
    {value, low, high}, "by_seed"}], "gap_to_real": …}]}; means over ``seeds`` trainings. JSON-able.

    Where a structure is neither in a test mask nor in what was found, its Dice there is 1.

    Raises:
        NotDone: without masks, with fewer patients than MIN_PATIENTS on a side, or synthetic masks that are all empty.
    """
    if not structures or any(images.masks_NM is None for images in (train, test, synthetic)):
        raise NotDone("the run has no masks (data.masks)")
    for name, images in (("train", train), ("test", test), ("synthetic", synthetic)):
        if images.n_patients < MIN_PATIENTS:
            raise NotDone(f"{images.n_patients} {name} patients; it takes {MIN_PATIENTS}")
    sides = {"synthetic": synthetic, "real": train}
    labels, true_N = {side: labels_of(images) for side, images in sides.items()}, labels_of(test)
    if not labels["synthetic"].any():
        raise NotDone("no synthetic mask has a voxel in any structure: there is nothing to learn from")
    weights_RP = bootstrap_weights(test.n_patients, replicates, np.random.default_rng(seed))

    def scores_RM(side: str, of: int) -> np.ndarray:
        found_N = predicted(sides[side], labels[side], test.x_NC, len(structures), of)
        return _by_patient(dice(found_N, true_N, len(structures)), test, weights_RP)

    dice_SRM = {side: np.stack([scores_RM(side, seed + s) for s in range(seeds)]) for side in sides}
    gap_RM = (dice_SRM["real"] - dice_SRM["synthetic"]).mean(0)
    results = []
    for side, images in sides.items():
        rows = [
            {"name": structure.name, "dice": value_and_interval(dice_SRM[side].mean(0)[:, m]),
             "by_seed": dice_SRM[side][:, 0, m].tolist(),
             "gap_to_real": value_and_interval(gap_RM[:, m]) if side == "synthetic" else None}
            for m, structure in enumerate(structures)
        ]  # fmt: skip
        results.append({"trained_on": side, "n_train": len(images), "seeds": seeds, "structures": rows})
    return {"network": "small_unet", "steps": STEPS, "n_test_patients": test.n_patients, "results": results}


def labels_of(images: Images) -> np.ndarray:
    """[N, *spatial] uint8, one label map for each image."""
    assert images.masks_NM is not None
    return np.stack([label_map(mask_MC) for mask_MC in images.masks_NM])


def predicted(train: Images, label_N: np.ndarray, x_MC: np.ndarray, structures: int, seed: int) -> np.ndarray:
    """Label maps [M, *spatial] for the images ``x_MC``, by a U-Net trained on ``train`` and its labels."""
    dims, shape = x_MC.ndim - 2, x_MC.shape[2:]
    pads = [pad for side in reversed(shape) for pad in (0, -side % 4)]  # two halvings
    x_NC, y_N = (F.pad(torch.from_numpy(np.asarray(a, np.float32)), pads, value=v)
                 for a, v in ((train.x_NC, -1.0), (label_N, 0.0)))  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(dims, 1, 1 + structures, CHANNELS, STRIDES, norm=("group", {"num_groups": 4}))
        adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        for _ in range(STEPS):
            pick = torch.randint(len(x_NC), (BATCH,))
            loss = _loss(network(x_NC[pick]), y_N[pick].long())
            adam.zero_grad()
            loss.backward()
            adam.step()
    inside = (slice(None), *(slice(0, side) for side in shape))
    with torch.inference_mode():
        tests = F.pad(torch.from_numpy(np.asarray(x_MC, np.float32)), pads, value=-1.0)
        return torch.cat([network(part).argmax(1) for part in tests.split(BATCH)]).numpy()[inside].astype(np.uint8)


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
