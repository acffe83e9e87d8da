"""The same for pairs of image and mask: the small U-Net of ``segmentation.py``, trained on the patients by DP-SGD."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgsynth.cohort.dataset import PatientDataset
from imgsynth.evaluate.dp_classifier import learn_privately, own_seed
from imgsynth.evaluate.segmentation import one_hot, pad, small_unet, soft_dice
from imgsynth.privacy.plan import PrivacyPlan

LEARNING_RATE = 1e-2  # of 0.004 to 0.04 the best at ε = 8 on 154 drawn boxes in noise, which are nobody's data


class PairLosses(nn.Module):
    """Of each image with its mask as further channels [B, 1 + m, *spatial]: cross-entropy over its voxels and soft Dice
    of its structures, in equal parts. Each loss is of its own image alone, so that it can be clipped by patient."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        p_BM = (x_BC[:, 1:] + 1) / 2
        label_B = torch.cat([1 - p_BM.sum(1, keepdim=True), p_BM], dim=1).argmax(1)  # cohort.masks.label_map
        logit_BC, label_B = self.network(pad(x_BC[:, :1], -1.0, 2)), pad(label_B, 0, 1)
        entropy_B = F.cross_entropy(logit_BC, label_B, reduction="none").flatten(1).mean(1)
        each = list(range(2, logit_BC.ndim))
        return entropy_B + 1 - soft_dice(logit_BC, one_hot(label_B, logit_BC), each).mean(1)


def segment_privately(
    patients: PatientDataset, structures: int, plan: PrivacyPlan, seed: int | None = None
) -> nn.Module:
    """The U-Net after all steps of ``plan`` (``classifier_plan``) on ``patients``, whose images have masks. ``seed`` is
    that of the plan."""
    with own_seed(seed):
        network = small_unet(patients.grid.spatial_dims, structures)
    learn_privately(PairLosses(network), patients, plan, lambda x_BC: x_BC, LEARNING_RATE, seed)
    return network.eval()
