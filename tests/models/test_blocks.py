"""The pyramid of grids and the small parts of the networks, against what can be counted by hand."""

from itertools import pairwise

import pytest
import torch

from imgsynth.models.blocks import double, halve, one_hot, pyramid, to_image, widths
from imgsynth.types import InputError


@pytest.mark.parametrize(
    ("shape", "coarsest"),
    [
        ((28, 28), (7, 7)),
        ((64, 64), (4, 4)),
        ((32, 32, 32), (4, 4, 4)),
        ((40, 56, 40), (5, 7, 5)),
        ((16, 16, 16), (4, 4, 4)),
        ((8, 64), (4, 32)),
    ],
)
def test_a_grid_is_halved_as_long_as_every_axis_can_be(shape, coarsest):
    grids = pyramid(shape)
    assert grids[0] == shape
    assert grids[-1] == coarsest
    assert all(b == tuple(side / 2 for side in a) for a, b in pairwise(grids))


def test_levels_stop_the_halving_early():
    assert pyramid((32, 32, 32), levels=1) == [(32, 32, 32), (16, 16, 16)]


@pytest.mark.parametrize(
    ("shape", "levels"),
    [((29, 28), None), ((6, 6), None), ((28, 28), 3), ((32, 32), 0), ((32,), None), ((8,) * 4, None)],
)
def test_a_shape_that_cannot_be_halved_is_refused_with_one_that_can(shape, levels):
    with pytest.raises(InputError) as refused:
        pyramid(shape, levels)
    (fault,) = refused.value.faults
    assert fault.where == "preprocess.shape"
    assert str(list(shape)) in fault.got


def test_the_shape_that_the_refusal_proposes_works():
    with pytest.raises(InputError) as refused:
        pyramid((30, 45, 28), levels=3)
    proposed = refused.value.faults[0].remedy.removeprefix("preprocess.shape=")
    assert proposed == "[32, 48, 32]"
    assert len(pyramid((32, 48, 32), levels=3)) == 4


def test_channels_double_at_each_halving_up_to_the_widest():
    assert widths(8, 32, pyramid((128, 128))) == [8, 16, 32, 32, 32]


def test_one_hot_is_torchs():
    y_B = torch.tensor([2, 0, 1, 2])
    assert torch.equal(one_hot(y_B, 3), torch.nn.functional.one_hot(y_B, 3).float())


@pytest.mark.parametrize("dims", [2, 3])
def test_blocks_halve_and_double_the_grid(dims):
    x_BC = torch.randn(2, 3, *(8, 12, 16)[:dims])
    assert halve(dims, 3, 5)(x_BC).shape == (2, 5, *(4, 6, 8)[:dims])
    assert double(dims, 3, 8)(x_BC).shape == (2, 8, *(16, 24, 32)[:dims])
    assert to_image(dims, 3)(x_BC).shape == (2, 1, *(16, 24, 32)[:dims])


@pytest.mark.parametrize("dims", [2, 3])
def test_no_weights_of_the_last_doubling_make_a_checkerboard(dims):
    torch.manual_seed(0)
    layer = to_image(dims, 4)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    inner = (..., *[slice(3, -3)] * dims)  # at the border the transposed convolution sees zeros
    flat_BC = layer(torch.ones(1, 4, *(8,) * dims))[inner]
    torch.testing.assert_close(flat_BC, flat_BC.mean().expand_as(flat_BC), atol=1e-4, rtol=0)
    assert layer(torch.randn(1, 4, *(8,) * dims))[inner].std() > 0.1
