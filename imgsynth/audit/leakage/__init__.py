"""Leakage outside the pixels, and text inside them."""

from imgsynth.audit.leakage.check import find_leakage as find_leakage
