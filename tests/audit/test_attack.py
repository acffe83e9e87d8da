"""The nearest-neighbour attack: the published dose and response of a leaking generator, patients, spaces."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from imgsynth.audit.attacks.attack import Released, Tools
from imgsynth.audit.attacks.nearest_neighbour import NearestNeighbour
from imgsynth.audit.roc import auc
from imgsynth.audit.spaces import fit_space
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig
from imgsynth.types import InputError

TOOLS = Tools(get_encoder("random_conv", 2, 0), AuditConfig())


def area(members: Images, nonmembers: Images, synthetic: Images, space: str = "raw") -> float:
    attack = NearestNeighbour(space, TOOLS)
    attack.prepare(Released(synthetic))
    return auc(attack.scores(members), attack.scores(nonmembers))


@pytest.mark.parametrize(("copy_share", "golden"), [(0.0, 0.50), (0.01, 0.55), (0.05, 0.69), (0.2, 0.94)])
def test_dose_and_response_of_a_leaky_generator(trial, copy_share: float, golden: float) -> None:  # type: ignore[no-untyped-def]
    """Mean AUC over ten draws for 200 + 200 digits and 2,000 samples, noise of 5 % of the intensity range."""
    measured = np.mean([area(*trial(copy_share, seed)) for seed in range(10)])
    assert measured == pytest.approx(golden, abs=0.03)


@pytest.mark.parametrize("space", ["pca", "ssim", "encoder"])
def test_other_spaces_find_the_leak_too(trial, space: str) -> None:  # type: ignore[no-untyped-def]
    assert area(*trial(0.2, 0), space) > 0.85
    assert 0.4 < area(*trial(0.0, 0), space) < 0.6


def test_a_patient_scores_by_the_nearest_of_all_images() -> None:
    random = np.random.default_rng(0)
    x_NC = random.standard_normal((9, 1, 4, 4)).astype(np.float32)
    patients = Images(x_NC, np.zeros(9, dtype=int), np.array(list("cabcabcab")))
    synthetic = synthetic_images(random.standard_normal((5, 1, 4, 4)).astype(np.float32), np.zeros(5, dtype=int))
    attack = NearestNeighbour("raw", TOOLS)
    attack.prepare(Released(synthetic))
    image_scores = -cdist(x_NC.reshape(9, -1), synthetic.x_NC.reshape(5, -1)).min(1)
    expected = [image_scores[patients.patients_N == name].max() for name in "abc"]
    assert attack.scores(patients) == pytest.approx(expected, rel=1e-3)


def test_pca_is_fitted_to_synthetic_images_alone() -> None:
    """Members that lie along an axis that no sample uses are all mapped to the same place."""
    synthetic_NC = np.zeros((30, 1, 2, 2), dtype=np.float32)
    synthetic_NC[:, 0, 0, 0] = np.linspace(-1, 1, 30)
    space = fit_space("pca", synthetic_images(synthetic_NC, np.zeros(30, int)), get_encoder("random_conv", 2, 0))
    members_NC = np.zeros((2, 1, 2, 2), dtype=np.float32)
    members_NC[1, 0, 1, 1] = 1.0
    first, second = space.embed(members_NC)
    assert abs(first[0] - second[0]) < 1e-6


def test_unknown_space_says_which_there_are() -> None:
    with pytest.raises(InputError, match="raw, pca, ssim, encoder"):
        fit_space(
            "fourier", synthetic_images(np.zeros((3, 1, 2, 2)), np.zeros(3, int)), get_encoder("random_conv", 2, 0)
        )
