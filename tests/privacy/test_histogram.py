import math
import random
from collections import Counter
from fractions import Fraction

import pytest
from scipy.stats import chisquare

from imgsynth.privacy.histogram import discrete_laplace, noisy_histogram
from imgsynth.types import InputError

DRAWS = 20_000


def p_of(sample, epsilon):
    """Chi-square test of P(z) = tanh(ε/2) e^{-ε|z|}, tails pooled."""
    edge = math.ceil(4 / epsilon)
    mass = {z: math.tanh(epsilon / 2) * math.exp(-epsilon * abs(z)) for z in range(-edge, edge + 1)}
    counts = Counter(z for z in sample if abs(z) <= edge)
    observed = [counts[z] for z in mass] + [len(sample) - sum(counts.values())]
    expected = [len(sample) * m for m in mass.values()] + [len(sample) * (1 - sum(mass.values()))]
    return chisquare(observed, expected).pvalue


@pytest.mark.parametrize("epsilon", [0.3, 0.5, 1.0, 2.5])
def test_noise_is_discrete_laplace_and_near_misses_are_rejected(epsilon):
    coins = random.Random(1)
    sample = [discrete_laplace(Fraction(epsilon), coins) for _ in range(DRAWS)]
    assert p_of(sample, epsilon) > 1e-4
    assert p_of(sample, epsilon * 2 / 3) < 1e-6
    assert p_of(sample, epsilon * 3 / 2) < 1e-6


def test_counts_are_of_patients_by_class_with_noise():
    patients = {f"p{i}": i % 2 for i in range(1001)}
    for _ in range(20):
        counts = noisy_histogram(patients, 3, epsilon=5.0)
        assert len(counts) == 3
        assert abs(counts[0] - 501) < 10
        assert abs(counts[1] - 500) < 10
        assert 0 <= counts[2] < 10


def test_counts_are_never_negative_yet_noised():
    drawn = [noisy_histogram({}, 2, epsilon=0.1) for _ in range(50)]
    assert all(count >= 0 for counts in drawn for count in counts)
    assert len({tuple(counts) for counts in drawn}) > 10


def test_one_patient_moves_the_odds_of_an_outcome_by_at_most_e_to_the_epsilon():
    """Neighbouring cohorts, the outcome 'exactly 3': frequencies within e^±ε, and near it, up to sampling error."""
    rates = []
    for n in (3, 4):
        patients = {str(i): 0 for i in range(n)}
        rates.append(sum(noisy_histogram(patients, 1, 1.0, seed=s) == [3] for s in range(DRAWS)) / DRAWS)
    assert math.log(rates[0] / rates[1]) == pytest.approx(1.0, abs=0.1)


def test_a_seed_repeats_and_none_does_not():
    patients = {str(i): i % 4 for i in range(100)}
    assert noisy_histogram(patients, 4, 0.1, seed=1) == noisy_histogram(patients, 4, 0.1, seed=1)
    assert len({tuple(noisy_histogram(patients, 4, 0.1)) for _ in range(5)}) > 1


def test_unknown_classes_and_impossible_epsilons_are_refused_together():
    with pytest.raises(InputError) as caught:
        noisy_histogram({"a": 0, "b": 7, "c": -1}, 3, 0.0)
    assert [fault.where for fault in caught.value.faults] == ["label histogram", "sample.histogram_epsilon"]
    assert "[-1, 7]" in caught.value.faults[0].got
