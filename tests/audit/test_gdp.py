"""ε under the Gaussian hypothesis: golden numbers, closed forms, and that it never comes alone."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
from dp_accounting import get_sigma_gaussian
from scipy.stats import norm

from imgsynth.audit import gdp
from imgsynth.audit.epsilon import epsilon_at_threshold
from imgsynth.audit.gdp import WithGaussian, epsilon_of_gaussian
from imgsynth.audit.one_run import Guesses, OneRunBound


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (4.0, 1e-6), (26.4, 1e-6)])
def test_conversion_agrees_with_the_analytic_gaussian_mechanism(epsilon: float, delta: float) -> None:
    assert epsilon_of_gaussian(1 / get_sigma_gaussian(epsilon, delta), delta) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize(("shift", "true"), [(1, 4.89), (2, 11.0), (4, 26.4)])
def test_true_epsilon_of_shifted_normals(shift: float, true: float) -> None:
    assert epsilon_of_gaussian(shift, 1e-6) == pytest.approx(true, rel=2e-3)


def test_no_shift_is_no_epsilon() -> None:
    assert epsilon_of_gaussian(0.0, 1e-5) == 0.0
    assert epsilon_of_gaussian(1e-6, 1e-5) == 0.0


def table(m: int, accuracy: float) -> WithGaussian:
    return WithGaussian.of(OneRunBound.of(Guesses(m, m, round(accuracy * m)), 0.05, 1e-5))


@pytest.mark.parametrize(
    ("m", "accuracy", "steinke", "gaussian"),
    [
        (100, 0.6, 0.05, 0.08), (100, 0.8, 0.96, 2.13), (100, 1.0, 3.49, 8.22),
        (1000, 0.6, 0.30, 0.58), (1000, 0.9, 2.02, 3.78), (1000, 1.0, 5.78, 12.3),
        (10_000, 0.7, 0.81, 1.38), (10_000, 1.0, 7.83, 16.1),
    ],
)  # fmt: skip
def test_table_of_both_bounds(m: int, accuracy: float, steinke: float, gaussian: float) -> None:
    both = table(m, accuracy)
    assert both.valid.epsilon == pytest.approx(steinke, abs=0.006)
    assert both.epsilon_under_gaussian_hypothesis == pytest.approx(gaussian, abs=0.006, rel=3e-3)


def test_randomised_response_is_overstated_by_the_hypothesis_and_not_by_the_valid_bound() -> None:
    """ε = 1 exactly, δ = 0: the number that assumes a Gaussian is above it. That is why it is never given alone."""
    both = table(10_000, np.e / (1 + np.e))
    assert both.epsilon_under_gaussian_hypothesis > 1.4
    assert both.valid.epsilon < 1


def test_errors_of_a_gaussian_give_back_its_epsilon() -> None:
    z = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    both = WithGaussian.of(epsilon_at_threshold(z + 1, z, 0.5, 0.05, 1e-5))
    assert 0.93 * 4.38 < both.epsilon_under_gaussian_hypothesis < 4.38
    assert both.valid.epsilon < both.epsilon_under_gaussian_hypothesis
    useless = WithGaussian.of(epsilon_at_threshold(np.arange(50.0), np.arange(50.0), 25.0, 0.05, 1e-5))
    assert useless.epsilon_under_gaussian_hypothesis == 0.0


def test_it_never_comes_without_the_valid_bound() -> None:
    fields = [field.name for field in dataclasses.fields(WithGaussian)]
    assert fields == ["valid", "epsilon_under_gaussian_hypothesis"]
    takes_scores = [
        name
        for name, function in inspect.getmembers(gdp, inspect.isfunction)
        if function.__module__ == gdp.__name__ and not name.startswith("_")
    ]
    assert takes_scores == ["epsilon_of_gaussian"]  # of a known μ; what starts from data goes through WithGaussian
    with pytest.raises(ValueError, match="δ > 0"):
        WithGaussian.of(OneRunBound.of(Guesses(10, 10, 10), 0.05, 0.0))
