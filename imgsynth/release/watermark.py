"""An invisible mark in the voxels of a release, below their noise: provenance for whoever looks, no protection.

The pattern is a sum of cosines with keyed signs (spread spectrum, Cox et al. 1997), periodic, centred on the image, and
the same after any flip and any exchange of axes, so that neither has to be searched for. Its frequencies are in the
middle: above those of anatomy, below those that resampling and compression take away. It needs the image alone and a
public key, so that it is post-processing (Dwork and Roth 2014, proposition 2.1).
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

KEY = "imgsynth: this image is synthetic (1)"  # public, so that anybody can look for it
PERIOD = {2: 64, 3: 32}  # voxels after which the pattern repeats, by the number of axes
BAND = (0.08, 0.35)  # cycles per voxel
CREST = 2.0  # of the pattern, in its own standard deviations: nothing stands out where many cosines meet
FINEST = 1 / 512  # of the intensity range: half a grey level of 8 bits, below which no noise level is taken
SMALLEST_MARKED = 24  # voxels along two axes at least: in less the pattern has too few frequencies to be found again
LOCAL = 4.0  # voxels: standard deviation of the window in which noise is measured


@dataclass(frozen=True, eq=False)
class Pattern:
    """A keyed pattern of ``dims`` axes: the sign of each frequency, and which of them share one.

    ``sign_K`` and ``orbit_K``: [K + 1] * dims, over frequencies k ≥ 0 in units of 1 / period; orbit -1 is out of band.
    """

    dims: int
    sign_K: np.ndarray
    orbit_K: np.ndarray

    @property
    def period(self) -> int:
        return PERIOD[self.dims]

    @property
    def top(self) -> int:
        """K, the highest frequency along one axis."""
        return len(self.sign_K) - 1

    @property
    def weight_K(self) -> np.ndarray:
        """How many of the 2^dims frequencies ±k are different."""
        ones = [1 + (np.arange(self.top + 1) > 0)] * self.dims
        weight: np.ndarray = np.prod(np.meshgrid(*ones, indexing="ij"), axis=0)
        return weight


@lru_cache(maxsize=8)
def pattern_of(dims: int, key: str = KEY) -> Pattern:
    """The pattern of ``key``: each orbit of frequencies under flips and exchanges of axes has a sign from BLAKE2b."""
    period = PERIOD[dims]
    top = int(BAND[1] * period)
    shape = (top + 1,) * dims
    sign, orbit = np.zeros(shape, np.float32), np.full(shape, -1)
    number = 0
    for k in itertools.combinations_with_replacement(range(top + 1), dims):
        if BAND[0] * period <= np.linalg.norm(k) <= BAND[1] * period:
            byte = hashlib.blake2b(repr((dims, k)).encode(), digest_size=1, key=_short(key)).digest()[0]
            for place in itertools.permutations(k):
                sign[place], orbit[place] = 1 - 2 * (byte & 1), number
            number += 1
    return Pattern(dims, sign, orbit)


def _short(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def drawn(shape: tuple[int, ...], key: str = KEY) -> np.ndarray:
    """The pattern on an image of ``shape`` (two or three axes), float32, with standard deviation 1 or a little less
    (it is cut off at ±CREST)."""
    pattern = pattern_of(len(shape), key)
    power = (pattern.weight_K * (pattern.sign_K != 0)).sum()
    field = pattern.sign_K * pattern.weight_K
    for n in shape:
        x = np.arange(n) - (n - 1) / 2
        waves = np.cos(2 * np.pi / pattern.period * np.outer(np.arange(pattern.top + 1), x)).astype(np.float32)
        field = np.tensordot(field, waves, axes=(0, 0))  # takes the first axis off and puts the image's last
    return np.clip(field / np.sqrt(power), -CREST, CREST).astype(np.float32)


def marked(x: np.ndarray, strength: float, key: str = KEY, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """``x`` (two or three axes, values in [low, high]) with the pattern, float32, in the same range.

    ``strength`` is the pattern's standard deviation in units of the noise at each place (``noise_level``). Nothing is
    added where the image is constant, and never more than the distance to the nearer end of the range: air stays air.
    """
    added = strength * noise_level(x, low, high) * drawn(x.shape, key)
    room = np.minimum(x - low, high - x)
    result: np.ndarray = (x + np.clip(added, -room, room)).astype(np.float32)
    return np.clip(result, low, high)


def noise_level(x: np.ndarray, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Standard deviation of the noise of ``x`` at each place, [*x.shape] float32; 0 where 3^d voxels are constant.

    From the mixed first difference along all axes (the diagonal detail of a Haar wavelet, Donoho and Johnstone 1994),
    in which anatomy hardly shows: of the whole image robustly, by its median absolute value over 0.6745, and in a
    window by its mean square. The smaller of the two holds, so that a smooth region is not judged by a noisy one. White
    noise is measured as it is, correlated noise as less; ends of the range are left out. At least FINEST of the range.
    """
    x = x.astype(np.float32)
    detail, inside = x, (x > low + FINEST * (high - low)) & (x < high - FINEST * (high - low))
    for axis in range(x.ndim):
        if x.shape[axis] > 1:
            following = np.minimum(np.arange(x.shape[axis]) + 1, x.shape[axis] - 1)
            detail = (np.take(detail, following, axis) - detail) / np.sqrt(2)
            inside = inside & np.take(inside, following, axis)
    seen = np.abs(detail[inside & (detail != 0)])
    whole = float(np.median(seen)) / 0.6745 if len(seen) else 0.0
    near = np.sqrt(ndimage.gaussian_filter(detail**2, LOCAL, mode="nearest"))
    level = np.maximum(np.minimum(whole, near), FINEST * (high - low))
    size = [min(3, n) for n in x.shape]
    constant = ndimage.maximum_filter(x, size) == ndimage.minimum_filter(x, size)
    level[constant] = 0
    return level.astype(np.float32)
