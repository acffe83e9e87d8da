"""imgsynth: patient-level differentially private synthesis of medical images."""

import os

__version__ = "0.1.0"

# Before torch starts its threads: on a machine that others use too, threads that wait by spinning make steps several
# times slower. A value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
