"""Noisy votes of teachers: the Gaussian mechanism on counts (GNMax, Papernot et al. 2018, arXiv 1802.08908).

Teachers are trained on disjoint patients, and are asked about M generated images at a time. The vector of counts is
released with noise, once for each step of training.

*Sensitivity.* Which teacher a patient belongs to is decided for that patient alone (``teacher_of``), so that a patient
who comes or goes moves no other. All that one teacher says follows from its own patients, from what was released
before, and from randomness that no patient moves. So one patient changes the bits of one teacher; its bit on an image
is 0 or 1, hence a count moves by at most 1, and the vector of M counts by at most √M in the Euclidean norm. (A
histogram over two classes would move by √2 per image; counting "real" alone, the other count being k minus this one,
has half of that squared.) The bound is reached by a teacher that changes its mind on every image.

*Noise.* Independent N(0, (σ√M)²) on every count: one Gaussian mechanism with noise multiplier σ, at sampling rate 1.
T steps, each of which may depend on what was released before, compose to T of them: the event of ``training_event`` at
rate 1, exactly that of one Gaussian mechanism with σ/√T (Dong, Roth and Su 2019, arXiv 1905.02383, corollary 3.3). No
patient is left out of a step by chance, so that no amplification by sampling is claimed; and ε does not depend on the
votes, so that it is itself no release. (PATE's own analysis by smooth or data-dependent bounds says less when teachers
agree, but then ε is private data and has to be noised as well.) Laplace noise of the same standard deviation s has
privacy losses up to √2/s for each count, whose composition over MT counts has about twice the variance: (√2/s)² for
each count where Gauss has 1/s².
"""

from __future__ import annotations

import hashlib
import hmac
import math

import torch
from torch import Tensor

from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan


def teacher_of(patient: str, key: bytes, teachers: int) -> int:
    """Which of ``teachers`` the patient belongs to: HMAC-SHA256 of the id under ``key``, whoever else is there.

    The key is drawn before any patient is looked at and stays for the whole run: a patient who changed teachers would
    be known to two of them.
    """
    digest = hmac.new(key, patient.encode("utf-8"), hashlib.sha256).digest()
    return int.from_bytes(digest, "big") % teachers


def margin_std(plan: PrivacyPlan, images: int) -> float:
    """The standard deviation σ√M of the noise in each entry of ``noisy_margin``, a public number."""
    return plan.gradient_noise_multiplier * math.sqrt(images)


def noisy_margin(plan: PrivacyPlan, real_KM: Tensor, noise: NoiseSource) -> Tensor:
    """[M] by how many votes "real" leads "generated", halved, with noise of standard deviation σ√M on each.

    ``real_KM`` are the bits of the plan's K teachers on M images. In units of C/√M a teacher's row has length C.

    Formal guarantee: provided that one patient changes one row of ``real_KM`` at most, the result is the Gaussian
    mechanism of noise multiplier σ.

    | case            | what happens               |
    |-----------------|----------------------------|
    | mode "none"     | the counts without noise   |
    | σ = 0           | the counts without noise   |
    """
    teachers, images = real_KM.shape
    assert plan.teachers == teachers, f"votes of {teachers} teachers, the plan has {plan.teachers}"
    assert plan.sampling_rate == 1 and plan.clipping_quantile is None, "every patient is in every vote"
    assert real_KM.dtype == torch.bool, "a vote is one bit: nothing else is bounded"
    unit = plan.clipping_norm / math.sqrt(images)
    vector_M = (real_KM.double().sum(0) - teachers / 2) * unit
    std = plan.gradient_noise_multiplier * plan.clipping_norm
    return (noise.add(vector_M, std) if std > 0 else vector_M) / unit
