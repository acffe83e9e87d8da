"""What evaluation and audit share: images with their patients, encoders, distances, resampling of patients.

It sits between ``release`` and the siblings ``evaluate`` and ``audit``, which never import each other.
"""
