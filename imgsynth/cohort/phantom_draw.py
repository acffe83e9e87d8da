"""Drawing patients and studies at random.

Drawing (here) is apart from rendering (``phantom_render``), so that one anatomy can be rendered again at any size, at
another breathing level or on another scanner.
"""

from __future__ import annotations

import numpy as np

from imgsynth.cohort.phantom_anatomy import PatientAnatomy, Scanner, Study
from imgsynth.cohort.phantom_lesion import draw_lesion
from imgsynth.cohort.phantom_vessels import draw_vessels


def draw_patient(random: np.random.Generator, has_lesion: bool) -> PatientAnatomy:
    """Draw one patient. The same generator state gives the same body with and without the lesion."""
    body = _draw_body(random)
    lesion = draw_lesion(random, body)
    return PatientAnatomy(**{**vars(body), "lesion": lesion if has_lesion else None})


def draw_study(random: np.random.Generator, scanner: Scanner, first: bool) -> Study:
    """Draw one examination of a patient; follow-ups may show a lesion that shrank or grew."""
    shift = random.uniform((-7.0, -7.0, -12.0), (7.0, 7.0, 12.0))
    growth = random.uniform(0.9, 1.2)
    return Study(
        scanner=scanner,
        shift=(float(shift[0]), float(shift[1]), float(shift[2])),
        roll=float(np.deg2rad(np.clip(random.normal(0, 1.5), -4, 4))),
        breath=float(random.beta(1.5, 5.0)),
        growth=1.0 if first else float(growth),
        noise_seed=int(random.integers(2**63)),
    )


def _draw_body(random: np.random.Generator) -> PatientAnatomy:
    def normal(mean: float, sd: float, low: float = -2.0, high: float = 2.0) -> float:
        """A normal variable cut at ``low`` and ``high`` standard scores."""
        return mean + sd * float(np.clip(random.normal(), low, high))

    female = bool(random.random() < 0.5)
    age = round(normal(60, 14, -2.8, 2.0))
    habitus = normal(0, 1, -1.6, 2.2)
    stature = normal(0.93 if female else 1.0, 0.04)
    old = (age - 60) / 30
    cavity_a, cavity_b = stature * normal(130, 5), stature * normal(90, 5) + 3 * old
    dome_right = normal(-52, 9) - 4 * old
    return PatientAnatomy(
        sex="F" if female else "M",
        age=age,
        habitus=habitus,
        cavity_a=cavity_a,
        cavity_b=cavity_b,
        apex=stature * normal(128, 6),
        dome_right=dome_right,
        dome_left=dome_right - normal(13, 4),
        muscle=normal(12 if female else 16, 2.0),
        fat=max(4.0, normal(13 if female else 10, 2.0) + 5.5 * habitus),
        breast=max(0.0, normal(52, 6) + 7 * habitus) if female else 0.0,
        kyphosis=max(0.0, normal(6, 3) + 5 * old),
        heart=(stature * normal(62, 4), stature * normal(44, 3), stature * normal(42, 3)),
        heart_shift=normal(26, 4),
        aorta=normal(11.0 if female else 12.5, 0.8) + 1.2 * old,
        rib_phase=float(random.random()),
        lung_hu=normal(-800, 18) - 15 * old,
        bone_hu=normal(650, 70) - 70 * old,
        spongiosa_hu=normal(210, 25) - 60 * old,
        liver_hu=normal(58, 5),
        stomach_gas=normal(24, 6),
        vessels_Sv=draw_vessels(random, cavity_a, cavity_b),
        lesion=None,
    )
