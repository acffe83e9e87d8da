"""Volumes: one type, and readers and writers for DICOM series, NIfTI, npz rows and image files."""
