import math

import pytest
import torch

from imgsynth.models.class_means import ClassMeans, cosines, what_stands_out
from tests.models.test_diffusion import seeded

SHAPES = [(28, 28), (12, 16, 20)]


def answered(means: ClassMeans, x_BC, y_B, noise_std: float = 0.0) -> ClassMeans:
    """As a query leaves it: the mean of v over all images, with noise."""
    with torch.no_grad():
        mean_D = means.vectors(x_BC, y_B).mean(0)
        means.w.weight[0] = mean_D + noise_std * torch.randn(mean_D.shape, generator=seeded(9))
    means.fit(noise_std)
    return means


@pytest.mark.parametrize("shape", SHAPES)
def test_no_image_moves_the_mean_by_more_than_one(shape):
    """The bound is reached by an image of ±1 everywhere, and held by values that should not be."""
    means = ClassMeans(shape, 2, 3)
    white_BC = torch.ones(2, 2, *shape) * torch.tensor([1.0, -1.0]).view(-1, 1, *(1 for _ in shape))
    y_B = torch.tensor([0, 2])
    torch.testing.assert_close(means.vectors(white_BC, y_B).norm(dim=1), torch.ones(2))
    assert means.vectors(7 * torch.randn(5, 2, *shape), torch.zeros(5, dtype=torch.long)).norm(dim=1).max() <= 1 + 1e-6
    loss_B = means(white_BC, y_B)
    torch.testing.assert_close(loss_B, -(means.vectors(white_BC, y_B) @ means.w.weight[0]))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_noise_the_means_are_the_classes_means(shape):
    means = ClassMeans(shape, 1, 3)
    x_BC = torch.rand(30, 1, *shape, generator=seeded()) * 2 - 1
    y_B = torch.tensor([0] * 20 + [2] * 10)
    answered(means, x_BC, y_B)
    for y in (0, 2):
        expected_C = means.pool(x_BC[y_B == y]).mean(0)
        torch.testing.assert_close(means.mean_YC[y], expected_C, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means.mean_YC[1], means.pool(x_BC).mean(0), rtol=1e-4, atol=1e-5)  # nobody's: of all


def smooth(shape, classes):
    places = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    base = torch.cos(2 * places[0]) * 0.6 - 0.2
    return torch.stack([(base + 0.3 * y * places[1])[None] for y in range(classes)])


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_taken_out_where_it_can_be_told_apart(shape):
    means = ClassMeans(shape, 1, 2)
    y_B = torch.arange(200) % 2
    x_BC = smooth(shape, 2)[y_B]
    answered(means, x_BC, y_B, noise_std=0.002)
    truth_YC = means.pool(smooth(shape, 2))
    raw = 0.002 * math.sqrt(means.size / 0.9) / 0.5  # noise in a voxel of a class's mean, as it came
    assert (means.mean_YC - truth_YC).square().mean().sqrt() < 0.5 * raw
    assert means.mean_YC.abs().max() <= 1
    difference_C = means.mean_YC[1] - means.mean_YC[0]
    assert torch.corrcoef(torch.stack([difference_C.flatten(), (truth_YC[1] - truth_YC[0]).flatten()]))[0, 1] > 0.9


def test_what_is_noise_alone_is_grey():
    means = ClassMeans((28, 28), 1, 2)
    x_BC = torch.full((10, 1, 28, 28), 0.5)
    answered(means, x_BC, torch.zeros(10, dtype=torch.long), noise_std=5.0)
    assert not means.mean_YC.any()


def test_the_cosine_transform_is_orthonormal_and_known():
    for n in (1, 5, 8):
        torch.testing.assert_close(cosines(n) @ cosines(n).T, torch.eye(n, dtype=torch.float64))
    assert cosines(4)[1, 0].item() == pytest.approx(math.sqrt(0.5) * math.cos(math.pi / 8))
    image_C = torch.randn(2, 6, 5, 4, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(what_stands_out(image_C, 0.0), image_C)
    assert not what_stands_out(image_C, 100.0).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_images_around_a_mean_are_it_on_average_and_differ(shape):
    means = ClassMeans(shape, 1, 2)
    answered(means, smooth(shape, 2), torch.tensor([0, 1]))
    x_BC, y_B = means.around(600, seeded(2))
    again_BC, _ = means.around(600, seeded(2))
    assert torch.equal(x_BC, again_BC) and x_BC.shape == (600, 1, *shape) and x_BC.abs().max() <= 1
    assert set(y_B.tolist()) == {0, 1}
    for y in (0, 1):
        mean_C, truth_C = x_BC[y_B == y].mean(0).flatten(), smooth(shape, 2)[y].flatten()
        assert torch.corrcoef(torch.stack([mean_C, truth_C]))[0, 1] > 0.97
        assert (mean_C - truth_C).abs().mean() < 0.1
    assert x_BC.std(0).mean() > 0.1
