"""Structural similarity of many pairs at once (Wang et al. 2004, IEEE TIP 13:600, equation 13, uniform windows).

The mean over windows of (2μ₁μ₂ + C₁)(2σ₁₂ + C₂) / ((μ₁² + μ₂² + C₁)(σ₁² + σ₂² + C₂)) is not a distance between
vectors, but in every window the covariance of all pairs is one matrix product. Images are first averaged down to a
coarse grid, windows are some voxels apart: thousands of volumes against tens of thousands take a minute, and a copy
still has similarity 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

SIDE = {2: 32, 3: 16}  # pixels of the coarse grid's longest side
WINDOW = 7  # of it, as in scikit-image
STRIDE = {2: 5, 3: 3}
C1, C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # for intensities that span [-1, 1]
PAIRS = 1 << 21  # windows times pairs in one block: 8 MiB for each of its terms, which a cache holds


def coarse(x_NC: np.ndarray, batch: int = 16) -> np.ndarray:
    """[N, *grid] float32: images [N, 1, *spatial] averaged down to the coarse grid; small ones as they are."""
    spatial = x_NC.shape[2:]
    shrink = max(1.0, max(spatial) / SIDE[len(spatial)])
    grid = tuple(max(1, round(side / shrink)) for side in spatial)
    pool = F.adaptive_avg_pool2d if len(spatial) == 2 else F.adaptive_avg_pool3d
    out = np.empty((len(x_NC), *grid), dtype=np.float32)
    for i in range(0, len(x_NC), batch):
        x = torch.from_numpy(np.ascontiguousarray(x_NC[i : i + batch])).float()
        out[i : i + batch] = pool(x, grid)[:, 0].numpy()
    return out


def dissimilarities(a_N: np.ndarray, b_M: np.ndarray) -> np.ndarray:
    """[N, M] float32, 1 − mean SSIM of coarse images [N, *grid] and [M, *grid]: 0 for copies, at most 2."""
    out_NM = np.empty((len(a_N), len(b_M)), dtype=np.float32)
    for rows in range(0, len(a_N), 256):
        a = _Windows(a_N[rows : rows + 256])
        step = max(1, PAIRS // (a.n_windows * 256))
        for columns in range(0, len(b_M), step):
            similar = _similarity(a, _Windows(b_M[columns : columns + step]))
            out_NM[rows : rows + 256, columns : columns + step] = (1 - similar).clamp(min=0).numpy()
    return out_NM


class _Windows:
    """Every window of some images: centred values [W, n, p], means and variances [W, n]."""

    def __init__(self, images_n: np.ndarray):
        x, dims = torch.from_numpy(np.ascontiguousarray(images_n)), images_n.ndim - 1
        for axis in range(1, dims + 1):
            x = x.unfold(axis, min(WINDOW, x.shape[axis]), STRIDE[dims])
        x_nWp = x.reshape(len(images_n), int(np.prod(x.shape[1 : dims + 1])), -1)
        x_Wnp = x_nWp.transpose(0, 1)
        self.mean_Wn = x_Wnp.mean(-1)
        self.centred_Wnp = x_Wnp - self.mean_Wn[..., None]
        self.ratio = 1 / (x_Wnp.shape[-1] - 1)  # sample covariance
        self.variance_Wn = self.centred_Wnp.square().sum(-1) * self.ratio
        self.n_windows = len(x_Wnp)


def _similarity(a: _Windows, b: _Windows) -> torch.Tensor:
    numerator = torch.bmm(a.centred_Wnp, b.centred_Wnp.transpose(1, 2)).mul_(2 * a.ratio).add_(C2)
    numerator.mul_((a.mean_Wn[:, :, None] * b.mean_Wn[:, None, :]).mul_(2).add_(C1))
    denominator = a.variance_Wn[:, :, None] + (b.variance_Wn[:, None, :] + C2)
    denominator.mul_(a.mean_Wn.square()[:, :, None] + (b.mean_Wn.square()[:, None, :] + C1))
    return numerator.div_(denominator).mean(0)
