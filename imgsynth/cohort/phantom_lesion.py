"""Where a nodule may sit: well inside a lung, clear of the heart and the hila."""

from __future__ import annotations

import numpy as np

from imgsynth.cohort.phantom_anatomy import Lesion, PatientAnatomy
from imgsynth.cohort.phantom_thorax import cavity_depth, heart_depth, lung_depth


def draw_lesion(random: np.random.Generator, body: PatientAnatomy) -> Lesion:
    """Draw a nodule of 20 to 45 mm, solid in five of six cases, at least half its radius away from every surface."""
    diameter = float(random.uniform(20.0, 45.0))
    solid = random.random() < 5 / 6
    hu = float(random.uniform(20.0, 60.0) if solid else random.uniform(-350.0, -150.0))
    lobules = []
    for direction in random.normal(size=(3, 3)):
        x, y, z = 0.38 * diameter * direction / np.linalg.norm(direction)
        lobules.append(((float(x), float(y), float(z)), float(diameter * random.uniform(0.18, 0.26))))
    return Lesion(_draw_centre(random, body, 0.25 * diameter), diameter, hu, tuple(lobules))


def _draw_centre(random: np.random.Generator, body: PatientAnatomy, margin: float) -> tuple[float, float, float]:
    """Uniform over the lung tissue deeper than ``margin`` mm, by rejection."""
    bound = np.array([body.cavity_a, body.cavity_b, body.apex])
    while True:
        points_N3 = random.uniform(-bound, bound, (64, 3))
        x, y, z = points_N3.T
        lung_N = lung_depth(body, 0.0, cavity_depth(body, 0.0, x, y, z), x, y, z)
        depth_N = np.minimum(lung_N, -heart_depth(body, 0.0)(x, y, z))
        hits = np.flatnonzero(depth_N > margin)
        if len(hits):
            centre = points_N3[hits[0]]
            return float(centre[0]), float(centre[1]), float(centre[2])
