from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation, Pad, RandFlip, Rotate90

from imgsynth.cohort.grid import axis_codes, grid_affine, grid_of, to_volume
from imgsynth.cohort.transforms import _ToGridAxes, build_transforms
from imgsynth.schema import PreprocessConfig
from imgsynth.types import InputError
from imgsynth.volumes.npz import row_volume
from imgsynth.volumes.volume import Volume

ORIENTATIONS = ["".join(o) for p in itertools.permutations(("RL", "AP", "SI")) for o in itertools.product(*p)]
sides = st.integers(8, 14)
mm = st.floats(0.5, 5.0)


def preprocess(shape: list[int], **more: object) -> PreprocessConfig:
    given_ = {
        "shape": shape,
        "spacing": [1.0] * len(shape),
        "intensity": "window",
        "low": -1000.0,
        "high": 600.0,
        **more,
    }
    return PreprocessConfig(**given_)  # type: ignore[arg-type]


def asymmetric(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@given(st.lists(sides, min_size=3, max_size=3), st.lists(mm, min_size=3, max_size=3), st.sampled_from(ORIENTATIONS),
       st.sampled_from(["crop_pad", "resize"]))  # fmt: skip
def test_a_volume_made_from_model_space_goes_back_to_it(shape, spacing, orientation, fit) -> None:
    config = preprocess(shape, spacing=spacing, orientation=orientation, fit=fit)
    grid = grid_of(config, "CT")
    x = asymmetric(tuple(shape))
    volume = to_volume(x, grid)
    assert volume.orientation == orientation
    assert volume.spacing == pytest.approx(spacing)
    assert volume.unit == "HU" and volume.array.dtype == np.float32
    torch.testing.assert_close(build_transforms(config, grid)(volume), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("modality", "orientation", "codes"),
    [("DX", "RAS", "ILA"), ("CT", "RAS", "PLI"), ("MR", "IP", "IPL"), ("CT", "IL", "ILA"), ("DX", "SR", "SRA")],
)
def test_a_single_image_goes_back_too_and_is_right_handed(modality: str, orientation: str, codes: str) -> None:
    config = preprocess([12, 9], spacing=[0.5, 2.0], orientation=orientation)
    grid = grid_of(config, modality)
    volume = to_volume(asymmetric((12, 9)), grid)
    assert (volume.orientation, volume.array.shape) == (codes, (12, 9, 1))
    assert np.linalg.det(volume.affine) > 0
    torch.testing.assert_close(build_transforms(config, grid)(volume), asymmetric((12, 9)), atol=1e-5, rtol=0)


def test_the_centre_of_the_grid_is_the_origin() -> None:
    grid = grid_of(preprocess([8, 9, 10], spacing=[2.0, 3.0, 4.0], orientation="LPS"), "CT")
    np.testing.assert_allclose(grid_affine(grid) @ [3.5, 4.0, 4.5, 1.0], [0, 0, 0, 1])
    np.testing.assert_allclose(grid_affine(grid)[:3, :3], np.diag([-2.0, -3.0, 4.0]))


@pytest.mark.parametrize("stored", ORIENTATIONS)
def test_the_same_anatomy_in_any_storage_order_gives_the_same_image(stored: str) -> None:
    """Oracle: nibabel's reorientation of an asymmetric volume stored in each of the 48 ways."""
    ras = nib.Nifti1Image(np.random.default_rng(0).uniform(-1000, 600, (8, 10, 9)), np.diag([2.0, 2.5, 3.0, 1.0]))
    change = nib.orientations.ornt_transform(nib.io_orientation(ras.affine), nib.orientations.axcodes2ornt(stored))
    image = ras.as_reoriented(change)
    config = preprocess([8, 10, 9], spacing=[2.0, 2.5, 3.0])
    transform = build_transforms(config, grid_of(config, "CT"))
    x = transform(Volume(np.asarray(image.dataobj, dtype=np.float32), image.affine, "CT", "HU"))
    np.testing.assert_allclose(x[0].numpy(), (np.asarray(ras.dataobj) + 1000) / 800 - 1, atol=1e-5)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SRA", "IPL"])
def test_axes_are_turned_as_monai_turns_them(orientation: str) -> None:
    """Oblique affines of any handedness and spacing, against MONAI's Orientation."""
    random = np.random.default_rng(0)
    grid = grid_of(preprocess([4, 4, 4], orientation=orientation), "CT")
    turned, oracle = _ToGridAxes(grid), Orientation(orientation, labels=(("L", "R"), ("P", "A"), ("I", "S")))
    for _ in range(40):
        rotation = np.linalg.qr(random.normal(size=(3, 3)))[0] * random.choice([-1, 1], 3)
        affine = np.eye(4)
        affine[:3, :3] = rotation * random.uniform(0.3, 6, 3)
        affine[:3, 3] = random.normal(size=3) * 50
        array = random.normal(size=random.integers(2, 6, 3)).astype(np.float32)
        expected = oracle(MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(affine)))
        found = turned(Volume(array, affine, "CT", "HU"))
        assert torch.equal(found.as_tensor(), expected.as_tensor())
        spacing = np.linalg.norm(np.asarray(expected.affine)[:3, :3], axis=0)
        np.testing.assert_allclose(np.diag(np.asarray(found.affine)), [*spacing, 1.0], rtol=1e-12)


