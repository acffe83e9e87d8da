"""Random features against the kernel that they stand for, the embedding against a naive mean, the generator's loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from imgsynth.models import MERF, PostProcessing, Private, moments
from imgsynth.models.blocks import one_hot
from imgsynth.models.merf import FourierFeatures
from imgsynth.models.moments import SHARE, SILENT, MeanEmbedding, Released, matching_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.rand(n, 1, *shape, generator=seeded(seed)) * 2 - 1


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 8)], ids=str)
def test_features_approximate_the_gaussian_kernel_and_no_other(shape):
    scale, frequencies = 0.5, 20_000
    features = FourierFeatures(shape, frequencies, [scale], seed=0)
    x_BC = images(12, *shape)
    phi_BD = features(x_BC)
    flat, length = x_BC.flatten(1).numpy(), scale * math.sqrt(math.prod(shape))

    def error(factor: float) -> float:
        return float(np.abs((phi_BD @ phi_BD.T).numpy() - rbf_kernel(flat, gamma=0.5 / (factor * length) ** 2)).max())

    tolerance = 5 / math.sqrt(2 * frequencies)  # of 66 pairs, at 5 standard deviations and more
    assert error(1) < tolerance
    assert error(2 / 3) > 2 * tolerance and error(3 / 2) > 2 * tolerance


def test_several_length_scales_are_the_mean_of_their_kernels():
    x_BC, scales = images(6, 8, 8), (0.2, 0.4, 0.8)
    both = FourierFeatures((8, 8), 30_000, scales, seed=3)(x_BC)
    each = [rbf_kernel(x_BC.flatten(1).numpy(), gamma=0.5 / (s * 8) ** 2) for s in scales]
    assert np.abs((both @ both.T).numpy() - np.mean(each, axis=0)).max() < 0.03
    assert np.abs((both @ both.T).numpy() - each[1]).max() > 0.06


def test_every_image_has_length_one_and_its_own_features():
    for shape in [(16, 24), (40, 40, 24), (96, 96)]:
        features = FourierFeatures(shape, 300, (0.15, 0.3, 0.6), seed=0)
        x_BC = torch.cat([images(3, *shape), torch.ones(1, 1, *shape), torch.zeros(1, 1, *shape)])
        phi_BD = features(x_BC)
        torch.testing.assert_close(phi_BD.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(features(x_BC[1:2]), phi_BD[1:2])
        assert math.prod(features.grid) <= 4096


def test_features_are_public_a_function_of_grid_and_seed():
    x_BC = images(2, 8, 8)
    first = FourierFeatures((8, 8), 40, [0.3], seed=5)(x_BC)
    torch.manual_seed(9)
    assert torch.equal(first, FourierFeatures((8, 8), 40, [0.3], seed=5)(x_BC))
    assert not torch.equal(first, FourierFeatures((8, 8), 40, [0.3], seed=6)(x_BC))
    assert not FourierFeatures((8, 8), 40, [0.3], seed=5).state_dict()  # nothing that a checkpoint could disagree on


# --- the embedding ---------------------------------------------------------------------------------------------------


def embedding(classes: int = 3) -> MeanEmbedding:
    features = FourierFeatures((8, 8), 60, [0.3], seed=0)
    return MeanEmbedding(features, features.width, classes)


def test_a_patients_gradient_is_minus_its_vector_and_no_longer_than_one():
    module, x_BC, y_B = embedding(), images(4, 8, 8), torch.tensor([0, 2, 2, 1])
    for i in range(4):
        (gradient,) = torch.autograd.grad(module(x_BC, y_B)[i], module.mean.weight)
        psi = torch.cat([torch.zeros(SILENT), torch.tensor([math.sqrt(SHARE)]),
                         math.sqrt(1 - SHARE) * module.features(x_BC)[i]])  # fmt: skip
        expected = torch.zeros_like(gradient)
        expected[y_B[i]] = -psi
        torch.testing.assert_close(gradient, expected)
        assert gradient.norm() == pytest.approx(1, abs=1e-5)


def exact(shares: list[float], width: int = 40) -> tuple[Tensor, Tensor]:
    """A mean embedding without noise, and the classes' own means."""
    mean_CD = torch.randn(len(shares), width, generator=seeded(2)) / math.sqrt(width)
    share_C = torch.tensor(shares)[:, None]
    front = torch.cat([torch.zeros(len(shares), SILENT), share_C * math.sqrt(SHARE)], dim=1)
    return torch.cat([front, share_C * math.sqrt(1 - SHARE) * mean_CD], dim=1), mean_CD


