import pytest
import torch

from imgsynth.models.unet import LOUD, UNet, to_depth, to_space

SHAPES = [(12, 8), (28, 28), (8, 8, 16)]


def unet(shape) -> UNet:
    torch.manual_seed(0)
    return UNet(shape, 2, 3, channels=4, widest=8)


def inputs(shape, n=3):
    return torch.randn(n, 2, *shape), torch.linspace(-1, 1, n), torch.arange(n) % 3, torch.ones(n)


@pytest.mark.parametrize("shape", SHAPES)
def test_depth_and_space_are_inverse_and_blocks_become_channels(shape):
    x_BC = torch.randn(2, 3, *shape)
    deep_BC = to_depth(x_BC)
    assert deep_BC.shape == (2, 3 * 2 ** len(shape), *(side // 2 for side in shape))
    assert torch.equal(to_space(deep_BC, 3), x_BC)
    corner_C = deep_BC[(0, slice(None), *(0 for _ in shape))]
    block_C = x_BC[(0, slice(None), *(slice(0, 2) for _ in shape))]
    assert set(corner_C.tolist()) == set(block_C.flatten().tolist())


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_add_up_to_the_image_and_white_noise_is_in_the_finest(shape):
    net = unet(shape)
    x_BC = torch.randn(20, 2, *shape)
    bands = list(net._bands(x_BC))
    torch.testing.assert_close(sum(bands), x_BC)
    assert len(bands) == net.bands >= 2
    power = [band.square().mean().item() for band in bands]
    assert power[0] > 0.6 and power[0] == max(power)
    flat = list(net._bands(torch.ones(1, 2, *shape)))
    assert all(band.abs().max() < 1e-6 for band in flat[:-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_start_is_zero_and_gains_alone_filter_each_band(shape):
    net, (x_BC, *told) = unet(shape), inputs(shape)
    assert not net(x_BC, *told).any()
    with torch.no_grad():
        net.gains.bias.view(net.bands, 2)[0] = torch.tensor([-1.0, 0.5])  # the finest band, by channel
    fine_BC = next(iter(net._bands(x_BC)))
    torch.testing.assert_close(net(x_BC, *told), fine_BC * torch.tensor([-1.0, 0.5]).view(1, 2, *(1 for _ in shape)))


def test_a_class_is_told_louder_than_the_noise_level():
    """The gradient of its weights is that of what they are added to, times LOUD; of other classes, and untold, 0."""
    net, (x_BC, noise_B, _, keep_B) = unet((8, 12)), inputs((8, 12), n=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    net(x_BC, noise_B, torch.tensor([1]), keep_B).square().sum().backward()
    told_E = net.level[2].bias.grad
    assert LOUD == 4 and told_E.abs().min() > 0
    torch.testing.assert_close(net.of_class.weight.grad, torch.stack([0 * told_E, LOUD * told_E, 0 * told_E], dim=1))
    net.zero_grad()
    net(x_BC, noise_B, torch.tensor([1]), 0 * keep_B).square().sum().backward()
    assert not net.of_class.weight.grad.any()
