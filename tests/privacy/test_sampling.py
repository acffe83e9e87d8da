import math

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.types import InputError

LEVEL = 1e-6
N, STEPS = 200, 2000


def plan_of(rate=0.3, steps=STEPS, n=N, seeded=False):
    return PrivacyPlan(
        mode="dp",
        unit="patient",
        n=n,
        sampling_rate=rate,
        steps=steps,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        images_per_patient=1,
        delta=1e-5,
        seeded=seeded,
    )


def p_of_rate(batches, rate):
    return binomtest(sum(map(len, batches)), N * len(batches), rate).pvalue


def p_of_size_variance(batches, rate):
    """Sizes of Poisson batches are Binomial(n, q): two-sided chi-square test of their variance."""
    sizes = np.array([len(b) for b in batches])
    statistic = ((sizes - N * rate) ** 2).sum() / (N * rate * (1 - rate))
    return 2 * min(chi2.cdf(statistic, len(sizes)), chi2.sf(statistic, len(sizes)))


def p_of_overlap(batches, rate):
    """A patient is in two batches in a row with probability q²: disjoint pairs of batches are independent trials."""
    both = sum(len(set(a) & set(b)) for a, b in zip(batches[::2], batches[1::2], strict=True))
    return binomtest(both, N * len(batches) // 2, rate**2).pvalue


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_are_poisson_samples(seed):
    sampler = PoissonPatients(plan_of(seeded=seed is not None), seed)
    batches = [sampler.draw() for _ in range(STEPS)]
    assert p_of_rate(batches, 0.3) > LEVEL
    assert p_of_size_variance(batches, 0.3) > LEVEL
    assert p_of_overlap(batches, 0.3) > LEVEL
    per_patient = np.bincount(np.concatenate(batches), minlength=N)
    assert max(abs(per_patient - STEPS * 0.3)) < 6.5 * math.sqrt(STEPS * 0.3 * 0.7)
    assert all(b == sorted(set(b)) for b in batches)


def test_near_misses_are_rejected():
    random = np.random.default_rng(0)
    fixed_size = [random.choice(N, 60, replace=False).tolist() for _ in range(STEPS)]
    assert p_of_rate(fixed_size, 0.3) > LEVEL
    assert p_of_size_variance(fixed_size, 0.3) < LEVEL
    shuffled = [half.tolist() for _ in range(STEPS // 2) for half in np.array_split(random.permutation(N), 2)]
    assert p_of_overlap(shuffled, 0.5) < LEVEL
    other_rate = [np.flatnonzero(random.random(N) < 0.32).tolist() for _ in range(STEPS)]
    assert p_of_rate(other_rate, 0.3) < LEVEL


@pytest.mark.parametrize(("rate", "expected"), [(1.0, list(range(N))), (1e-300, [])])
def test_extreme_rates(rate, expected):
    assert PoissonPatients(plan_of(rate=rate)).draw() == expected


def test_the_population_may_differ_from_the_declared_n():
    assert PoissonPatients(plan_of(rate=1.0), population=7).draw() == list(range(7))


def test_an_empty_batch_is_possible_and_returned():
    sampler = PoissonPatients(plan_of(rate=0.001, n=10, steps=100))
    assert [] in [sampler.draw() for _ in range(100)]


def test_no_batch_beyond_the_accounted_steps():
    sampler = PoissonPatients(plan_of(steps=2))
    sampler.draw(), sampler.draw()
    with pytest.raises(InputError, match="the 2 steps that this run's ε accounts for"):
        sampler.draw()


def test_resuming_goes_on_counting_and_stores_no_randomness():
    first = PoissonPatients(plan_of(steps=3))
    first.draw(), first.draw()
    assert first.state_dict() == {"drawn": 2, "random": None}
    second = PoissonPatients(plan_of(steps=3))
    second.load_state_dict(first.state_dict())
    second.draw()
    with pytest.raises(InputError):
        second.draw()


def test_a_seeded_sampler_resumes_where_it_was():
    plan = plan_of(seeded=True)
    first, second = PoissonPatients(plan, 5), PoissonPatients(plan, 6)
    first.draw()
    second.load_state_dict(first.state_dict())
    assert first.draw() == second.draw()


def test_unseeded_samplers_differ():
    assert PoissonPatients(plan_of()).draw() != PoissonPatients(plan_of()).draw()


def test_a_seed_needs_a_plan_that_says_so():
    with pytest.raises(AssertionError, match="marked as seeded"):
        PoissonPatients(plan_of(), 0)
    with pytest.raises(AssertionError, match="marked as seeded"):
        PoissonPatients(plan_of(seeded=True))
