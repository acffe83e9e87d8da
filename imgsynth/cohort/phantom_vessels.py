"""The lungs' vessels as branching, tapering tubes from each hilum to the periphery."""

from __future__ import annotations

import numpy as np

# Where the first branches of a right lung point (the left one mirrors them): apical, anterior, posterior, lateral,
# two to the base. Unit of length: the lung's own half axes.
_TARGETS_D3 = np.array(
    [[0.55, 0.0, 0.8], [0.6, 0.65, 0.25], [0.6, -0.7, 0.2], [0.85, 0.0, 0.0], [0.6, 0.45, -0.6], [0.6, -0.6, -0.65]]
)
_HILUM = np.array([36.0, -8.0, -4.0])  # mm
_GENERATIONS = 4
_TAPER = 0.75  # a child's radius over its parent's; Murray's law gives 2**(-1/3) = 0.79 for two equal children


def draw_vessels(random: np.random.Generator, cavity_a: float, cavity_b: float) -> np.ndarray:
    """Both lungs' vessel segments [S, 8]: start xyz, end xyz, start radius, end radius (mm)."""
    lungs = []
    for side in (1.0, -1.0):
        mirror = np.array([side, 1.0, 1.0])
        reach = np.array([0.75 * cavity_a, 0.75 * cavity_b, 80.0])
        targets_D3 = (_TARGETS_D3 + random.normal(0, 0.08, _TARGETS_D3.shape)) * reach
        ends_D3 = _HILUM + 0.42 * (targets_D3 - _HILUM)
        starts_D3 = np.broadcast_to(_HILUM, ends_D3.shape)
        radii_D = random.uniform(5.0, 6.5, len(ends_D3))
        for _ in range(_GENERATIONS):
            tips_D = radii_D * _TAPER
            lungs.append(np.column_stack([starts_D3 * mirror, ends_D3 * mirror, radii_D, tips_D]))
            starts_D3, ends_D3, radii_D = _branch(random, starts_D3, ends_D3, tips_D)
    return np.concatenate(lungs)


def _branch(
    random: np.random.Generator, starts_D3: np.ndarray, ends_D3: np.ndarray, tips_D: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two children for each segment: shorter, thinner, to either side of the parent's direction."""
    along_D3 = ends_D3 - starts_D3
    length_D1 = np.linalg.norm(along_D3, axis=1, keepdims=True)
    aside_D3 = np.cross(along_D3, random.normal(size=along_D3.shape))
    aside_D3 /= np.linalg.norm(aside_D3, axis=1, keepdims=True) + 1e-9
    spread_D1 = length_D1 * random.uniform(0.35, 0.65, length_D1.shape)
    stretch = random.uniform(0.6, 0.8, (2, *length_D1.shape))
    children = [ends_D3 + stretch[n] * along_D3 + sign * spread_D1 * aside_D3 for n, sign in enumerate((1.0, -1.0))]
    return np.concatenate([ends_D3, ends_D3]), np.concatenate(children), np.concatenate([tips_D, tips_D])
