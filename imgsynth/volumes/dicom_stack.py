"""Slices in the order of space: sorting by position along the normal, and refusing what is not an even stack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Positions are rounded by scanners and archives. An uneven stack is one that is off by more than a hundredth of its
# step (and more than 10 µm); a tilted one drifts in the plane by more than a tenth of a pixel per slice.
STEP_TOLERANCE = 0.01
STEP_FLOOR = 0.01  # mm
DRIFT_TOLERANCE = 0.1  # pixels
HOLE_TOLERANCE = 0.05  # steps: how near to a whole number of them a gap must be to count as missing slices


@dataclass(frozen=True)
class Stack:
    """``order`` sorts the slices along the normal; ``step`` is the mm between neighbours (0.0 for a single slice)."""

    order: np.ndarray
    step: float


@dataclass(frozen=True)
class Uneven:
    """Why positions make no even stack, in words for a fault, and its code."""

    got: str
    expected: str
    remedy: str
    code: str


def stack_slices(positions: np.ndarray, orientation: np.ndarray, pixel: float) -> Stack | Uneven:
    """Sort slices by geometry alone; neither file names nor Instance Number are asked.

    ``positions`` [N, 3] are Image Positions (LPS+ mm), ``orientation`` (6,) the common Image Orientation, ``pixel``
    the smaller Pixel Spacing (mm). Refused: repeated positions, a missing slice, an uneven step, a tilted gantry.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    if len(order) == 1:
        return Stack(order, 0.0)
    gaps = np.diff(along[order])
    if (repeated := gaps <= STEP_FLOOR).any():
        return _repeated(along[order][1:][repeated], len(order))
    step = float(np.median(gaps))
    off = np.abs(gaps - step) > max(STEP_TOLERANCE * step, STEP_FLOOR)
    if off.any():
        return _uneven(along[order], off, step)
    flat = positions[order] - np.outer(along[order], normal)
    drift = float(np.linalg.norm(flat[-1] - flat[0])) / (len(order) - 1)
    if max(drift, float(np.linalg.norm(np.diff(flat, axis=0), axis=1).max())) > DRIFT_TOLERANCE * pixel:
        return _tilted(drift, step)
    return Stack(order, float(gaps.mean()))


def _repeated(places: np.ndarray, count: int) -> Uneven:
    return Uneven(
        f"{len(places)} of {count} slices at a position that is taken already ({_listed(places)} mm along the normal)",
        "one slice at each position",
        "export one phase, echo or time point per series",
        "overlapping_slices",
    )


def _uneven(along: np.ndarray, off: np.ndarray, step: float) -> Uneven:
    where = np.flatnonzero(off)
    spans = "; ".join(f"{along[n]:.3f} to {along[n + 1]:.3f}" for n in where[:5])
    more = f" and {len(where) - 5} more" if len(where) > 5 else ""
    gaps = np.diff(along) / step
    holes = bool((np.abs(gaps - np.rint(gaps)) < HOLE_TOLERANCE).all())  # every step is one, or several at once
    return Uneven(
        f"steps that differ from the usual {step:.3f} mm: {spans}{more} (mm along the normal)",
        f"{len(along)} slices at one even step: slices are missing, or two stacks share the series",
        "export the series again, whole; imgsynth never interpolates over a hole",
        "missing_slices" if holes else "irregular_spacing",
    )


def _tilted(drift: float, step: float) -> Uneven:
    angle = np.degrees(np.arctan2(drift, step))
    return Uneven(
        f"slices that drift by {drift:.3f} mm in their own plane from one to the next (a tilt of {angle:.1f}°)",
        "slices stacked at right angles (no gantry tilt)",
        "resample the series to a straight stack first",
        "gantry_tilt",
    )


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in values[:5]) + ("…" if len(values) > 5 else "")
