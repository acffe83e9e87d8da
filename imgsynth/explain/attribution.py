"""What the real/synthetic classifier looks at, voxel by voxel. LOCAL ONLY: it is trained on real patients.

The classifier is the small CNN of ``evaluate.detect``, two-fold across patients: every image is explained by the
network that was trained on the other half. Attribution by integrated gradients (Sundararajan, Taly and Yan 2017,
arXiv:1703.01365), of the log odds "synthetic", from the mean of real and synthetic images as baseline. It is complete:
a map's voxels sum to the log odds of the image less those of the baseline, but for the error of the numerical
integral, which is reported.

Maps can look convincing whatever the classifier learned (Adebayo et al. 2018, arXiv:1810.03292). So the same is done
with classifiers whose training labels were shuffled, and how alike the two mean maps are stands beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from imgsynth.evaluate.classifiers import ConvolutionalNetwork
from imgsynth.evaluate.detect import MIN_PATIENTS, halves
from imgsynth.evaluate.metric import require
from imgsynth.evaluate.scores import weighted_auc
from imgsynth.measure.images import Images
from imgsynth.measure.small_cnn import pooled
from imgsynth.types import Fault

POINTS = 48  # of the numerical integral (Gauss-Legendre)
AT_ONCE = 64  # images in one pass
VARIED = 0.02  # model values: 1 % of the window


def missing_captum() -> Fault | None:
    """Where the package for attributions is not installed."""
    if find_spec("captum") is not None:
        return None
    return Fault("explain.attributed", "maps of the real/synthetic classifier, without the package captum", "the "
                 "package that computes them", "pip install imgsynth[explain], or explain.attributed=0")  # fmt: skip


class LogOdds(nn.Module):
    """The log odds [B] that an image is synthetic; ``network`` gives logits of real and synthetic."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x_BC: Tensor) -> Tensor:
        logit_B2 = self.network(pooled(x_BC))
        return logit_B2[:, 1] - logit_B2[:, 0]


def integrated(score: nn.Module, x_NC: np.ndarray, baseline_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attributions [N, C, *S] of ``score`` (images [B, C, *S] to numbers [B]), and what each misses of completeness."""
    from captum.attr import IntegratedGradients  # an extra; ``missing_captum`` has looked

    method = IntegratedGradients(score)
    maps, missed = [], []
    for x_C in x_NC:
        x_1C = torch.from_numpy(np.array(x_C[None], dtype=np.float32))
        base_1C = torch.from_numpy(np.array(baseline_C[None], dtype=np.float32))
        map_1C, delta_1 = method.attribute(
            x_1C, base_1C, n_steps=POINTS, internal_batch_size=AT_ONCE, return_convergence_delta=True
        )
        maps.append(map_1C.detach().numpy()[0])
        missed.append(float(delta_1))
    return np.stack(maps), np.array(missed)


@dataclass(frozen=True, eq=False)
class Told:
    """A two-fold classifier's held-out log odds and its maps.

    ``odds_N`` [N] of all images, real ones first; ``pick_M`` those that were explained, ``map_MS`` [M, *S] how.
    ``missed`` is the largest error of completeness, as a share of what maps sum to on average. ``varied_S``: where the
    explained images differ from the baseline by VARIED or more on average; elsewhere every map is nearly 0.
    ``start`` is the log odds of the baseline, mean of both networks: a map sums to an image's log odds less that.
    """

    odds_N: np.ndarray
    synthetic_N: np.ndarray
    auc: float
    pick_M: np.ndarray
    map_MS: np.ndarray
    missed: float
    varied_S: np.ndarray
    start: float

    def mean_amount(self) -> np.ndarray:
        """[*S] mean absolute attribution over the explained images."""
        return np.abs(self.map_MS).mean(0)


def told(real: Images, made: Images, explained: int, seed: int, shuffle: bool = False) -> Told:
    """Train, ask and explain ``explained`` images of each kind: the surest of its kind, and others at random.

    ``shuffle``: the training labels are permuted, as a control. Raises NotDone with too few patients.
    """
    n = min(real.n_patients, len(made))
    require(n >= MIN_PATIENTS, f"{n} patients on the smallest side; it takes {MIN_PATIENTS}")
    random = np.random.default_rng(seed)
    half_N = np.concatenate([halves(real, random), halves(made, random)])
    x_NC = np.concatenate([real.x_NC, made.x_NC.astype(real.x_NC.dtype)])
    side_N = np.repeat([0, 1], [len(real), len(made)])
    classifier = ConvolutionalNetwork(1)
    seen_N = classifier.seen(x_NC)
    nets, odds_N = [], np.zeros(len(x_NC))
    for half in (0, 1):
        fit = half_N != half
        labels = random.permutation(side_N[fit]) if shuffle else side_N[fit]
        network = LogOdds(classifier.fitted(seen_N[fit], labels, 2, seed)).eval().requires_grad_(False)
        nets.append(network)
        with torch.inference_mode():
            asked = torch.from_numpy(seen_N[half_N == half]).split(AT_ONCE)
            odds_N[half_N == half] = torch.cat([network(part) for part in asked]).numpy()
    folds = [half_N == half for half in (0, 1)]  # within a half: two networks have two scales
    auc = np.mean([weighted_auc(odds_N[p], side_N[p] == 1, np.ones((1, int(p.sum()))))[0] for p in folds])
    picked = [_picked(np.flatnonzero(side_N == k), (2 * k - 1) * odds_N, explained, random) for k in (0, 1)]
    pick_M = np.concatenate(picked)
    base_C = (real.x_NC.mean(0, dtype=np.float64) + made.x_NC.mean(0, dtype=np.float64)) / 2
    map_MS, share_M = np.zeros((len(pick_M), *x_NC.shape[2:])), np.zeros(len(pick_M))
    for half, network in enumerate(nets):
        mine = half_N[pick_M] == half
        if mine.any():
            maps, missed = integrated(network, x_NC[pick_M[mine]], base_C)
            map_MS[mine], share_M[mine] = maps[:, 0], missed
    total = np.abs(map_MS.reshape(len(map_MS), -1).sum(1)).mean()
    missed_most = float(np.abs(share_M).max() / total) if total else 0.0
    varied_S = np.abs(x_NC[pick_M, 0] - base_C[0]).mean(0) >= VARIED
    base_1C = torch.from_numpy(base_C[None].astype(np.float32))
    with torch.inference_mode():
        start = float(np.mean([float(network(base_1C)) for network in nets]))
    return Told(odds_N, side_N, float(auc), pick_M, map_MS, missed_most, varied_S, start)


def _picked(index_K: np.ndarray, surely_N: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """n of ``index_K``: half of them the surest, surest first, the others at random."""
    order = index_K[np.argsort(-surely_N[index_K], kind="stable")]
    surest, rest = order[: n - n // 2], order[n - n // 2 :]
    return np.concatenate([surest, random.permutation(rest)[: n // 2]])


def likeness(a: Told, b: Told) -> float:
    """Rank correlation of two mean absolute maps where images vary; 1: the maps do not follow what was learned."""
    where_S = a.varied_S & b.varied_S
    require(int(where_S.sum()) > 2, "images do not differ")
    return float(spearmanr(a.mean_amount()[where_S], b.mean_amount()[where_S]).statistic)
