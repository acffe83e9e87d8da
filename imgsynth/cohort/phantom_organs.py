"""Painting the soft organs of a phantom: wall, abdomen, lungs, mediastinum and the lungs' vessels."""

from __future__ import annotations

import numpy as np

from imgsynth.cohort.phantom_anatomy import PatientAnatomy
from imgsynth.cohort.phantom_canvas import Canvas
from imgsynth.cohort.phantom_thorax import (
    ASCENT,
    CAVITY_Y,
    RIB,
    body_depth,
    breathing_shift,
    dome_height,
    ellipsoid_depth,
    heart_depth,
    heart_pose,
)

AIRWAY, FAT, SKIN, MUSCLE, BLOOD, SPLEEN, GLAND, CHYME = -980.0, -100.0, 15.0, 45.0, 42.0, 50.0, 15.0, 20.0  # HU
_SKIN_MM = 2.5


def paint_wall(canvas: Canvas, p: PatientAnatomy) -> None:
    """Breasts, skin, subcutaneous fat and muscle; muscle fills the inside until organs are painted over it."""
    x, y, z = canvas.x, canvas.y, canvas.z
    for side in (-1.0, 1.0):
        if p.breast:
            centre = (side * 0.56 * p.cavity_a, p.cavity_b + CAVITY_Y + RIB + 0.3 * p.breast, -18.0)
            half = (1.05 * p.breast, 0.75 * p.breast, p.breast)
            canvas.paint(canvas.box(centre, half), ellipsoid_depth(centre, half), FAT)
            core, gland = (centre[0], centre[1] + 0.12 * p.breast, centre[2]), tuple(0.5 * h for h in half)
            canvas.paint(canvas.box(core, gland), ellipsoid_depth(core, gland), GLAND)
    depth = body_depth(p, x, y, z)
    canvas.over(canvas.coverage(depth), SKIN)
    canvas.over(canvas.coverage(depth - _SKIN_MM), FAT)
    canvas.over(canvas.coverage(depth - _SKIN_MM - p.fat), MUSCLE)
    for side in (-1.0, 1.0):
        axilla = (side * 0.88 * p.cavity_a, 12.0, 0.68 * p.apex)
        canvas.paint(canvas.box(axilla, (16.0, 24.0, 34.0)), ellipsoid_depth(axilla, (16.0, 24.0, 34.0)), FAT)


def paint_abdomen(canvas: Canvas, p: PatientAnatomy, breath: float, cavity: np.ndarray) -> None:
    """Mediastinal fat above the diaphragm; below it visceral fat, liver right, stomach with gas and spleen left."""
    x, y, z = canvas.x, canvas.y, canvas.z
    canvas.over(canvas.coverage(cavity), -50.0)
    below = np.minimum(cavity - 2.0, dome_height(p, breath, x, y) - 3.0 - z)
    canvas.over(canvas.coverage(below), -90.0)
    liver = np.minimum(below, (x + 24.0 + 0.5 * y) * 0.9)
    canvas.over(canvas.coverage(liver), p.liver_hu)
    base = p.dome_left + ASCENT * breath
    for centre, half, hu in (
        ((-0.68 * p.cavity_a, -34.0, base - 62.0), (26.0, 38.0, 42.0), SPLEEN),
        ((-0.46 * p.cavity_a, 22.0, base - 60.0), (38.0, 38.0, 44.0), CHYME),
        ((-0.46 * p.cavity_a, 38.0, base - 46.0), (p.stomach_gas, 0.75 * p.stomach_gas, p.stomach_gas), AIRWAY),
    ):
        canvas.paint(canvas.box(centre, half), ellipsoid_depth(centre, half), hu)


def paint_lungs(canvas: Canvas, p: PatientAnatomy, breath: float, lung: np.ndarray) -> None:
    """Aerated lung: denser when breathed out, and toward the back, where it lies lowest in the supine patient."""
    canvas.over(lung, p.lung_hu + 70.0 * breath - 0.3 * np.clip(canvas.y, -100.0, 100.0))