def test_without_noise_the_means_of_the_classes_come_back():
    w_CD, mean_CD = exact([0.7, 0.2, 0.1])
    released = Released.of(w_CD)
    torch.testing.assert_close(released.target_CD, mean_CD)
    torch.testing.assert_close(released.trust_C, torch.tensor([1.0, (2 / 7) ** 2, (1 / 7) ** 2]))


def test_a_class_below_the_noise_has_the_mean_of_all():
    w_CD, mean_CD = exact([0.7, 0.299, 0.001])
    noise = 0.005
    noisy_CD = w_CD + noise * torch.randn(w_CD.shape, generator=seeded(4))
    released = Released.of(noisy_CD)
    pooled = (torch.tensor([0.7, 0.299, 0.001])[:, None] * mean_CD).sum(0)
    assert (released.target_CD[2] - pooled).abs().max() < 0.05  # the noise of three rows, 4 standard deviations
    assert (released.target_CD[:2] - mean_CD[:2]).abs().max() < 0.1
    loud = Released.of(w_CD + 10 * torch.randn(w_CD.shape, generator=seeded(4)))
    assert loud.target_CD.isfinite().all() and loud.target_CD.norm(dim=1).max() < 30  # noise alone is not blown up


def test_nothing_released_is_finite():
    released = Released.of(torch.zeros(2, SILENT + 9))
    assert released.target_CD.isfinite().all() and released.trust_C.isfinite().all()


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_estimates_the_squared_distance_without_bias():
    target_CD, trust_C = torch.randn(2, 5, generator=seeded(1)), torch.tensor([1.0, 0.3])
    mean_CD = target_CD + 0.4 * torch.randn(2, 5, generator=seeded(2))
    truth = float((trust_C * (target_CD - mean_CD).square().sum(1)).sum())
    draws = []
    for i in range(4000):
        y_B = torch.arange(8) % 2
        phi_BD = mean_CD[y_B] + torch.randn(8, 5, generator=seeded(100 + i))
        draws.append(float(matching_loss(phi_BD, Released(target_CD, trust_C))))
    sem = float(np.std(draws) / math.sqrt(len(draws)))
    biased = truth + 1.3 * 5 / 4  # of the squared distance of one mean of 4 images a class
    assert abs(np.mean(draws) - truth) < 4 * sem < abs(np.mean(draws) - biased) / 3


def test_it_learns_where_each_class_is_bright():
    torch.manual_seed(0)
    model = MERF((16, 16), 2, latent=4, channels=8, frequencies=400, images=32)
    private, post = model.objectives()
    assert isinstance(private, Private) and private.rounds == 1 and isinstance(post, PostProcessing)
    y_B = torch.arange(200) % 2
    x_BC = -0.8 + 0.1 * torch.randn(200, 1, 16, 16, generator=seeded(1))
    x_BC[y_B == 0, :, :8] += 1.3
    x_BC[y_B == 1, :, 8:] += 1.3
    with torch.no_grad():
        model.embedding.mean.weight.copy_(one_hot(y_B, 2).T @ model.embedding.embed(x_BC) / 200)
    optimizer, random = torch.optim.Adam(model.G.parameters(), lr=5e-3), seeded()
    for _ in range(150):
        optimizer.zero_grad()
        post.loss(post.images, random).backward()
        optimizer.step()
    upper_BC, lower_BC = (model.sample(torch.full((32,), y), seeded(5)) for y in (0, 1))
    assert upper_BC[..., :7, :].mean() - upper_BC[..., 9:, :].mean() > 1.0  # 1.3 in the data
    assert lower_BC[..., 9:, :].mean() - lower_BC[..., :7, :].mean() > 1.0


def test_texture_has_an_amplitude_that_no_weights_can_pass() -> None:
    network = moments.Generator((12, 12), 2, 3, 4, 8)
    last = network.texture[0]
    with torch.no_grad():
        last.bias.fill_(50.0)
    content_BL, noise_BL = torch.randn(6, 3), torch.randn(6, 144)
    y_B = torch.arange(6) % 2
    rough, smooth = (network(torch.cat([content_BL, z_BL], 1), y_B) for z_BL in (noise_BL, torch.zeros(6, 144)))
    moved = torch.atanh(rough.double()) - torch.atanh(smooth.double())
    assert torch.allclose(moved.flatten(1), moments.MOST_TEXTURE * noise_BL.double(), atol=1e-4)
