"""What a phantom is: the patient's anatomy and what differs between that patient's studies.

Lengths are millimetres in the patient's own frame: x to the patient's
right, y anterior, z superior (RAS+); the origin lies in the midline, halfway through the chest, at the carina.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Scanner:
    """A site's machine. ``noise`` is the standard deviation in HU of a 12 mm voxel in a patient of average girth."""

    site: str
    manufacturer: str
    model: str
    noise: float  # HU
    correlation: float  # voxels: standard deviation of the Gaussian that correlates the noise in-plane
    offset: float  # HU: calibration error
    table: bool  # whether the couch is inside the reconstructed field


SCANNERS = (
    Scanner("PHANTOM GENERAL", "IMGSYNTH VIRTUAL SYSTEMS A", "PHANTOM-CT 16", 14.0, 0.5, 2.0, True),
    Scanner("PHANTOM UNIVERSITY", "IMGSYNTH VIRTUAL SYSTEMS B", "PHANTOM-CT 64", 9.0, 0.7, -1.0, True),
    Scanner("PHANTOM LAKESIDE", "IMGSYNTH VIRTUAL SYSTEMS C", "PHANTOM-CT MOBILE", 20.0, 0.6, 4.0, False),
)


@dataclass(frozen=True)
class Lesion:
    """A lung nodule: one round core and smaller lobules on its surface."""

    centre: Point
    diameter: float  # mm, of the core
    hu: float
    lobules: tuple[tuple[Point, float], ...]  # (offset from the centre, radius), mm


@dataclass(frozen=True, eq=False)
class PatientAnatomy:
    """A patient's body. Half axes and thicknesses in mm, densities in HU."""

    sex: Literal["F", "M"]
    age: int  # years
    habitus: float  # standard scores of body weight for height
    cavity_a: float  # rib cage's inner half width
    cavity_b: float  # rib cage's inner half depth
    apex: float  # z of the lungs' tops
    dome_right: float  # z of the right hemidiaphragm at full inspiration
    dome_left: float
    muscle: float
    fat: float
    breast: float  # radius; 0 for none
    kyphosis: float  # forward bow of the upper spine
    heart: tuple[float, float, float]  # half axes: long, transverse, depth
    heart_shift: float  # leftward displacement of the heart's centre
    aorta: float  # radius
    rib_phase: float  # where along z the ribs lie, in cycles
    lung_hu: float
    bone_hu: float  # cortical
    spongiosa_hu: float
    liver_hu: float
    stomach_gas: float  # radius of the gas bubble
    vessels_Sv: np.ndarray  # [S, 8]: start xyz, end xyz, start radius, end radius of each vessel segment of both lungs
    lesion: Lesion | None


@dataclass(frozen=True)
class Study:
    """One examination: how the patient lay and breathed, and the scanner's state."""

    scanner: Scanner
    shift: Point  # of the patient in the field of view, mm
    roll: float  # radians about the long axis
    breath: float  # 0 full inspiration .. 1 full expiration
    growth: float  # the lesion's diameter relative to the first study
    noise_seed: int
