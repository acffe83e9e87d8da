"""From a step's released gradient to evidence for each canary: is it among those that may be drawn?

A reading of canary j is x_j = 1 + noise where j was drawn, and noise where not. The evidence of T readings is the
logarithm of the likelihood ratio of "drawn with probability q each time" to "never", by the Neyman-Pearson lemma the
best of all scores for a Gaussian mechanism. Where q is small it finds far more than the sum of the readings (ε = 8,
q = 0.02, T = 100, M = 1000: a bound of 1.1 against 0.4).

Shape legend: M canaries, D parameters, W of them at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from imgsynth.audit.canaries.kinds import Dirac, RandomSign
from imgsynth.privacy.ranks import Sums

Tensors = dict[str, Tensor]  # of a module, by name

_HELD = 2**26  # gradient entries that are held at once, 256 MB


def evidence(x_M: np.ndarray, sd_M: np.ndarray | float, rate: float) -> np.ndarray:
    """What one step adds to the canaries' scores: log(1 - q + q exp((x - 1/2) / sd²)); x itself without noise."""
    sd_M = np.broadcast_to(np.asarray(sd_M, dtype=np.float64), x_M.shape)
    if not (sd_M > 0).all():
        return x_M
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log(1 - rate), math.log(rate) + (x_M - 0.5) / sd_M**2)


def read_dirac(canaries: Dirac, released: Sums, known: Sums, clipping_norm: float) -> np.ndarray:
    """[M] readings: the canaries' coordinates of the noised sum, in clipping norms, without the known sum."""
    read = canaries.read(released).double()
    if canaries.reads_network and known:
        read = read - canaries.read(known).to(read)
    return (read / clipping_norm).cpu().numpy()


class InputReadings:
    """Readings of canaries whose gradients overlap, by the linear estimate of least mean squared error.

    With c_j the clipped gradient of canary j at the step's weights, K_ij = ⟨c_i, c_j⟩ and r the noised sum without the
    known one, y_j = ⟨c_j, r⟩ is K b + noise of covariance (σC)² K, b_j telling whether j was drawn, with mean p = q/2
    and variance v = p (1 - p). The estimate of b is p + (K + λ)⁻¹ (y - p K 1), λ = (σC)²/v: generalised least squares
    with the ridge that follows from the noise.
    """

    def __init__(self, canaries: RandomSign, image_MC: Tensor, physical_batch: int, held: int = _HELD):
        self._canaries, self._image_MC = canaries, image_MC
        self._chunk, self._held = physical_batch, held

    def read(
        self, weights: Tensors, buffers: Tensors, residual: Sums, clipping_norm: float, noise_std: float, rate: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """[M] readings and their standard deviations; ``weights`` and ``buffers`` are those of the canaries' module
        that the step was taken at."""
        gram_MM, dot_M = self._products(weights, buffers, residual)
        clip_M = (clipping_norm / gram_MM.diagonal().clamp(min=1e-300).sqrt()).clamp(max=1.0)
        gram_MM, dot_M = gram_MM * clip_M[:, None] * clip_M, dot_M * clip_M
        p = rate / 2
        v = p * (1 - p)
        ridge = noise_std**2 / v + 1e-9 * gram_MM.diagonal().mean()
        both = torch.cat([gram_MM, (dot_M - p * gram_MM.sum(1))[:, None]], dim=1)
        system = gram_MM + ridge * torch.eye(len(gram_MM), dtype=gram_MM.dtype, device=gram_MM.device)
        solved = torch.linalg.solve(system, both)
        gain_M = solved.diagonal().clamp(1e-9, 1.0)  # of the estimate for what it estimates
        x_M = p + solved[:, -1] / gain_M
        sd_M = (v * (1 - gain_M) / gain_M).clamp(min=0).sqrt()
        return x_M.cpu().numpy(), sd_M.cpu().numpy() if noise_std > 0 else np.zeros(len(x_M))

    def _products(self, weights: Tensors, buffers: Tensors, residual: Sums) -> tuple[Tensor, Tensor]:
        """Gram matrix [M, M] of the gradients before clipping, and [M] their products with ``residual``; gradients are
        held for as many parameters at a time as fit, and made anew for the next ones."""
        r_D = torch.cat([residual[name].flatten() for name in weights]).double()
        width = max(1, self._held // self._canaries.canaries)
        gram_MM = r_D.new_zeros(self._canaries.canaries, self._canaries.canaries)
        dot_M = r_D.new_zeros(self._canaries.canaries)
        for start in range(0, len(r_D), width):
            part = slice(start, start + width)
            g_MW = torch.cat([g_BD[:, part].clone() for g_BD in self._gradients(weights, buffers)])
            gram_MM += (g_MW @ g_MW.T).double()
            dot_M += (g_MW @ r_D[part].to(g_MW.dtype)).double()
        return gram_MM, dot_M

    def _gradients(self, weights: Tensors, buffers: Tensors) -> Iterator[Tensor]:
        """The canaries' gradients, [at most physical_batch, D] at a time."""
        device = next(iter(weights.values())).device
        gradient: Callable[..., dict[str, Tensor]] = vmap(
            grad(self._loss), in_dims=(None, None, 0, 0), randomness="different"
        )
        for start in range(0, self._canaries.canaries, self._chunk):
            j_B = torch.arange(start, min(start + self._chunk, self._canaries.canaries), device=device)
            made = gradient(weights, buffers, self._image_MC[j_B.cpu()].to(device), j_B)
            yield torch.cat([made[name].flatten(1) for name in weights], dim=1)

    def _loss(self, weights: Tensors, buffers: Tensors, x_C: Tensor, j: Tensor) -> Tensor:
        canaries = self._canaries
        inputs = x_C[None], (canaries.classes + j)[None], *canaries.own_aux(j[None])
        loss: Tensor = functional_call(canaries, {**buffers, **weights}, inputs)
        return loss[0]
