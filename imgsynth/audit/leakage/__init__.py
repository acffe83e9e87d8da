"""Leakage outside the pixels, and text inside them."""

from imgsynth.audit.leakage.scan import scan_run as scan_run
