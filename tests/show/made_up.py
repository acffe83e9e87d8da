"""Volumes that a browser's picture can be compared with."""

from __future__ import annotations

import numpy as np

from imgsynth.types import Fault, InputError
from imgsynth.volumes.geometry import projection_affine
from imgsynth.volumes.volume import Volume

WINDOW = (-40.0, 260.0)


def slanted() -> Volume:
    """A CT of three unlike sides and spacings, its axes stored as superior, left, anterior; every value once."""
    affine = np.array([[0, -2.0, 0, 9], [0, 0, 3.5, -4], [1.5, 0, 0, 20], [0, 0, 0, 1]])
    array = np.arange(7 * 5 * 6, dtype=np.float32).reshape(7, 5, 6)
    return Volume(array, affine, "CT", "HU")


def radiograph() -> Volume:
    """A radiograph of 9 columns and 6 rows, wider than it is high, brightest at its lower right."""
    array = np.add.outer(np.arange(9) * 20.5, np.arange(6) * 8.25)[..., None].astype(np.float32)
    return Volume(array, projection_affine((0.5, 0.5)), "DX", "a.u.")


def unreadable() -> Volume:
    raise InputError(Fault("file.dcm", "a torn file", "a whole one", "export it again"))
