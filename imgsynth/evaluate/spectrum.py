"""Texture by frequency: the noise power spectrum of detrended regions, and how far the synthetic one is from the real.

After ICRU Report 54 and IEC 62220-1: a region has a fitted polynomial of second order subtracted and is Fourier
transformed; NPS(f) is the mean of |F|², here averaged over rings of equal |f|. Anatomy is in it, too, as these are
patients and no uniform phantoms: it says whether samples have as much of each fineness as patients have, which blur
and checkerboards change most.
"""

from __future__ import annotations

import numpy as np

from imgsynth.evaluate.metric import Comparison, Interval, Measurement, require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, recentred_interval, sum_by_patient

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
    """[P, F] summed spectra of each patient's images, all planes one after another."""
    found = np.concatenate([spectra(plane) for plane in planes_of(images.x_NC)], axis=1)
    mean = sum_by_patient(found, images.owner_N, images.n_patients)
    return mean / sum_by_patient(np.ones(len(images)), images.owner_N, images.n_patients)[:, None]


def decibels(a_RF: np.ndarray, b_RF: np.ndarray) -> np.ndarray:
    """[R] mean over frequencies of |10 log₁₀(a/b)|."""
    tiny = 1e-12  # of squared intensity in [-1, 1]: far below a half-precision rounding
    return np.abs(10 * np.log10((a_RF + tiny) / (b_RF + tiny))).mean(1)


def spectrum_with_interval(
    a_PF: np.ndarray, b_QF: np.ndarray, replicates: int, random: np.random.Generator
) -> Interval:  # fmt: skip
    value = float(decibels(a_PF.mean(0, keepdims=True), b_QF.mean(0, keepdims=True))[0])
    w_RP, v_RQ = (bootstrap_weights(len(side), replicates, random) / len(side) for side in (a_PF, b_QF))
    low, high = recentred_interval(value, decibels(w_RP @ a_PF, v_RQ @ b_QF))
    return Interval(value, max(low, 0.0), high)


def spectrum_distance(c: Comparison) -> Measurement:
    """Decibels between the mean noise power spectra of samples and test patients; floor between train and test."""
    shape = c.test.x_NC.shape[2:]
    require(min(shape) >= SMALLEST, f"images of {shape} voxels; a spectrum takes {SMALLEST} along each axis")
    n = min(c.train.n_patients, len(c.synthetic))
    smallest = min(n, c.test.n_patients)
    require(smallest >= MIN_PATIENTS, f"{smallest} patients on the smallest side; it takes {MIN_PATIENTS}")
    test = _of_patients(c.test)
    synthetic = _of_patients(c.synthetic.select(np.arange(n)))
    train = _of_patients(c.train.draw_patients(n, c.random()))
    found = spectrum_with_interval(synthetic, test, c.bootstrap, c.random())
    finest = np.split(10 * np.log10(synthetic.mean(0) / test.mean(0)), len(planes_of(c.test.x_NC[:1])))
    high = float(np.mean([plane[-max(1, len(plane) // 4) :].mean() for plane in finest]))
    return Measurement(
        name="noise_power_spectrum",
        value=found.value,
        low=found.low,
        high=found.high,
        floor=spectrum_with_interval(train, test, c.bootstrap, c.random()),
        unit="dB",
        better="lower",
        n_real=c.test.n_patients,
        n_synthetic=n,
        encoder=None,
        note=f"mean over frequencies of the absolute difference; the finest quarter has {high:+.1f} dB of the real "
        "(below 0: blur; above: noise or checkerboards)",
    )
