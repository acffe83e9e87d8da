"""Copies of patients among the samples: found against holdout, whatever flips and small shifts hide."""

from imgsynth.audit.copies.check import find_copies as find_copies
from imgsynth.audit.copies.counts import MIN_PATIENTS as MIN_PATIENTS
from imgsynth.audit.copies.extraction import extraction as extraction
