"""Which method, batch and number of steps suit n patients: fixed rules from published and from our own results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from imgsynth.schema import PrivacyConfig
from imgsynth.training.propose import USABLE, noise_for

STEPS = (100, 250, 500, 1000, 2000)  # of DP-SGD, the most of which the noise stays small; more were not measured
K_MOST = 4  # images of a patient in one step: more cost time and say little that four do not


@dataclass(frozen=True)
class Suited:
    """``model`` is a name in configs/model, ``settings`` are further keys with their values, ``why`` one sentence."""

    model: str
    settings: dict[str, Any]
    why: str


def suited(n: int, dims: int, images_per_patient: int, privacy: PrivacyConfig, unit: str = "patient") -> Suited:
    """What to begin with for ``n`` training units with ``images_per_patient`` images each (the median), on a grid of
    ``dims`` axes, at the ε of ``privacy``. Follows docs/results.md; no image is looked at.

    In 2D one noised mean (DP-MEPF) was better at ε = 1 than anything trained by DP-SGD at ε = 8, and its cost in ε does
    not grow with training. In 3D its images were speckled, the VAE's smooth.
    """
    delta = sensible_delta(n, privacy.delta)
    settings: dict[str, Any] = {"data.images_per_patient": min(K_MOST, max(1, images_per_patient)),
                                "privacy.delta": delta}  # fmt: skip
    if privacy.mode == "none":
        settings |= {"privacy.batch_patients": min(32, max(1, n // 2)), "trainer.steps": 1000,
                     "trainer.learning_rate": 3e-3}  # fmt: skip
        return Suited("vae", settings, "Without privacy there is nothing to save: a VAE trains fast and does not fail.")
    if dims == 2:
        return Suited("mepf", settings, f"Images: one noised mean over all {unit}s has cost less for more than DP-SGD.")
    batch = batch_for(n)
    epsilon = privacy.epsilon if privacy.epsilon is not None else 8.0
    quiet = [s for s in STEPS if noise_for(epsilon, delta, batch / n, s) / batch <= USABLE]
    settings |= {"privacy.batch_patients": batch, "privacy.clipping_norm": 0.3, "trainer.learning_rate": 6e-3,
                 "trainer.steps": quiet[-1] if quiet else STEPS[0]}  # fmt: skip
    why = "Volumes: the VAE was smooth where everything else had ripples or speckle."
    if not quiet:
        why += f" {n:,} {unit}s are few for it: public weights to begin with (init.run) help more than any setting."
    return Suited("vae", settings, why)


def batch_for(n: int) -> int:
    """Expected units in a batch: about 5 √n, what served cohorts of 126 to 4,099, in whole 16s; at most half of n."""
    return max(1, min(n // 2, 16 * max(1, round(5 * math.sqrt(n) / 16))))


def sensible_delta(n: int, declared: float) -> float:
    """``declared`` if it is at most 1/(n ln n), else the power of ten below that."""
    most = 1 / (n * math.log(n)) if n > 2 else 0.1
    return declared if declared <= most else 10.0 ** math.floor(math.log10(most))
