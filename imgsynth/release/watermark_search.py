"""Is the watermark in this image? Blind: without the original, after resampling, cropping, flips and 8 bits.

The p-value is over keys, and so holds for *every* image, whatever its noise and structure: had the signs of the pattern
been drawn without knowledge of the image, how often would they fit as well? For an image that is fixed the score is
Z = Σ ε_o Y_o with fair signs ε_o, one of each orbit of frequencies, and Chernoff's bound on such a sum
(E exp(λZ) = Π cosh(λY_o)) is exact and finite. Places that are looked at are counted (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

from imgsynth.release.watermark import KEY, Pattern, pattern_of

SCALES = (0.5, 2.0)  # voxels after resampling for one before
OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # voxels by which resampling may move the centre
BLOCK = {2: 192, 3: 64}  # voxels along an axis that are looked at where scales are searched: the pattern repeats
CANDIDATES = 12  # that are judged exactly, of those that look best
ENOUGH = 1e-9  # no further search below this p-value
SHARE = {"as made": 1 / 2, "cropped": 1 / 4, "resampled": 1 / 8, "cropped and resampled": 1 / 8}
FINE = 1.0  # voxels: standard deviation of the window whose mean is taken off an image
NEAR = 2.0  # voxels: that of the window in which what is left is brought to unit strength
SMOOTHED = 1 / 32  # cycles per voxel: that of the window in which a spectrum is smoothed
SMALLEST = 12  # voxels along two axes at least
LOOKED = {2: 1024, 3: 256}  # voxels along an axis, about the centre, that are looked at at all


@dataclass(frozen=True)
class Found:
    """What a search came to: ``p`` after all corrections; how the image had been changed where the pattern fits best;
    the scale along each axis there."""

    p: float
    how: str
    scales: tuple[float, ...]


NOTHING = Found(1.0, "too small to tell", ())


def residual(array: np.ndarray) -> np.ndarray:
    """What is left of an image [i, j] or [i, j, k] without its structures, each place at unit strength, float32.

    Axes of one voxel are dropped, and of large images the middle is taken. A linear change of an image's values
    changes nothing but its sign.
    """
    x = np.squeeze(array)
    x = _centre(x, LOOKED.get(x.ndim, 1)).astype(np.float32)
    detail = x - ndimage.gaussian_filter(x, FINE, mode="nearest")
    power = ndimage.gaussian_filter(detail**2, NEAR, mode="nearest")
    present = power[power > 1e-12 * power.max()] if power.max() > 0 else power
    least = 0.25 * float(np.median(np.sqrt(present))) if present.size else 0.0
    if not least > 0:
        return np.zeros_like(x)
    return np.clip(detail / np.maximum(np.sqrt(power), least), -2.5, 2.5).astype(np.float32)


def search(residual_: np.ndarray, key: str = KEY, thorough: bool = True) -> Found:
    """Look for the pattern of ``key`` in a ``residual`` (or in the mean of those of many images of one shape).

    Not ``thorough``: only where it was put, and there only cropped.
    """
    if residual_.ndim not in (2, 3) or sorted(residual_.shape)[-2] < SMALLEST or not residual_.any():
        return NOTHING
    pattern = pattern_of(residual_.ndim, key)
    best = Found(1.0, "as made", (1.0,) * residual_.ndim)
    white = whitened(residual_)
    looks = [_as_made, _cropped, _resampled, _cropped_and_resampled] if thorough else [_as_made, _cropped]
    for look in looks:
        found = look(white, pattern)
        best = min(best, found, key=lambda one: one.p)
        if best.p < ENOUGH:
            break
    return best


def p_as_made(residual_: np.ndarray, key: str = KEY) -> float:
    """The p-value of the one place where an unchanged file has it; flips and exchanges of axes included."""
    if residual_.ndim not in (2, 3) or sorted(residual_.shape)[-2] < SMALLEST or not residual_.any():
        return 1.0
    pattern = pattern_of(residual_.ndim, key)
    still = (0.0,) * residual_.ndim
    return min(1.0, _p(_even(whitened(residual_), pattern, still, still), pattern, either=False))


def whitened(r: np.ndarray) -> np.ndarray:
    """``r`` with the same power at every frequency: its spectrum over the root of its power, smoothed; float32."""
    spectrum = fft.fftn(r.astype(np.float32), workers=1)
    power = ndimage.gaussian_filter(np.abs(spectrum) ** 2, [SMOOTHED * n for n in r.shape], mode="wrap")
    whole: np.ndarray = fft.ifftn(spectrum / np.sqrt(np.maximum(power, 1e-6 * power.max())), workers=1).real
    return whole.astype(np.float32)


def chernoff(z: float, y_O: np.ndarray) -> float:
    """An upper bound on P(Σ ε_o y_o ≥ z) for fair signs ε: min over λ of exp(−λz) Π cosh(λ y_o)."""
    y = np.abs(y_O[y_O != 0])
    if z <= 0:
        return 1.0
    if z >= y.sum() * (1 - 1e-9):
        return float(2.0 ** -len(y))
    rate = z / (y @ y)
    for _ in range(50):  # Newton's steps towards Σ y tanh(λy) = z, never back over 0
        slope = np.tanh(rate * y)
        step = (y @ slope - z) / max(float((y**2) @ (1 - slope**2)), 1e-300)
        rate = rate / 2 if rate - step <= 0 else min(rate - step, 2 * rate)
        if abs(step) < 1e-9 * rate:
            break
    exponent = -rate * z + float(np.sum(np.logaddexp(rate * y, -rate * y) - math.log(2)))
    return min(1.0, math.exp(min(0.0, exponent)))


def _p(y_K: np.ndarray, pattern: Pattern, either: bool = True) -> float:
    """Of one place: ``y_K`` are the cosine coefficients there. ``either``: of the negative too."""
    within = pattern.orbit_K >= 0
    y_O = np.bincount(pattern.orbit_K[within], y_K[within])
    sign_O = np.zeros(len(y_O))
    sign_O[pattern.orbit_K[within]] = pattern.sign_K[within]
    z = float(sign_O @ y_O)
    return 2 * chernoff(abs(z), y_O) if either else chernoff(z, y_O)


def _waves(n: int, pattern: Pattern, scale: float, offset: float) -> np.ndarray:
    """[K + 1, n]: cosines around the centre; none above the Nyquist frequency."""
    k = np.arange(pattern.top + 1)
    x = (np.arange(n) - (n - 1) / 2) / scale - offset
    waves = np.cos(2 * np.pi / pattern.period * np.outer(k, x))
    waves[k / (pattern.period * scale) >= 0.5] = 0
    return waves.astype(np.float32)


def _even(r: np.ndarray, pattern: Pattern, logs: Sequence[float], offsets: Sequence[float]) -> np.ndarray:
    """[K + 1] * dims: the cosine coefficients of ``r`` at scales exp(logs)."""
    for n, log, offset in zip(r.shape, logs, offsets, strict=True):
        r = np.tensordot(r, _waves(n, pattern, math.exp(log), offset), axes=(0, 1))
    return r * pattern.weight_K


def _as_made(r: np.ndarray, pattern: Pattern) -> Found:
    still = (0.0,) * r.ndim
    return _found(_p(_even(r, pattern, still, still), pattern), 1, "as made", still)


def _cropped(r: np.ndarray, pattern: Pattern) -> Found:
    return _over_shifts(r, pattern, [0.0], "cropped")


def _cropped_and_resampled(r: np.ndarray, pattern: Pattern) -> Found:
    r = _centre(r, BLOCK[r.ndim])
    return _over_shifts(r, pattern, _ladder(max(r.shape)), "cropped and resampled")


def _over_shifts(r: np.ndarray, pattern: Pattern, logs: Sequence[float], how: str) -> Found:
    """Every shift by half voxels within a period, at each isotropic scale."""
    cells = 2 * pattern.period
    signs = _both_ways(pattern)
    best: list[tuple[float, float, tuple[float, ...]]] = []
    for log in logs:
        spectrum = _spectrum(r, pattern, math.exp(log))
        grid = np.zeros((cells,) * r.ndim, np.complex64)
        grid[np.ix_(*[np.arange(-pattern.top, pattern.top + 1)] * r.ndim)] = signs * spectrum
        score = np.abs(fft.ifftn(grid).real).ravel() / max(float(np.linalg.norm(spectrum[signs != 0])), 1e-30)
        for place in np.argpartition(score, -CANDIDATES)[-CANDIDATES:]:
            at = np.unravel_index(place, grid.shape)
            best.append((float(score[place]), log, tuple(pattern.period * float(i) / cells for i in at)))
    best = sorted(best, reverse=True)[:CANDIDATES]
    p, log = min((_p(_even(r, pattern, (log,) * r.ndim, shift), pattern), log) for _, log, shift in best)
    return _found(p, len(logs) * cells**r.ndim, how, (log,) * r.ndim)


def _resampled(r: np.ndarray, pattern: Pattern) -> Found:
    """Scales that differ between axes (of three, two are taken to be alike), the centre where it was, or nearly."""
    r = _centre(r, BLOCK[r.ndim])
    ladders = [_ladder(n) for n in r.shape]
    best, count = [], 0
    for alone in range(r.ndim) if r.ndim == 3 else (0,):
        alike = [axis for axis in range(r.ndim) if axis != alone]
        pairs = _scored(r, pattern, alone, alike, ladders[alone], max((ladders[a] for a in alike), key=len))
        kept = sorted(pairs, reverse=True)[:CANDIDATES]
        best += [
            (score, tuple(one if axis == alone else other for axis in range(r.ndim))) for score, one, other in kept
        ]
        count += len(ladders[alone]) * max(len(ladders[a]) for a in alike)
    p, logs = min((_best_offset(r, pattern, logs), logs) for _, logs in sorted(best, reverse=True)[:CANDIDATES])
    return _found(p, count * len(OFFSETS) ** r.ndim, "resampled", logs)


def _scored(
    r: np.ndarray, pattern: Pattern, alone: int, alike: Sequence[int], ladder: Sequence[float], other: Sequence[float]
) -> Iterator[tuple[float, float, float]]:
    """(score, log of the scale along ``alone``, log of that along ``alike``): the best over half-voxel offsets."""
    moved = np.moveaxis(r, alone, 0)
    offsets = (-0.5, 0.0, 0.5)
    bank = np.stack([_waves(moved.shape[0], pattern, math.exp(log), o) for log in ladder for o in offsets])
    weight, sign = pattern.weight_K, pattern.sign_K
    for log in other:
        for offset in offsets:
            part = moved
            for n in moved.shape[1:]:
                part = np.tensordot(part, _waves(n, pattern, math.exp(log), offset), axes=(1, 1))
            y = np.tensordot(bank, part, axes=(2, 0)) * weight * (sign != 0)  # [scales, k of alone, k of alike…]
            flat = y.reshape(len(y), -1)
            score = np.abs(flat @ sign.ravel()) / np.maximum(np.linalg.norm(flat, axis=1), 1e-30)
            for index in np.argsort(score)[-3:]:
                yield float(score[index]), ladder[index // len(offsets)], log


def _best_offset(r: np.ndarray, pattern: Pattern, logs: Sequence[float]) -> float:
    """The p-value at the one of all OFFSETS, along every axis, where the pattern fits best."""
    out: np.ndarray = r
    for n, log in zip(r.shape, logs, strict=True):
        waves = np.stack([_waves(n, pattern, math.exp(log), offset) for offset in OFFSETS])
        out = np.tensordot(out, waves, axes=(0, 2))  # at last [offset, k] of each axis in turn
    out = np.moveaxis(out, range(0, 2 * r.ndim, 2), range(r.ndim))  # [offset] * dims + [k] * dims
    flat = out.reshape(len(OFFSETS) ** r.ndim, *pattern.sign_K.shape) * pattern.weight_K
    return _p(max(flat, key=lambda y_K: _score(y_K, pattern)), pattern)


def _score(y_K: np.ndarray, pattern: Pattern) -> float:
    """How well the signs fit, on about the scale of a standard deviation: what is judged exactly is chosen by it."""
    power = float(np.sum(y_K**2 * (pattern.sign_K != 0)))
    return abs(float(np.sum(y_K * pattern.sign_K))) / math.sqrt(power) if power > 0 else 0.0


def _found(p: float, places: int, how: str, logs: Sequence[float]) -> Found:
    return Found(min(1.0, p * places / SHARE[how]), how, tuple(round(math.exp(log), 4) for log in logs))


def _centre(r: np.ndarray, most: int) -> np.ndarray:
    """The middle of ``r``, at most ``most`` along each axis; its centre is the centre of ``r``."""
    return r[tuple(slice(max(0, (n - most + 1) // 2), n - max(0, (n - most + 1) // 2)) for n in r.shape)]


@lru_cache(maxsize=64)
def _ladder(n: int) -> tuple[float, ...]:
    """Logarithms of the scales that are tried along an axis of ``n`` voxels: so close that the pattern, seen between
    two of them, is out of step at neither end of the image."""
    low, high = (math.log(scale) for scale in SCALES)
    steps = max(8, math.ceil((high - low) * n / 3))
    return tuple(np.linspace(low, high, 2 * (steps // 2) + 1).tolist())  # an odd number: scale 1 is one of them


def _spectrum(r: np.ndarray, pattern: Pattern, scale: float) -> np.ndarray:
    """[2K + 1] * dims: Fourier coefficients at ±k, as if the image had not been scaled."""
    k = np.arange(-pattern.top, pattern.top + 1)
    out: np.ndarray = r
    for n in r.shape:
        x = (np.arange(n) - (n - 1) / 2) / scale
        waves = np.exp(-2j * np.pi / pattern.period * np.outer(k, x)).astype(np.complex64)
        waves[np.abs(k) / (pattern.period * scale) >= 0.5] = 0
        out = np.tensordot(out, waves, axes=(0, 1))
    return out


def _both_ways(pattern: Pattern) -> np.ndarray:
    """``sign_K`` at ±k."""
    k = np.abs(np.arange(-pattern.top, pattern.top + 1))
    return pattern.sign_K[np.ix_(*[k] * pattern.dims)]
