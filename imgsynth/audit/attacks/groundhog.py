"""Classifier of synthetic sets (Groundhog: Stadler, Oprisanu and Troncoso 2022, arXiv:2011.07018; TAPAS: Houssiau et
al. 2022, arXiv:2211.06550).

Does a synthetic set as a whole look like one of a model that was trained on this patient? For each patient a logistic
regression learns it from the sets of the reference models, half of which were, and is then asked about the release. The
features of a set are, of each coordinate of ``space``, mean, variance and quantiles over its images. A patient's images
play no part, so that there is nothing to aggregate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.attacks.shadows import samples_of, the_references
from imgsynth.audit.references import Reference
from imgsynth.audit.spaces import Embed, fit_space
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import LEVEL
from imgsynth.measure.source import watermark_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WEAKNESS = 1e-2  # C of the logistic regression: references are few, features many


class Groundhog:
    """The set classifier in ``space``; references come in complementary pairs."""

    name = "groundhog"
    access = "recipe"

    def __init__(self, space: str, tools: Tools):
        self.space = space
        self._encoder = tools.encoder
        self._references: tuple[Reference, ...] = ()
        self._features_RF: np.ndarray
        self._released_F: np.ndarray

    def prepare(self, released: Released) -> None:
        self._references = the_references(released)
        embed = fit_space(self.space, released.samples, self._encoder).embed
        labels_N = released.samples.y_N
        watermark = None if released.run is None else watermark_of(released.run)
        made = [samples_of(reference, labels_N, index, watermark) for index, reference in enumerate(self._references)]
        self._features_RF = np.stack([set_features(embed, samples.x_NC) for samples in made])
        self._released_F = set_features(embed, released.samples.x_NC)

    def scores(self, patients: Images) -> np.ndarray:
        in_RP = self._in(patients)
        return np.array(
            [float(_fitted(self._features_RF, in_R).decision_function(self._released_F[None])[0]) for in_R in in_RP.T]
        )

    def held_out(self, patients: Images) -> HeldOut:
        """How well the classifiers of these patients do on references that they were not made from."""
        return held_out(self._features_RF, self._in(patients))

    def _in(self, patients: Images) -> np.ndarray:
        return np.array([reference.saw(patients.names_P) for reference in self._references])


@dataclass(frozen=True)
class HeldOut:
    """AUC over held-out pairs of references, its interval over the pairs (Student's t), which are the trials."""

    auc: float
    low: float
    high: float
    pairs: int
    patients: int


def set_features(embed: Embed, x_NC: np.ndarray) -> np.ndarray:
    """[F] mean, variance and quantiles of each coordinate over the images of one set."""
    v_ND = embed(x_NC).astype(np.float64)
    return np.concatenate([v_ND.mean(0), v_ND.var(0), np.quantile(v_ND, QUANTILES, axis=0).ravel()])


def held_out(features_RF: np.ndarray, in_RP: np.ndarray) -> HeldOut:
    """Leave one pair of complementary references out, learn from the others, and ask which of the two knew the patient.

    References 2i and 2i+1 are a pair: one was trained on the patient, the other was not. Needs two pairs or more.
    """
    pairs, patients = len(features_RF) // 2, in_RP.shape[1]
    assert pairs >= 2 and (in_RP[0::2] != in_RP[1::2]).all(), "two or more complementary pairs"
    right_IP = np.empty((pairs, patients))
    for i in range(pairs):
        out, others = slice(2 * i, 2 * i + 2), np.delete(np.arange(2 * pairs), [2 * i, 2 * i + 1])
        for p in range(patients):
            score_2 = _fitted(features_RF[others], in_RP[others, p]).decision_function(features_RF[out])
            known, other = score_2[in_RP[out, p]][0], score_2[~in_RP[out, p]][0]
            right_IP[i, p] = (known > other) + 0.5 * (known == other)
    right_I = right_IP.mean(1)
    half = student.ppf((1 + LEVEL) / 2, pairs - 1) * right_I.std(ddof=1) / np.sqrt(pairs)
    area = float(right_I.mean())
    return HeldOut(area, max(0.0, area - float(half)), min(1.0, area + float(half)), pairs, patients)


def outlying(features_PD: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` patients farthest from the mean, standardised: the targets that TAPAS would choose.

    Chosen by the patients' own images, the model unseen.
    """
    z_PD = (features_PD - features_PD.mean(0)) / np.maximum(features_PD.std(0), 1e-12)
    return np.argsort(-(z_PD**2).sum(1), kind="stable")[:count]


def _fitted(features_RF: np.ndarray, in_R: np.ndarray) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=WEAKNESS, max_iter=500))
    return model.fit(features_RF, in_R)