def paint_mediastinum(canvas: Canvas, p: PatientAnatomy, breath: float) -> None:
    """Heart in pericardial fat, great vessels, oesophagus, trachea and main bronchi."""
    heart, reach = heart_depth(p, breath), max(p.heart)
    centre, _ = heart_pose(p, breath)
    canvas.paint(canvas.box(centre, reach + 6.0), lambda x, y, z: heart(x, y, z) + 5.0, -90.0)
    canvas.paint(canvas.box(centre, reach), heart, BLOOD)
    atrium, half = (14.0, 24.0, float(centre[2]) + 2.0), (25.0, 30.0, 34.0)
    canvas.paint(canvas.box(atrium, half), ellipsoid_depth(atrium, half), BLOOD)
    r, back = p.aorta, -0.45 * p.cavity_b
    rise = float(centre[2]) + 28.0
    tubes = (
        (((4, 22, rise - 15), (14, 28, 28), (6, 14, 52), (-12, -10, 58), (-22, back + 8, 42)), r + 2.0, BLOOD),
        (((-22, back + 8, 42), (-25, back, 10), (-22, back - 2, -90), (-8, back + 12, -200)), r, BLOOD),
        (((25, 12, 105), (27, 10, 40), (24, 6, rise)), 8.5, BLOOD),
        (((14, 0, rise - 30), (18, -8, p.dome_right - 20), (16, -14, -200)), 10.0, BLOOD),
        (((-16, 34, rise - 10), (-22, 10, 14)), 12.0, BLOOD),
        (((-22, 10, 14), (-46, -10, 4)), 9.0, BLOOD),
        (((-22, 10, 14), (20, 4, 6), (46, -8, -4)), 9.0, BLOOD),
        (((-4, back + 16, 190), (-4, back + 16, 30), (-8, back + 18, -110)), 7.5, 30.0),
        (((-12, 2, 52), (-24, -2, 110), (-26, 4, 190)), 5.5, BLOOD),
        (((8, 12, 54), (24, 2, 110), (26, 6, 190)), 5.5, BLOOD),
        (((0, -2, 195), (1, -8, 110), (3, -16, 36)), 8.5, AIRWAY),
        (((3, -16, 36), (34, -20, 8)), 6.5, AIRWAY),
        (((3, -16, 36), (-40, -22, 2)), 6.0, AIRWAY),
    )
    for points, radius, hu in tubes:
        canvas.tube(np.array(points, float), np.full(len(points), radius), hu)


def paint_lung_vessels(canvas: Canvas, p: PatientAnatomy, breath: float, lung: np.ndarray) -> None:
    """Arteries and veins as points that carry their volume, so that vessels thinner than a voxel keep their mass."""
    step = canvas.h / 2.0
    start_S3, end_S3, r0_S, r1_S = np.split(p.vessels_Sv, [3, 6, 7], axis=1)
    length_S1 = np.linalg.norm(end_S3 - start_S3, axis=1, keepdims=True)
    count_S = np.ceil(length_S1[:, 0] / step).astype(int)
    segment_N = np.repeat(np.arange(len(count_S)), count_S)
    first_S = np.cumsum(count_S) - count_S
    t_N1 = ((np.arange(len(segment_N)) - first_S[segment_N] + 0.5) / count_S[segment_N])[:, None]
    points_N3 = (1 - t_N1) * start_S3[segment_N] + t_N1 * end_S3[segment_N]
    points_N3[:, 2] += breathing_shift(p, breath, points_N3[:, 2])
    radius_N1 = (1 - t_N1) * r0_S[segment_N] + t_N1 * r1_S[segment_N]
    mass_N = (np.pi * radius_N1**2 * length_S1[segment_N] / count_S[segment_N][:, None])[:, 0]
    canvas.over(canvas.splat(points_N3, mass_N) * lung, BLOOD)
