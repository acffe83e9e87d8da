"""The thorax as depths below surfaces: formulas that render and lesion placement share.

Each function returns an approximate signed distance in mm, positive inside, for coordinates that broadcast against each
other: points [n], or a grid with x, y as [N, N, 1] and z as [1, 1, N]. Outlines are superellipses
(|x/a|^p + |y/b|^p = 1) whose half axes vary with z; the distance is measured along the ray to the axis, which is exact
on the surface and within a few per cent of the Euclidean one near it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgsynth.cohort.phantom_anatomy import PatientAnatomy

Vector = np.ndarray | tuple[float, ...]
Depth = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

CAVITY_Y = 6.0  # the rib cage's axis lies this far in front of the body's, mm
RIB = 9.0  # thickness of ribs and the muscle between them, mm
ASCENT = 24.0  # how far the diaphragm rises from full inspiration to full expiration, mm
_POWER_BODY, _POWER_CAVITY = 2.5, 2.3


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high`` (or the reverse when low > high), smooth between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _superellipse(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, power: float) -> np.ndarray:
    radius = np.sqrt(x * x + y * y)
    total = np.abs(x) ** power * a**-power + np.abs(y) ** power * b**-power
    return radius * (np.maximum(total, 1e-4) ** (-1.0 / power) - 1.0)


def body_depth(p: PatientAnatomy, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Below the skin. The outline narrows above the lungs' apices toward the neck; a heavy belly bulges below."""
    wall = RIB + p.muscle + p.fat
    neck = smoothstep(z, p.apex - 35.0, p.apex + 70.0)
    belly = smoothstep(z, -70.0, -180.0)
    a = (p.cavity_a + wall) * (1.0 - 0.5 * neck - 0.03 * belly)
    b = (p.cavity_b + 6.0 + wall) * (1.0 - 0.38 * neck + 0.05 * p.habitus * belly)
    return _superellipse(x, y, a, b, _POWER_BODY)


def cavity_depth(p: PatientAnatomy, breath: float, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Below the rib cage's inner surface: a barrel that closes to a dome at the lungs' apices."""
    top = np.clip((z + 30.0) / (p.apex + 30.0), 0.0, 0.9995)
    taper = np.sqrt(1.0 - top**2.6)
    below = 1.0 - 0.05 * smoothstep(z, -90.0, -180.0)
    a = p.cavity_a * (1.0 - 0.025 * breath) * taper * below
    b = p.cavity_b * (1.0 - 0.06 * breath) * (0.25 + 0.75 * taper) * below
    return np.minimum(_superellipse(x, y - CAVITY_Y, a, b, _POWER_CAVITY), p.apex - z)


def dome_height(p: PatientAnatomy, breath: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the diaphragm: a dome on each side, the right one higher, falling off to the costophrenic angles."""
    right, left = p.dome_right + ASCENT * breath, p.dome_left + ASCENT * breath
    across = (np.abs(x) - 0.5 * p.cavity_a) / (0.55 * p.cavity_a)
    along = (y - 0.12 * p.cavity_b) / p.cavity_b
    share = smoothstep(x, -25.0, 25.0)
    behind = np.minimum(along, 0.0)
    fall = 40.0 * (across * across + along * along) + 22.0 * behind * behind
    return left + (right - left) * share - fall


def mediastinum_half_width(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Half the distance between the lungs: wide at the hila and the spine, a thin junction behind the sternum."""
    junction = 1.0 - 0.55 * smoothstep(y, 30.0, 75.0)
    return (23.0 + 6.0 * np.exp(-(((z - 5.0) / 28.0) ** 2))) * junction


def lung_depth(
    p: PatientAnatomy, breath: float, cavity: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> np.ndarray:
    """Inside either lung, given ``cavity_depth``; heart, spine and great vessels are carved out by painting over it."""
    depth = np.minimum(cavity - 2.0, np.abs(x) - mediastinum_half_width(y, z))
    return np.minimum(depth, z - dome_height(p, breath, x, y))


def breathing_shift(p: PatientAnatomy, breath: float, z: np.ndarray) -> np.ndarray:
    """How far lung tissue at reference height ``z`` moves up: as the diaphragm at the base, not at all at the apex."""
    return ASCENT * breath * np.clip((p.apex - z) / (p.apex - p.dome_right), 0.0, 1.0)


def heart_pose(p: PatientAnatomy, breath: float) -> tuple[np.ndarray, np.ndarray]:
    """The heart's centre [3] and its axes as rows [3, 3]: the long one points left, forward and down to the apex."""
    centre = np.array([-p.heart_shift, 24.0, 0.5 * (p.dome_right + p.dome_left) + 30.0 + 0.5 * ASCENT * breath])
    long = np.array([-0.72, 0.55, -0.42])
    long /= np.linalg.norm(long)
    across = np.cross(long, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    return centre, np.stack([long, across, np.cross(long, across)])


def ellipsoid_depth(centre: Vector, half_axes: Vector, axes: np.ndarray | None = None) -> Depth:
    """Inside an ellipsoid with the given half axes [3] along the rows of ``axes`` [3, 3] (default: x, y, z)."""
    cx, cy, cz = map(float, centre)  # a float64 scalar of numpy would promote the whole grid
    scaled = (np.eye(3) if axes is None else axes) / np.asarray(half_axes)[:, None]

    def depth(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - cx, y - cy, z - cz
        u, v, w = (dx * float(row[0]) + dy * float(row[1]) + dz * float(row[2]) for row in scaled)
        q = np.sqrt(u * u + v * v + w * w + 1e-4)
        return np.sqrt(dx * dx + dy * dy + dz * dz + 1e-4) * (1.0 / q - 1.0)

    return depth


def ball_depth(centre: Vector, radius: float) -> Depth:
    cx, cy, cz = map(float, centre)

    def depth(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return radius - np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)

    return depth


def heart_depth(p: PatientAnatomy, breath: float) -> Depth:
    centre, axes = heart_pose(p, breath)
    return ellipsoid_depth(centre, p.heart, axes)