def test_a_picture_stays_upright() -> None:
    rows = np.zeros((16, 12), dtype=np.uint8)
    rows[1, 2] = 255  # near the top left as it is displayed
    config = preprocess([16, 12], spacing=None, fit="resize", low=0.0, high=255.0)
    x = build_transforms(config, grid_of(config, "DX"))(row_volume(rows, "DX"))
    assert x.shape == (1, 16, 12)
    assert [int(n) for n in torch.nonzero(x[0] == x.max())[0]] == [1, 2]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.0), (3.0, 1.5, 4.0)])
def test_resampling_keeps_sizes_and_places_in_millimetres(spacing: tuple[float, float, float]) -> None:
    """A ball of radius 14 mm, 6 mm off centre, measured in the grid's own millimetres."""
    shape = tuple(int(64 / s) for s in spacing)
    centre = (np.array(shape) - 1) / 2
    where = np.stack(np.indices(shape), axis=-1) - centre
    ball = np.linalg.norm(where * spacing - np.array([6.0, 0.0, -4.0]), axis=-1) < 14
    config = preprocess([32, 32, 32], spacing=[2.0, 2.0, 2.0], low=0.0, high=1.0)
    x = build_transforms(config, grid_of(config, "CT"))(
        Volume(ball.astype(np.float32), np.diag([*spacing, 1.0]), "CT", "HU")
    )
    mass = (x[0].numpy() + 1) / 2
    assert mass.sum() * 8 == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.03)
    found = np.einsum("ijk,ijkd->d", mass, np.stack(np.indices(mass.shape), axis=-1) - 15.5) / mass.sum() * 2
    np.testing.assert_allclose(found, [6.0, 0.0, -4.0], atol=0.02)


def test_crop_pad_pads_with_the_low_end_and_crops_in_the_middle() -> None:
    config = preprocess([12, 12, 12])
    array = np.full((8, 16, 12), 600.0)
    array[:, 7:9] = -200.0
    x = build_transforms(config, grid_of(config, "CT"))(Volume(array, np.eye(4), "CT", "HU"))[0]
    assert bool((x[:2] == -1).all() and (x[-2:] == -1).all())
    assert x[2:-2, 5:7].unique().tolist() == [0.0]
    assert x[2:-2, 7:].unique().tolist() == [1.0]


@pytest.mark.parametrize("shape", [(20, 31, 17), (40, 10, 10), (9, 9, 33)])
def test_resize_keeps_everything_inside_and_the_proportions(shape: tuple[int, ...]) -> None:
    config = preprocess([16, 16, 16], spacing=None, fit="resize", low=0.0, high=1.0)
    x = build_transforms(config, grid_of(config, "MR"))(
        Volume(np.ones(shape), np.diag([1.0, 2.0, 1.0, 1.0]), "MR", "a.u.")
    )
    inside = np.argwhere(x[0].numpy() > 0)
    sizes = inside.max(axis=0) - inside.min(axis=0) + 1
    extent = np.array(shape) * [1.0, 2.0, 1.0]
    np.testing.assert_allclose(sizes, extent / extent.max() * 16, atol=1.0)
    assert sizes.max() == 16


def test_fine_texture_turns_gray_and_does_not_alias() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    config = preprocess([16, 16], spacing=None, fit="resize", low=0.0, high=255.0)
    x = build_transforms(config, grid_of(config, "DX"))(row_volume(board.astype(np.uint8), "DX"))
    assert float(x.abs().max()) < 0.05


