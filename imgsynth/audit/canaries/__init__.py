"""Canaries: pseudo-patients in a twin of a run, by which the trainer's own clipping, noise and sampling are audited."""
