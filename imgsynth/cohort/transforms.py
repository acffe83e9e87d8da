"""From a volume to the model's space: orientation, intensity, resampling, fit. Nothing is fitted to the cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    Orientation,
    ResizeWithPadOrCrop,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
    SpatialResample,
    Transform,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor

from imgsynth.cohort.grid import axis_codes
from imgsynth.schema import PreprocessConfig
from imgsynth.types import Fault, Grid, InputError
from imgsynth.volumes.volume import Volume

LOW, HIGH = -1.0, 1.0  # the model's range; padding is LOW: air, background
_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


def build_transforms(preprocess: PreprocessConfig, grid: Grid, extra: Sequence[Any] = ()) -> Pipeline:
    """A callable Volume -> Tensor [1, *grid.shape], float32 in [-1, 1]; a volume with k = 1 for a grid of two axes.

    In this order: orientation by the affine; intensity scaling, clipped, so that padding values and metal do not bleed
    when resampled; resampling to the grid's spacing (``crop_pad``) or, with the proportions of the body kept, to the
    size at which the whole field of view fits (``resize``); centred crop and pad; ``extra``, already instantiated
    MONAI transforms on [1, *grid.shape].

    Raises (when called):
        InputError: for a volume where the grid is 2D, a single image where it is 3D, and an image in another plane.
    """
    fit = _Fit(grid, keep_spacing=preprocess.fit == "crop_pad")
    steps: list[Callable[..., Any]] = [_ToGridAxes(grid), _intensity(preprocess), fit, _Plain(grid)]
    return Pipeline([*steps, *extra, _Plain(grid)] if extra else steps)


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


class _ToGridAxes(Transform):
    """Volume -> MetaTensor [1, *axes of the grid], its affine reduced to the spacing along those axes."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.orientation = Orientation(axcodes=axis_codes(grid), labels=_RAS)

    def __call__(self, volume: Volume) -> MetaTensor:
        grid = self.grid
        array = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
        x = self.orientation(MetaTensor(array[None], affine=torch.from_numpy(volume.affine.astype(np.float64))))
        single = 1 in volume.array.shape
        if (grid.spatial_dims == 2 and x.shape[-1] != 1) or (grid.spatial_dims == 3 and single):
            raise InputError(_wrong_plane(volume, grid))
        spacing = np.linalg.norm(np.asarray(x.affine)[:3, :3], axis=0)[: grid.spatial_dims]
        data = x.as_tensor()[..., 0] if grid.spatial_dims == 2 else x.as_tensor()
        return MetaTensor(data, affine=torch.diag(torch.tensor([*spacing, 1.0, 1.0][:4], dtype=torch.float64)))


def _wrong_plane(volume: Volume, grid: Grid) -> Fault:
    wanted = f"a single image in the plane {grid.orientation}" if grid.spatial_dims == 2 else "a volume"
    remedy = "preprocess.shape with three numbers" if grid.spatial_dims == 2 else "preprocess.shape with two numbers"
    if 1 in volume.array.shape and grid.spatial_dims == 2:
        remedy = "preprocess.orientation=IL (frontal), PL (axial) or IP (sagittal), and images of one plane only"
    return Fault(
        "preprocess.shape", f"an image of {volume.array.shape} voxels, axes {volume.orientation}", wanted, remedy
    )


class _Fit(Transform):
    """Linear resampling, then a centred crop or pad; where voxels get larger, smoothed before, against aliasing.

    MONAI's own Spacing keeps a corner in place, not the centre, and moves what is then cropped by up to half a voxel.
    """

    def __init__(self, grid: Grid, keep_spacing: bool):
        self.grid = grid
        self.keep_spacing = keep_spacing
        self.resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True)

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
        if sigma.any():
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
        if plain.shape != (1, *self.grid.shape):
            raise InputError(
                Fault(
                    "preprocess.extra",
                    f"an image of {tuple(plain.shape)}",
                    f"{(1, *self.grid.shape)}",
                    "transforms that keep the shape",
                )
            )
        return plain.to(torch.float32).clamp(LOW, HIGH)
