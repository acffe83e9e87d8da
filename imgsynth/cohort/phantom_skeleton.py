"""Painting the bones of a phantom: ribs and sternum on the rib cage's shell, scapulae, clavicles and the spine."""

from __future__ import annotations

import math

import numpy as np

from imgsynth.cohort.phantom_anatomy import PatientAnatomy
from imgsynth.cohort.phantom_canvas import Canvas
from imgsynth.cohort.phantom_thorax import CAVITY_Y, RIB, smoothstep

_RIB_PITCH, _RIB_HEIGHT, _RIB_SLOPE = 28.0, 12.0, 0.42  # mm, mm, fall per mm from back to front
_VERTEBRA_PITCH, _DISC = 25.0, 6.0  # mm
_CARTILAGE_HU, _DISC_HU, _CORD_HU, _PARAVERTEBRAL_HU = 110.0, 80.0, 25.0, 45.0


def paint_ribs(canvas: Canvas, p: PatientAnatomy, cavity: np.ndarray) -> None:
    """Sloping bands on the shell just outside the cavity; cartilage in front; the sternum; a free costal margin."""
    x, y, z = canvas.x, canvas.y, canvas.z
    shell = RIB / 2 - np.abs(cavity + RIB / 2)
    turn, start = 2 * math.pi / _RIB_PITCH, 2 * math.pi * p.rib_phase
    in_plane, along = turn * _RIB_SLOPE * y + start, turn * z
    wave = np.cos(in_plane) * np.cos(along) - np.sin(in_plane) * np.sin(along)
    edge = math.pi * _RIB_HEIGHT / _RIB_PITCH
    band = (wave - math.cos(edge)) * (_RIB_PITCH / (2 * math.pi * math.sin(edge)))
    margin = (z + 96.0 - 0.5 * y) * 0.9
    coverage = canvas.coverage(np.minimum(shell, np.minimum(band, margin)))
    bony = smoothstep(y, 0.72 * p.cavity_b, 0.45 * p.cavity_b)
    canvas.over(coverage, _CARTILAGE_HU + (0.8 * p.bone_hu - _CARTILAGE_HU) * bony)
    plate = np.minimum(17.0 - np.abs(x), np.minimum(y, 58.0 - np.abs(z - 14.0)))
    sternum = np.minimum(6.0 - np.abs(cavity + 7.0), plate)
    canvas.over(canvas.coverage(sternum), 0.6 * p.bone_hu)


def paint_limb_girdle(canvas: Canvas, p: PatientAnatomy, cavity: np.ndarray) -> None:
    """Scapulae as plates outside the ribs at the back, tilted outward as with the arms raised; clavicles."""
    x, y, z = canvas.x, canvas.y, canvas.z
    side = np.abs(x)
    triangle = np.minimum(side - 0.5 * p.cavity_a - 0.25 * (60.0 - z), 0.98 * p.cavity_a - side)
    plate = np.minimum(np.minimum(triangle, -12.0 - y), 58.0 - np.abs(z - 38.0))
    scapula = np.minimum(3.5 - np.abs(cavity + RIB + 9.0), plate)
    canvas.over(canvas.coverage(scapula), 0.9 * p.bone_hu)
    for sign in (-1.0, 1.0):
        inner = (sign * 20.0, 0.72 * p.cavity_b, 0.66 * p.apex)
        middle = (sign * 0.5 * p.cavity_a, 0.62 * p.cavity_b, 0.85 * p.apex)
        outer = (sign * 0.85 * p.cavity_a, 0.1 * p.cavity_b, p.apex)
        canvas.tube(np.array([inner, middle, outer]), np.full(3, 5.5), 0.8 * p.bone_hu)


def paint_spine(canvas: Canvas, p: PatientAnatomy) -> None:
    """Vertebral bodies with cortex and discs, neural arch around the canal, transverse and spinous processes."""
    scale = p.cavity_a / 130.0
    box = canvas.box((0.0, -0.6 * p.cavity_b, 0.0), (50.0, 75.0, 400.0))
    x, y, z = canvas.local(box)
    dy = y - _spine_y(p, z)
    level = 1.0 - 0.25 * smoothstep(z, -60.0, 120.0)  # vertebrae grow downward
    phase = np.abs((z + 3.0) % _VERTEBRA_PITCH - _VERTEBRA_PITCH / 2)  # 0 amid a body, half a pitch amid a disc
    body = _ring(x, dy, 19.0 * scale * level, 15.0 * scale * level)
    disc = phase - (_VERTEBRA_PITCH - _DISC) / 2
    back = -26.0 * scale * level
    arch = _ring(x, dy - back, 15.5 * scale, 14.0 * scale)
    canal = _ring(x, dy - back, 8.5 * scale, 8.0 * scale)
    process = 8.0 - phase
    transverse = np.minimum(np.minimum(32.0 * scale - np.abs(x), 5.0 - np.abs(dy - back + 3.0)), process)
    tip = back - 34.0 * scale * level
    spinous = np.minimum(np.minimum(4.0 - np.abs(x), np.minimum(back - 9.0 - dy, dy - tip)), process + 2.0)
    part = canvas.hu[box]
    for depth, hu in (
        (_ring(x, dy + 14.0, 30.0 * scale, 34.0 * scale), _PARAVERTEBRAL_HU),
        (np.minimum(arch, process + 3.0), 0.7 * p.bone_hu),
        (transverse, 0.7 * p.bone_hu),
        (spinous, 0.8 * p.bone_hu),
        (body, p.bone_hu),
        (body - 2.5, p.spongiosa_hu),
        (np.minimum(body, disc), _DISC_HU),
        (canal, _CORD_HU),
    ):
        part += canvas.coverage(depth) * (hu - part)


def _spine_y(p: PatientAnatomy, z: np.ndarray) -> np.ndarray:
    """y of the vertebral bodies' centres: the thoracic kyphosis, then forward into the neck."""
    bow = p.kyphosis * ((z / 120.0) ** 2 - 1.0)
    return (
        CAVITY_Y - 0.62 * p.cavity_b + np.minimum(bow, p.kyphosis) + 28.0 * smoothstep(z, p.apex - 30.0, p.apex + 60.0)
    )


def _ring(x: np.ndarray, y: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """Inside an upright elliptic cylinder with half axes ``a`` and ``b``."""
    q = np.sqrt((x / a) ** 2 + (y / b) ** 2 + 1e-4)
    return np.sqrt(x * x + y * y + 1e-4) * (1.0 / q - 1.0)
