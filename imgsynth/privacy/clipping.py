"""The clipping norm C of a run: a public constant, or one that follows a quantile of the patients' norms privately.

Andrew, Thakkar, McMahan and Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping" (arXiv
1905.03871): each step also counts, with noise, the drawn patients whose gradient is at most C long, and moves C toward
the norm that a wanted share γ of them does not exceed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from imgsynth.privacy.plan import PrivacyPlan

_FARTHEST = 1e6  # C stays within this factor of where it began: neither 0 nor ∞ can be reached, whatever the data


def gradient_noise(total: float, count: float) -> float:
    """σ_g: the noise multiplier of the gradient with which gradient and count together cost as much as ``total`` alone.

    One step releases the sum of gradients clipped to C, with noise N(0, (σ_g C)²) on each coordinate, and the sum of
    ±1/2, with noise N(0, σ_b²), ``count`` = σ_b. Both come from one Poisson batch. Divided by their noises they are one
    vector with standard normal noise, which a patient moves by at most √((1/σ_g)² + (1/(2σ_b))²): the two parts are
    orthogonal, their lengths at most C and exactly 1/2. That is the Gaussian mechanism of noise multiplier σ with
    1/σ² = 1/σ_g² + 1/(2σ_b)² (Andrew et al., Theorem 1), solved here for σ_g. ``total`` = 0 gives 0.
    """
    if total == 0:
        return 0.0
    assert 2 * count > total, "the count alone would cost more than the whole step"
    return float((total**-2 - (2 * count) ** -2) ** -0.5)


def default_count_noise(total: float, normaliser: float) -> float:
    """σ_b: a twentieth of the expected batch (Andrew et al., section 3.1), and at least 2.5 σ, at which the gradient's
    noise grows by 2 %."""
    return max(normaliser / 20, 2.5 * total)


def count_within(norms_P: Tensor, clipping_norm: float) -> Tensor:
    """Σ_p (1[‖g_p‖ <= C] - 1/2): a scalar, double precision, exact. A norm that is not finite is above C.

    Formal guarantee: adding or removing a patient moves it by exactly 1/2. (Counting 0 or 1 would have twice that.)
    """
    return ((norms_P <= clipping_norm).double() - 0.5).sum()


class ClippingNorm:
    """C_t, the norm that step t clips to. ``value`` is C_t; without ``plan.clipping_quantile`` it never moves.

    C_1 is the plan's public ``clipping_norm``. Each later one is a function of noised counts, which the plan's ε pays
    for: it may be shown and stored. It stays within a factor of 10⁶ of C_1.
    """

    def __init__(self, plan: PrivacyPlan):
        self._plan = plan
        self.value = plan.clipping_norm

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the clipped sum, σ_g C_t; 0 in mode "none"."""
        return self._plan.gradient_noise_multiplier * self.value

    @property
    def count_noise_std(self) -> float:
        """Standard deviation of the noise on the count, σ_b; 0 where the gradient has none either."""
        return self._plan.count_noise_multiplier if self._plan.noise_multiplier > 0 else 0.0

    def follow(self, noised_count: float) -> None:
        """C <- C exp(-η (b̃ - γ)), with ``noised_count`` that of ``count_within`` over the whole batch, with its noise.

        b̃ = count / (q n) + 1/2 estimates the share of patients within C. Its denominator is public, so that an empty
        batch says 1/2 on average and moves C as any other.
        """
        plan = self._plan
        assert plan.clipping_quantile is not None
        share = noised_count / plan.normaliser + 0.5
        log = math.log(self.value / plan.clipping_norm) - plan.clipping_learning_rate * (share - plan.clipping_quantile)
        farthest = math.log(_FARTHEST)
        self.value = plan.clipping_norm * math.exp(min(max(log, -farthest), farthest))

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = float(state["value"])
