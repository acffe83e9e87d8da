"""Texture by frequency: the noise power spectrum of detrended regions, and how far the synthetic one is from the real.

After ICRU Report 54 and IEC 62220-1: a region has a fitted polynomial of second order subtracted and is Fourier
transformed; NPS(f) is the mean of |F|², here averaged over rings of equal |f|. Anatomy is in it, too, as these are
patients and no uniform phantoms: it says whether samples have as much of each fineness as patients have, which blur
and checkerboards change most.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.metric import Comparison, Measurement, distance_of_means, require
from imgsynth.measure.images import Images, in_blocks
from imgsynth.measure.resampling import mean_by_patient

MIN_PATIENTS = 5
SMALLEST = 8  # voxels along each axis of a region


def planes_of(x_NC: np.ndarray) -> list[np.ndarray]:
    """[N, a, b] middle planes: the image itself in 2D, those along each axis in 3D."""
    if x_NC.ndim == 4:
        return [x_NC[:, 0]]
    return [x_NC[:, 0].take(x_NC.shape[axis + 2] // 2, axis=axis + 1) for axis in range(3)]


def detrended(x_Nab: np.ndarray) -> np.ndarray:
    """``x_Nab`` less the polynomial of second order in both coordinates that fits each plane best."""
    a, b = (np.linspace(-1, 1, n) for n in x_Nab.shape[1:])
    u, v = (grid.ravel() for grid in np.meshgrid(a, b, indexing="ij"))
    basis, _ = np.linalg.qr(np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1))
    flat = x_Nab.reshape(len(x_Nab), -1).astype(np.float64)
    return (flat - (flat @ basis) @ basis.T).reshape(x_Nab.shape)


def rings(shape: tuple[int, int]) -> np.ndarray:
    """Index of the ring of each frequency of a plane, into its corners, where checkerboards are; −1 for the mean."""
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), indexing="ij"))
    count = min(shape) // 2  # rings up to the Nyquist frequency of the axes
    index = np.ceil(radius * 2 * count - 1e-9).astype(int) - 1
    corner = np.ceil(0.5**0.5 * 2 * count - 1e-9).astype(int) - 2  # the last two as one: the last alone is one point
    return np.where(radius > 0, index.clip(0, corner), -1)


def spectra(x_Nab: np.ndarray) -> np.ndarray:
    """[N, F] power at each ring of spatial frequency, of the ``detrended`` plane: Σ over all of them is its energy."""
    power = np.abs(np.fft.fft2(detrended(x_Nab))) ** 2 / x_Nab[0].size
    index = rings(x_Nab.shape[1:])
    return np.stack([power[:, index == f].mean(1) for f in range(index.max() + 1)], axis=1)


def _of_patients(images: Images) -> np.ndarray:
    """[P, F] mean spectra of each patient's images, all planes one after another."""
    found = in_blocks(lambda x_NC: np.concatenate([spectra(plane) for plane in planes_of(x_NC)], axis=1), images.x_NC)
    return mean_by_patient(found, images.owner_N, images.n_patients)


def decibels(a_RF: np.ndarray, b_RF: np.ndarray) -> np.ndarray:
    """[R] mean over frequencies of |10 log₁₀(a/b)|."""
    tiny = 1e-12  # of squared intensity in [-1, 1]: far below a half-precision rounding
    return np.abs(10 * np.log10((a_RF + tiny) / (b_RF + tiny))).mean(1)


def spectrum_distance(c: Comparison) -> Measurement:
    """Decibels between the mean noise power spectra of samples and test patients; floor between train and test."""
    shape = c.test.x_NC.shape[2:]
    require(min(shape) >= SMALLEST, f"images of {shape} voxels; a spectrum takes {SMALLEST} along each axis")
    c.require_patients(MIN_PATIENTS)
    synthetic, train, test = (_of_patients(images) for images in c.matched_images())
    finest = np.split(10 * np.log10(synthetic.mean(0) / test.mean(0)), len(planes_of(c.test.x_NC[:1])))
    high = float(np.mean([plane[-max(1, len(plane) // 4) :].mean() for plane in finest]))
    return Measurement.of(
        c,
        "noise_power_spectrum",
        distance_of_means(synthetic, test, decibels, c.bootstrap, c.random()),
        distance_of_means(train, test, decibels, c.bootstrap, c.random()),
        c.n,
        f"mean over frequencies of the absolute difference; the finest quarter has {high:+.1f} dB of the real "
        "(below 0: blur; above: noise or checkerboards)",
        unit="dB",
        on_voxels=True,
    )
