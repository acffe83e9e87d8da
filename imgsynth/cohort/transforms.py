"""From a volume to the model's space: orientation, intensity, resampling, fit. Nothing is fitted to the cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    RandomizableTrait,
    ResizeWithPadOrCrop,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
    SpatialResample,
    Transform,
)
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter
from torch import Tensor

from imgsynth.cohort.grid import axis_codes
from imgsynth.cohort.load import Pair
from imgsynth.cohort.masks import present
from imgsynth.schema import PreprocessConfig
from imgsynth.types import Fault, Grid, InputError
from imgsynth.volumes.volume import Volume

LOW, HIGH = -1.0, 1.0  # the model's range; padding is LOW: air, background
_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


def build_transforms(preprocess: PreprocessConfig, grid: Grid, extra: Sequence[Any] = ()) -> Pipeline:
    """A callable Volume -> Tensor [1, *grid.shape], float32 in [-1, 1]; a volume with k = 1 for a grid of two axes.
    Where the grid has structures, Pair -> Tensor [1 + m, *grid.shape].

    In this order: orientation by the affine; intensity scaling, clipped, so that padding values and metal do not bleed
    when resampled; resampling to the grid's spacing (``crop_pad``) or, with the proportions of the body kept, to the
    size at which the whole field of view fits (``resize``); centred crop and pad; ``extra``, already instantiated
    MONAI transforms on [1, *grid.shape].

    A mask goes the same way, its labels by nearest neighbour and without smoothing. Of ``extra``, spatial transforms
    move image and mask together, after which a voxel is inside a structure where it is so by more than half; intensity
    transforms see the image alone.

    Raises (when called):
        InputError: for a volume where the grid is 2D, a single image where it is 3D, and an image in another plane.
    """
    keep = preprocess.fit == "crop_pad"
    steps: list[Callable[..., Any]] = [_ToGridAxes(grid), _intensity(preprocess), _Fit(grid, keep)]
    if grid.structures:
        steps = [_Both(Pipeline(steps), mask_transforms(preprocess, grid))]
        extra = [_beside_masks(step) for step in extra]
    steps = [*steps, _Plain(grid)]
    return Pipeline([*steps, *extra, _Plain(grid)] if extra else steps)


def mask_transforms(preprocess: PreprocessConfig, grid: Grid) -> Pipeline:
    """A callable from a mask's Volume to channels [m, *grid.shape], 1 inside and -1 outside: the way that the masks of
    ``build_transforms`` go."""
    return Pipeline([_ToGridAxes(grid), _Presence(grid), _Fit(grid, preprocess.fit == "crop_pad", nearest=True)])


def acts_on(transform: type) -> str | None:
    """What a MONAI transform is about: "space", so that image and mask must move together; "intensity", of the image
    alone; None where that is not known."""
    about = {"spatial": "space", "croppad": "space", "intensity": "intensity"}
    room, _, rest = transform.__module__.removeprefix("monai.transforms.").partition(".")
    return about.get(room) if rest == "array" else None


def _beside_masks(step: Any) -> Callable[..., Any]:
    about = acts_on(type(step))
    if about is None:
        raise InputError(
            Fault("preprocess.extra", f"{type(step).__name__}, with data.masks",
                  "MONAI's spatial or intensity transforms: of others it is not known how a mask follows",
                  "leave it out, or data.masks=null")
        )  # fmt: skip
    if about == "space":
        alike: Callable[..., Any] = step
        return alike
    return _RandomImageOnly(step) if isinstance(step, RandomizableTrait) else _ImageOnly(step)


class Pipeline(Compose):
    """MONAI's Compose that lets our errors through as they are and never logs the (private) data of a failed step."""

    def __init__(self, transforms: Sequence[Callable[..., Any]]):
        super().__init__(transforms, log_stats=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except RuntimeError as error:  # MONAI wraps what a step raises
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            raise


def _intensity(preprocess: PreprocessConfig) -> Transform:
    if preprocess.intensity == "window":
        return ScaleIntensityRange(preprocess.low, preprocess.high, LOW, HIGH, clip=True)
    tail = 0.5 if preprocess.intensity == "percentile" else 0.0  # percent of voxels that saturate at either end
    return ScaleIntensityRangePercentiles(tail, 100 - tail, LOW, HIGH, clip=True)


class _Both(Transform):
    """Pair -> [1 + m, *grid.shape]: the image, and beside it its mask."""

    def __init__(self, image: Pipeline, mask: Pipeline):
        self.image, self.mask = image, mask

    def __call__(self, pair: Pair) -> Tensor:
        return torch.cat([self.image(pair.image).as_tensor(), self.mask(pair.mask).as_tensor()])


class _Presence(Transform):
    """A mask's values [1, *] to channels [m, *], 1 inside and -1 outside."""

    def __init__(self, grid: Grid):
        self.structures = grid.structures

    def __call__(self, x: MetaTensor) -> MetaTensor:
        return MetaTensor(torch.from_numpy(present(x[0].numpy(), self.structures)), affine=x.affine)


class _ImageOnly(Transform):
    """``step`` on the image of [1 + m, *], whose mask stays."""

    def __init__(self, step: Callable[..., Any]):
        self.step = step

    def __call__(self, x_C: Tensor) -> Tensor:
        return torch.cat([torch.as_tensor(self.step(x_C[:1])), x_C[1:]])


class _RandomImageOnly(_ImageOnly, RandomizableTrait):
    """One that is drawn anew each time."""


class _ToGridAxes(Transform):
    """Volume -> MetaTensor [1, *axes of the grid], its affine reduced to the spacing along those axes."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.wanted = axcodes2ornt(axis_codes(grid), _RAS)

    def __call__(self, volume: Volume) -> MetaTensor:
        grid = self.grid
        turn = ornt_transform(io_orientation(volume.affine), self.wanted)  # [3, 2]: axis, sign
        array = np.ascontiguousarray(apply_orientation(volume.array, turn), dtype=np.float32)
        single = 1 in volume.array.shape
        if (grid.spatial_dims == 2 and array.shape[-1] != 1) or (grid.spatial_dims == 3 and single):
            raise InputError(_wrong_plane(volume, grid))
        spacing = np.empty(3)
        spacing[turn[:, 0].astype(int)] = np.linalg.norm(volume.affine[:3, :3], axis=0)
        data = torch.from_numpy(array[None, ..., 0] if grid.spatial_dims == 2 else array[None])
        affine = np.diag([*spacing[: grid.spatial_dims], 1.0, 1.0][:4])
        return MetaTensor(data, affine=torch.from_numpy(affine))


def _wrong_plane(volume: Volume, grid: Grid) -> Fault:
    wanted = f"a single image in the plane {grid.orientation}" if grid.spatial_dims == 2 else "a volume"
    remedy = "preprocess.shape with three numbers" if grid.spatial_dims == 2 else "preprocess.shape with two numbers"
    if 1 in volume.array.shape and grid.spatial_dims == 2:
        remedy = "preprocess.orientation=IL (frontal), PL (axial) or IP (sagittal), and images of one plane only"
    return Fault(
        "preprocess.shape", f"an image of {volume.array.shape} voxels, axes {volume.orientation}", wanted, remedy
    )


class _Fit(Transform):
    """Linear resampling, then a centred crop or pad; where voxels get larger, smoothed before, against aliasing. Or
    ``nearest`` neighbour, without smoothing.

    MONAI's own Spacing keeps a corner in place, not the centre, and moves what is then cropped by up to half a voxel.
    """

    def __init__(self, grid: Grid, keep_spacing: bool, nearest: bool = False):
        self.grid = grid
        self.keep_spacing = keep_spacing
        self.nearest = nearest
        mode = "nearest" if nearest else "bilinear"
        self.resample = SpatialResample(mode=mode, padding_mode="border", align_corners=True)

    def __call__(self, x: MetaTensor) -> MetaTensor:
        spacing = np.diag(np.asarray(x.affine))[: self.grid.spatial_dims]
        target = np.array(self.grid.spacing)
        if not self.keep_spacing:  # one factor for all axes: the smallest at which everything is inside
            target = target * (np.array(x.shape[1:]) * spacing / (np.array(self.grid.shape) * target)).max()
        if not np.allclose(target, spacing):
            x = self._resampled(x, target, spacing)
        if x.shape[1:] != self.grid.shape:
            x = ResizeWithPadOrCrop(self.grid.shape, mode="constant", value=LOW)(x)
        return x

    def _resampled(self, x: MetaTensor, target: np.ndarray, spacing: np.ndarray) -> MetaTensor:
        sigma = np.maximum(target / spacing - 1, 0) / 2  # in voxels, as scikit-image's resize does
        if sigma.any() and not self.nearest:
            x = MetaTensor(torch.from_numpy(gaussian_filter(x.numpy(), (0, *sigma), mode="nearest")), affine=x.affine)
        shape, wanted = np.array(x.shape[1:]), np.array(self.grid.shape)
        size = wanted + 2 * np.rint((shape * spacing / target - wanted) / 2).astype(int)  # even crop or pad: centred
        size = np.maximum(size, 2 - wanted % 2)
        affine = np.diag([*target, 1.0])
        affine[:-1, -1] = (spacing * (shape - 1) - target * (size - 1)) / 2  # both centres at one place
        return self.resample(x, dst_affine=torch.from_numpy(affine), spatial_size=size.tolist())


class _Plain(Transform):
    """MetaTensor -> the plain tensor of the promised shape and range."""

    def __init__(self, grid: Grid):
        self.grid = grid

    def __call__(self, x: Tensor) -> Tensor:
        plain = x.as_tensor() if isinstance(x, MetaTensor) else x
        expected = self.grid.channels, *self.grid.shape
        if plain.shape != expected:
            raise InputError(
                Fault(
                    "preprocess.extra",
                    f"an image of {tuple(plain.shape)}",
                    f"{expected}",
                    "transforms that keep the shape",
                )
            )
        image_C = plain[:1].to(torch.float32).clamp(LOW, HIGH)
        return torch.cat([image_C, torch.where(plain[1:] > 0, HIGH, LOW)]) if self.grid.structures else image_C
