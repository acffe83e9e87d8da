"""Rendering a phantom: a deterministic function of anatomy, study and size.

Painted from the outside in, each organ over what is there already. The volume is painted on a grid of at most 6 mm and
averaged down to the voxels asked for, so that at 32³ (12 mm voxels) ribs, vessels and the spinal canal keep the partial
volume that a thick-slice CT would show.
"""

from __future__ import annotations

import numpy as np

from imgsynth.cohort.phantom_anatomy import Lesion, PatientAnatomy, Study
from imgsynth.cohort.phantom_canvas import Canvas
from imgsynth.cohort.phantom_organs import (
    paint_abdomen,
    paint_lung_vessels,
    paint_lungs,
    paint_mediastinum,
    paint_wall,
)
from imgsynth.cohort.phantom_scanner import AIR, FOV_MM, acquire, paint_table
from imgsynth.cohort.phantom_skeleton import paint_limb_girdle, paint_ribs, paint_spine
from imgsynth.cohort.phantom_thorax import ball_depth, breathing_shift, cavity_depth, lung_depth

_FINEST_NEEDED_MM = 6.0


def render(p: PatientAnatomy, study: Study, size: int) -> np.ndarray:
    """HU as int16 [size, size, size], axes toward right, anterior, superior, voxels of FOV_MM / size."""
    canvas, factor = _canvas(study, size)
    cavity = cavity_depth(p, study.breath, canvas.x, canvas.y, canvas.z)
    lung = canvas.coverage(lung_depth(p, study.breath, cavity, canvas.x, canvas.y, canvas.z))
    if study.scanner.table:
        paint_table(canvas, p)
    paint_wall(canvas, p)
    paint_limb_girdle(canvas, p, cavity)
    paint_ribs(canvas, p, cavity)
    paint_abdomen(canvas, p, study.breath, cavity)
    paint_lungs(canvas, p, study.breath, lung)
    paint_mediastinum(canvas, p, study.breath)
    paint_spine(canvas, p)
    paint_lung_vessels(canvas, p, study.breath, lung)
    _paint_lesion(canvas, p, study, value=None)
    return acquire(_coarsen(canvas.hu, factor), p, study)


def lesion_mask(p: PatientAnatomy, study: Study, size: int) -> np.ndarray:
    """Voxels [size, size, size] (bool) of which the lesion fills at least half; all False for a patient without one."""
    canvas, factor = _canvas(study, size)
    canvas.hu[:] = 0.0
    _paint_lesion(canvas, p, study, value=1.0)
    return _coarsen(canvas.hu, factor) >= 0.5


def lesion_balls(p: PatientAnatomy, lesion: Lesion, study: Study) -> list[tuple[np.ndarray, float]]:
    """Centre [3] (mm, patient frame) and radius of the lesion's core and lobules, as this study sees them."""
    centre = np.array(lesion.centre)
    centre[2] += breathing_shift(p, study.breath, centre[2])
    lobules = [(centre + study.growth * np.array(offset), study.growth * r) for offset, r in lesion.lobules]
    return [(centre, study.growth * lesion.diameter / 2), *lobules]


def _paint_lesion(canvas: Canvas, p: PatientAnatomy, study: Study, value: float | None) -> None:
    if p.lesion is None:
        return
    for centre, radius in lesion_balls(p, p.lesion, study):
        canvas.paint(canvas.box(centre, radius), ball_depth(centre, radius), p.lesion.hu if value is None else value)


def _canvas(study: Study, size: int) -> tuple[Canvas, int]:
    factor = int(np.ceil(FOV_MM / size / _FINEST_NEEDED_MM))
    return Canvas(size * factor, FOV_MM / (size * factor), study.shift, study.roll, AIR), factor


def _coarsen(fine: np.ndarray, factor: int) -> np.ndarray:
    n = fine.shape[0] // factor
    return fine.reshape(n, factor, n, factor, n, factor).mean(axis=(1, 3, 5))
