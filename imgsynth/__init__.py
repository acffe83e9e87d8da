"""imgsynth: patient-level differentially private synthesis of medical images."""

__version__ = "0.1.0"
