"""What is computed in blocks, or in memory that is used again, is what it would be at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imgsynth.audit import ssim, synthesizers
from imgsynth.audit.copies.invariant import AT_ONCE, pooled
from imgsynth.measure.distances import centred
from imgsynth.measure.encoders import _spread
from imgsynth.measure.images import Images, synthetic_images


def volumes(n: int, side: int, seed: int = 0) -> Images:
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 1, side, side, side)).astype(np.float32)
    return synthetic_images(x, np.zeros(n, dtype=int))


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_leaks_and_blends_do_not_depend_on_the_block(
    noise: float, stored: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, base = volumes(7, 5), volumes(40, 5, 1)
    base = base.with_images(base.x_NC.astype(stored))
    made = []
    for voxels in (1, 3 * 125, 1 << 20):
        monkeypatch.setattr(synthesizers, "VOXELS", voxels)
        random = np.random.default_rng(3)
        leaking, _ = synthesizers.leaky(base, members, 0.5, noise, random)
        made.append((leaking.x_NC, synthesizers.innocent(members, 9, random).x_NC))
    assert made[0][0].dtype == stored
    for leaking_NC, blends_NC in made[1:]:
        assert np.array_equal(leaking_NC, made[0][0]) and np.array_equal(blends_NC, made[0][1])


@pytest.mark.parametrize("stored", [np.float32, np.float16])
@pytest.mark.parametrize("writeable", [True, False])
def test_centred_is_the_difference_wherever_it_is_put(stored: type, writeable: bool) -> None:
    x_ND = np.random.default_rng(0).uniform(-1, 1, (5, 33)).astype(stored)
    x_ND.flags.writeable = writeable
    centre_D, held_MD = np.linspace(-1, 1, 33, dtype=np.float32), np.full((8, 33), 7.0, dtype=np.float32)
    expected = x_ND.astype(np.float32) - centre_D
    assert np.array_equal(centred(x_ND, centre_D), expected)
    assert np.array_equal(centred(x_ND, centre_D, held_MD), expected) and (held_MD[5:] == 7).all()


def test_spread_is_the_standard_deviation() -> None:
    x_BCV = torch.randn(3, 4, 1001, generator=torch.Generator().manual_seed(0)) + 5
    exact = x_BCV.double().std(-1, unbiased=False)
    assert torch.allclose(_spread(x_BCV, x_BCV.mean(-1)).double(), exact, rtol=1e-5, atol=0)


def test_pooling_and_ssim_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NC = volumes(AT_ONCE + 3, 34).x_NC
    assert torch.equal(pooled(x_NC)[AT_ONCE:], pooled(x_NC[AT_ONCE:]))
    a_N = ssim.coarse(x_NC[:20])
    whole = ssim.dissimilarities(a_N, a_N)
    monkeypatch.setattr(ssim, "PAIRS", 1)
    assert np.allclose(ssim.dissimilarities(a_N, a_N), whole, atol=1e-6)