def test_intensity_scaling() -> None:
    array = np.linspace(0, 1000, 8**3).reshape(8, 8, 8)
    array[0, 0, 0] = 1e6

    def low_mid_high(**more: object) -> list[float]:
        config = preprocess([8, 8, 8], **more)
        x = build_transforms(config, grid_of(config, "MR"))(Volume(array, np.eye(4), "MR", "a.u."))
        return [float(x[0, 0, 0, 1]), float(x[0, 4, 0, 0]), float(x[0, 0, 0, 0])]

    assert low_mid_high(intensity="window", low=0.0, high=1000.0)[1:] == pytest.approx([0.002, 1.0], abs=1e-3)
    assert low_mid_high(intensity="minmax") == pytest.approx([-1.0, -0.999, 1.0], abs=1e-3)
    low, mid, high = low_mid_high(intensity="percentile")
    assert (low, high) == (-1.0, 1.0) and abs(mid) < 0.01
    config = preprocess([8, 8, 8], intensity="minmax")
    with pytest.warns(Warning, match="Divide by zero"):
        flat = build_transforms(config, grid_of(config, "MR"))(Volume(np.full((8, 8, 8), 7.0), np.eye(4), "MR", "a.u."))
    assert flat.unique().tolist() == [-1.0]


def test_padding_values_do_not_bleed_into_the_body() -> None:
    """A scanner's padding of -2048 beside tissue: clipped to the window before it is interpolated, not after."""
    array = np.zeros((16, 16, 16))
    array[:8] = -30000.0
    config = preprocess([8, 8, 8], spacing=[2.0, 2.0, 2.0])
    x = build_transforms(config, grid_of(config, "CT"))(Volume(array, np.eye(4), "CT", "HU"))[0]
    assert float(x[4:].min()) > -0.5


@pytest.mark.parametrize(("modality", "intensity", "unit"), [("CT", "window", "HU"), ("CT", "percentile", "a.u."),
                                                             ("MR", "window", "a.u.")])  # fmt: skip
def test_units(modality: str, intensity: str, unit: str) -> None:
    assert grid_of(preprocess([8, 8, 8], intensity=intensity), modality).unit == unit


def test_the_nominal_grid() -> None:
    grid = grid_of(preprocess([8, 9], spacing=None, fit="resize"), "DX")
    assert (grid.spacing, grid.orientation, axis_codes(grid)) == ((1.0, 1.0), "IL", "ILA")
    assert (grid.low, grid.high, grid.shape) == (-1000.0, 600.0, (8, 9))


@pytest.mark.parametrize(
    ("shape", "orientation"),
    [([8, 8], "LPS"), ([8, 8, 8], "IL"), ([8, 8, 8], "RLS"), ([8, 8], "RL"), ([8, 8, 8], "XYZ")],
)
def test_orientations_that_do_not_fit(shape: list[int], orientation: str) -> None:
    with pytest.raises(InputError, match=r"preprocess\.orientation"):
        grid_of(preprocess(shape, orientation=orientation), "CT")


def test_dimensions_and_planes_that_do_not_fit() -> None:
    volume = Volume(np.zeros((8, 8, 8)), np.eye(4), "CT", "HU")
    flat, full = preprocess([8, 8]), preprocess([8, 8, 8])
    with pytest.raises(InputError, match="three numbers"):
        build_transforms(flat, grid_of(flat, "CT"))(volume)
    with pytest.raises(InputError, match="two numbers"):
        build_transforms(full, grid_of(full, "CT"))(row_volume(np.zeros((8, 8)), "DX"))
    with pytest.raises(InputError, match="one plane only"):
        build_transforms(flat, grid_of(flat, "CT"))(row_volume(np.zeros((8, 8)), "DX"))


def test_extra_transforms_come_last_and_keep_the_shape() -> None:
    config = preprocess([8, 8], spacing=None, fit="resize", low=0.0, high=255.0)
    grid = grid_of(config, "DX")
    volume = row_volume(np.arange(64, dtype=np.uint8).reshape(8, 8), "DX")
    plain = build_transforms(config, grid)(volume)
    turned = build_transforms(config, grid, [Rotate90(k=2)])(volume)
    torch.testing.assert_close(turned, plain.flip(1, 2))
    assert type(turned) is torch.Tensor
    always = build_transforms(config, grid, [RandFlip(prob=1.0, spatial_axis=0)])(volume)
    torch.testing.assert_close(always, plain.flip(1))
    with pytest.raises(InputError, match=r"preprocess\.extra"):
        build_transforms(config, grid, [Pad([(0, 0), (1, 1), (0, 0)])])(volume)
