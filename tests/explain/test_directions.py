"""Directions of the latent space against derivatives taken one by one, and traversals along them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_models import MODELS, awake, seeded
from torch import Tensor

from imgsynth.explain.directions import leading
from imgsynth.explain.maker import Maker
from imgsynth.explain.traversals import STEPS, moved, traversals
from imgsynth.measure.encoders import RandomConv
from imgsynth.models import VAE
from imgsynth.schema import ExplainConfig
from imgsynth.types import Grid


def by_hand(image, z_NL: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    """M by whole Jacobians from reverse-mode autograd, and its eigenvectors, largest first."""
    m_LL = torch.zeros(z_NL.shape[1], z_NL.shape[1], dtype=z_NL.dtype)
    for z_L, y in zip(z_NL, y_N, strict=True):
        jacobian_XL = torch.autograd.functional.jacobian(lambda z, y=y: image(z[None], y[None])[0], z_L)
        m_LL += jacobian_XL.T @ jacobian_XL / len(z_NL)
    value_L, vector_LL = torch.linalg.eigh(m_LL)
    return value_L.flip(0), vector_LL.flip(1).T


@pytest.mark.parametrize("size", [6, 60])  # the whole space at once, and by iteration
def test_leading_directions_are_those_of_whole_jacobians(size: int) -> None:
    random = seeded()
    scale_L = 0.7 ** torch.arange(size)
    turn_LL = torch.linalg.qr(torch.randn(size, size, generator=random)).Q
    weight_XL = torch.randn(90, size, generator=random) @ (scale_L[:, None] * turn_LL)

    def image(z_BL: Tensor, y_B: Tensor) -> Tensor:
        return torch.tanh(z_BL @ weight_XL.T / 8 + y_B[:, None])

    z_NL, y_N = torch.randn(9, size, generator=random), torch.arange(9) % 2
    value_L, vector_LL = by_hand(image, z_NL, y_N)
    found_kL, found_k = leading(image, z_NL, y_N, 3, random)
    assert torch.allclose(found_k, value_L[:3], rtol=2e-3)
    assert ((found_kL * vector_LL[:3]).sum(1).abs() > 0.999).all()
    assert torch.allclose(found_kL @ found_kL.T, torch.eye(3), atol=1e-5)
    assert (found_kL.gather(1, found_kL.abs().argmax(1, keepdim=True)) > 0).all()


SAMPLE_ONLY = ("diffusion", "latent diffusion")  # images by a walk, not by a map from one code


@pytest.mark.parametrize("name", MODELS)
def test_codes_are_those_that_sampling_draws(name: str) -> None:
    torch.manual_seed(0)
    model = awake(MODELS[name]((16, 16), 3)).eval()
    latent = model.white_box().latent
    assert (latent is None) == name.startswith(SAMPLE_ONLY)
    if latent is None:
        return
    y_B = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        assert torch.equal(latent.image(latent.codes(y_B, seeded(5)), y_B), model.sample(y_B, seeded(5)))


@pytest.mark.parametrize("name", ["vae", "gan", "evolution", "merf", "vae, masks"])
@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)], ids=["2d", "3d"])
def test_every_latent_map_can_be_traversed(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    maker = maker_of(awake(MODELS[name](shape, 3)).eval(), structures=2 if "masks" in name else 0)
    part = traversals(maker)
    sizes = [entry["rms_end_to_end"] for entry in part.numbers["directions"]]
    assert len(sizes) == 3 and min(sizes) > 0 and part.picture.width > 6 * 100
    first = [entry["rms_per_sd"] / entry["sd"] for entry in part.numbers["directions"]]
    assert first[0] >= max(first[1:])  # the last is at random


def maker_of(model, structures: int = 0, **settings: int) -> Maker:
    from imgsynth.types import Structure

    named = tuple(Structure(f"s{k}", k) for k in range(1, structures + 1))
    dims = len(model.shape)
    grid = Grid(model.shape, (1.0,) * dims, "RAS"[:dims] if dims == 3 else "PL", "CT", "HU", -1000, 600, named)
    chosen = ExplainConfig(**{"samples": 12, "codes": 6, "directions": 2, **settings})
    return Maker(model, grid, [f"class {k}" for k in range(model.classes)], RandomConv(dims, 0), chosen)


class Linear(VAE):
    """Images that are linear in the code: one voxel follows each latent dimension, with a known slope."""

    SLOPES = (0.04, 0.02, 0.01)

    def white_box(self):
        from imgsynth.models.white_box import LatentMap, WhiteBox

        def image(z_BL: Tensor, y_B: Tensor) -> Tensor:
            flat_BX = torch.zeros(len(z_BL), math.prod(self.shape))
            flat_BX = torch.cat([z_BL * torch.tensor(self.SLOPES), flat_BX[:, 3:]], dim=1)
            return flat_BX.view(-1, 1, *self.shape)

        return WhiteBox(latent=LatentMap(3, image))


def test_a_traversal_changes_what_its_direction_is_and_by_how_much() -> None:
    maker = maker_of(Linear((16, 16), 1), directions=3, codes=8)
    directions = traversals(maker).numbers["directions"]
    for entry, slope in zip(directions[:3], Linear.SLOPES, strict=True):
        assert entry["rms_per_sd"] == pytest.approx(slope * entry["sd"] / 16, rel=1e-4)  # one voxel of 256
        assert entry["rms_end_to_end"] == pytest.approx(4 * slope * entry["sd"] / 16, rel=1e-4)
        assert entry["sd"] == pytest.approx(1, abs=0.12)  # of 512 codes from N(0, 1)


def test_moving_changes_the_coordinate_along_a_direction_and_none_across_it() -> None:
    v_L = torch.nn.functional.normalize(torch.randn(5, generator=seeded()), dim=0)
    z_NL = torch.randn(4, 5, generator=seeded(1))
    there_NL = moved(z_NL, v_L, torch.tensor(1.5))
    assert torch.allclose(there_NL @ v_L, torch.full((4,), 1.5), atol=1e-6)
    across = torch.eye(5) - torch.outer(v_L, v_L)
    assert torch.allclose(there_NL @ across, z_NL @ across, atol=1e-6)
    assert tuple(-np.array(STEPS)[::-1]) == STEPS
