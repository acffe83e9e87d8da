"""A volume that is painted in layers with soft edges, so that a voxel cut by a surface holds the mix of both sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from imgsynth.cohort.phantom_thorax import Depth


class Canvas:
    """HU on a cubic grid of ``n`` voxels of ``h`` mm, centred on the scanner's isocentre; starts as air.

    ``x``, ``y`` [n, n, 1] and ``z`` [1, 1, n] are the voxels' coordinates in the patient's frame, which is the
    scanner's moved by ``shift`` and rolled about the long axis by ``roll``. Array axes run toward right, anterior,
    superior.
    """

    def __init__(self, n: int, h: float, shift: tuple[float, float, float], roll: float, air: float):
        self.n, self.h, self.shift, self._roll = n, h, np.array(shift), roll
        self.grid = ((np.arange(n) - (n - 1) / 2) * h).astype(np.float32)  # scanner coordinates of any axis
        dx, dy = self.grid[:, None, None] - np.float32(shift[0]), self.grid[None, :, None] - np.float32(shift[1])
        cos, sin = np.float32(np.cos(roll)), np.float32(np.sin(roll))
        self.x, self.y = cos * dx + sin * dy, cos * dy - sin * dx
        self.z = self.grid[None, None, :] - np.float32(shift[2])
        self.hu = np.full((n, n, n), air, np.float32)

    def coverage(self, depth: np.ndarray) -> np.ndarray:
        """The share of a voxel that lies inside a surface ``depth`` mm away from its centre."""
        return np.clip(depth * np.float32(1.0 / self.h) + np.float32(0.5), 0.0, 1.0)

    def over(self, coverage: np.ndarray, hu: float | np.ndarray) -> None:
        """Paint ``hu`` over the whole volume where ``coverage`` (broadcastable) is above zero."""
        self.hu += coverage * (hu - self.hu)

    def box(self, centre: ArrayLike, reach: ArrayLike) -> tuple[slice, slice, slice]:
        """Voxels within ``reach`` mm (of each axis) of a point of the patient, clipped to the volume."""
        return self._slices(*self._bounds(np.asarray(centre, float)[None], reach))

    def paint(self, box: tuple[slice, slice, slice], depth: Depth, hu: float) -> None:
        """Paint ``hu`` inside a surface given as depth(x, y, z), within ``box`` only."""
        part = self.hu[box]
        if part.size:
            part += self.coverage(depth(*self.local(box))) * (hu - part)

    def local(self, box: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.x[box[0], box[1]], self.y[box[0], box[1]], self.z[:, :, box[2]]

    def tube(self, points_N3: np.ndarray, radii_N: np.ndarray, hu: float) -> None:
        """Paint a thick tube through the points: a chain of cones with round ends."""
        for start, end, r0, r1 in zip(points_N3[:-1], points_N3[1:], radii_N[:-1], radii_N[1:], strict=True):
            box = self._slices(*self._bounds(np.stack([start, end]), max(r0, r1) + self.h))
            self.paint(box, _cone_depth(start, end, r0, r1), hu)

    def splat(self, points_N3: np.ndarray, mass_N: np.ndarray) -> np.ndarray:
        """Share of each voxel [n, n, n] that points of ``mass_N`` mm³ each fill: the partial volume of thin things."""
        where_N3 = (self.to_scanner(points_N3) / self.h) + (self.n - 1) / 2
        inside_N = np.all((where_N3 >= 0) & (where_N3 < self.n - 1), axis=1)
        where_N3, mass_N = where_N3[inside_N], mass_N[inside_N]
        corner_N3 = where_N3.astype(np.int64)
        f_N3 = where_N3 - corner_N3
        base_N = (corner_N3[:, 0] * self.n + corner_N3[:, 1]) * self.n + corner_N3[:, 2]
        index, weight = [], []
        for i in (0, 1):
            for j in (0, 1):
                for k in (0, 1):
                    index.append(base_N + (i * self.n + j) * self.n + k)
                    share_N3 = np.where(np.array([i, j, k], bool), f_N3, 1.0 - f_N3)
                    weight.append(mass_N * share_N3[:, 0] * share_N3[:, 1] * share_N3[:, 2])
        filled = np.bincount(np.concatenate(index), np.concatenate(weight), self.n**3) / self.h**3
        return np.minimum(filled, 1.0).astype(np.float32).reshape(self.hu.shape)

    def to_scanner(self, points_N3: np.ndarray) -> np.ndarray:
        """Scanner coordinates [N, 3] of points in the patient's frame."""
        cos, sin = np.cos(self._roll), np.sin(self._roll)
        x, y, z = points_N3.T
        return np.column_stack([cos * x - sin * y, sin * x + cos * y, z]) + self.shift

    def _bounds(self, points_N3: np.ndarray, reach: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        corners_N3 = self.to_scanner(points_N3)
        margin = np.asarray(reach) + self.h + 10.0 * abs(np.sin(self._roll))
        return corners_N3.min(axis=0) - margin, corners_N3.max(axis=0) + margin

    def _slices(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        first = np.clip(np.floor(low / self.h + (self.n - 1) / 2), 0, self.n).astype(int)
        last = np.clip(np.ceil(high / self.h + (self.n - 1) / 2) + 1, 0, self.n).astype(int)
        return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])


def _cone_depth(a: np.ndarray, b: np.ndarray, r0: float, r1: float) -> Depth:
    """Inside a segment from ``a`` to ``b`` whose radius goes from ``r0`` to ``r1``."""
    d = (b - a).astype(np.float32)

    def depth(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - np.float32(a[0]), y - np.float32(a[1]), z - np.float32(a[2])
        t = np.clip((dx * d[0] + dy * d[1] + dz * d[2]) / (d @ d), 0.0, 1.0)
        ex, ey, ez = dx - t * d[0], dy - t * d[1], dz - t * d[2]
        return np.float32(r0) + np.float32(r1 - r0) * t - np.sqrt(ex * ex + ey * ey + ez * ez)

    return depth
