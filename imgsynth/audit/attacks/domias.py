"""DOMIAS: where does the generator put more probability than the population does? (van Breugel et al. 2023, 2302.12580)

An image scores log p_G(x) − log p_R(x) (equation 2): p_G is the density of the samples, p_R that of reference patients.
Both are kernel density estimates with Gaussian kernels shaped by the data's covariance and Scott's bandwidth
n^(−1/(d+4)), as in the paper's own experiments on few dimensions. Densities in thousands of dimensions cannot be
estimated, so images are first projected on the first AXES principal components of the samples (or of their encoder
features). A patient's score is the maximum over the patient's images.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logsumexp

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools, highest_by_patient, the_reference
from imgsynth.audit.spaces import Embed, Space, evenly, principal_components
from imgsynth.measure.distances import distances
from imgsynth.measure.images import Images

AXES = 8
IMAGES_PER_AXIS = 5  # of reference patients at least, so that their covariance is that of a cloud


class KernelDensity:
    """p(x) = mean over data of N(x; datum, h² Σ), Σ their covariance, h = n^(−1/(d+4)) (Scott 1992)."""

    def __init__(self, data_Nd: np.ndarray):
        n, d = data_Nd.shape
        bandwidth = n ** (-1 / (d + 4))
        factor = np.linalg.cholesky(np.cov(data_Nd, rowvar=False).reshape(d, d)) * bandwidth
        self._whiten = np.linalg.inv(factor).T
        self._data_Nd = data_Nd.astype(np.float64) @ self._whiten
        self._constant = -math.log(n) - d / 2 * math.log(2 * math.pi) - float(np.log(np.diag(factor)).sum())

    def log_density(self, x_Nd: np.ndarray) -> np.ndarray:
        """[N] log p(x)."""
        exponent_NM = np.square(distances(x_Nd.astype(np.float64) @ self._whiten, self._data_Nd)) / -2
        return np.asarray(logsumexp(exponent_NM, axis=1)) + self._constant


class Domias:
    """The ratio of densities in space pca or encoder."""

    name = "domias"
    access = "samples+reference"
    spaces = ("pca", "encoder")

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._tables = tools.tables
        self._fitted: Space
        self._project: Embed
        self._synthetic: KernelDensity
        self._real: KernelDensity

    def prepare(self, released: Released) -> None:
        self._fitted = self._tables.space(self.space, released.samples)
        samples_ND = self._tables.vectors(self._fitted, released.samples)
        reference = the_reference(released)
        axes = min(AXES, len(reference) // IMAGES_PER_AXIS, len(samples_ND) // IMAGES_PER_AXIS)
        if axes < 1:
            n = min(len(reference), len(samples_ND))
            raise NotApplicable(f"{n} reference images or samples; a density of one axis takes {IMAGES_PER_AXIS}")
        self._project = principal_components(samples_ND[evenly(len(samples_ND))], axes)
        clouds = [self._project(v_ND) for v_ND in (samples_ND, self._tables.vectors(self._fitted, reference))]
        if not clouds[0].shape[1]:
            raise NotApplicable("samples that do not differ have no density")
        try:
            self._synthetic, self._real = (KernelDensity(cloud) for cloud in clouds)
        except np.linalg.LinAlgError:
            raise NotApplicable("reference images that do not differ along the samples' axes have no density") from None

    def scores(self, patients: Images) -> np.ndarray:
        x_Nd = self._project(self._tables.vectors(self._fitted, patients))
        return highest_by_patient(self._synthetic.log_density(x_Nd) - self._real.log_density(x_Nd), patients)
