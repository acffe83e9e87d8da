import math
import ssl

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from imgsynth.privacy import noise
from imgsynth.privacy.noise import NoiseSource

LEVEL = 1e-6  # of every statistical test here: a right sampler fails one in a million times
N = 40_000


def p_value(sample, std):
    return kstest(sample.numpy() / std, "norm").pvalue


@pytest.mark.parametrize("seed", [None, 0])
def test_noise_has_the_declared_distribution_and_near_misses_are_rejected(seed):
    std = 0.37
    sample = NoiseSource(seed).add(torch.zeros(N), std)
    assert p_value(sample, std) > LEVEL
    assert p_value(sample, std * 2 / 3) < LEVEL
    assert p_value(sample, std * 3 / 2) < LEVEL
    assert p_value(sample + std / 10, std) < LEVEL


def test_standard_deviation_is_right_to_the_third_digit():
    n = 1_000_000
    measured = NoiseSource().normal(n).std().item()
    assert abs(measured - 1) < 5 / math.sqrt(2 * n)


def test_tails_are_those_of_a_normal():
    n = 1_000_000
    beyond = (NoiseSource().normal(n).abs() > 3.5).sum().item()
    expected = n * 2 * norm.sf(3.5)
    assert abs(beyond - expected) < 6 * math.sqrt(expected)


def test_noise_is_independent_between_calls_elements_and_both_halves_of_box_muller():
    source = NoiseSource()
    a, b = source.normal(N), source.normal(N)
    bound = 6 / math.sqrt(N)
    assert abs((a * b).mean()) < bound
    assert abs((a[1:] * a[:-1]).mean()) < bound
    first, second = a[::2], a[1::2]
    assert abs((first * second).mean()) < bound * 2
    assert abs((first**2 * second**2).mean() - 1) < 20 * bound  # their radius is shared, yet they are independent


@pytest.mark.parametrize("count", [0, 1, 7])
def test_any_count(count):
    assert NoiseSource().normal(count).shape == (count,)
    assert NoiseSource(0).normal(count).shape == (count,)


def test_the_shape_and_the_precision():
    noisy = NoiseSource().add(torch.zeros(3, 4, 5, dtype=torch.float32), 1.0)
    assert noisy.shape == (3, 4, 5)
    assert noisy.dtype == torch.float64
    assert noisy.unique().numel() == 60


@pytest.mark.parametrize("std", [1.0, 0.3, 1e-5, 4.7e4])
def test_outcomes_lie_on_one_grid_whatever_the_data_are(std):
    grid = 2.0 ** (math.floor(math.log2(std)) - 20)
    for value in (torch.zeros(1000), torch.rand(1000) * std / 7, torch.full((1000,), math.pi * std)):
        cells = NoiseSource().add(value, std) / grid
        assert torch.equal(cells, cells.round())
    assert grid < std * 1e-6  # far below the noise


def test_the_mean_is_the_value():
    noisy = NoiseSource().add(torch.full((N,), 5.0), 2.0)
    assert abs(noisy.mean() - 5) < 6 * 2 / math.sqrt(N)


def test_unseeded_noise_comes_from_the_cryptographic_generator_and_has_no_state(monkeypatch):
    asked = []
    monkeypatch.setattr(ssl, "RAND_bytes", lambda n: asked.append(n) or bytes(range(256)) * (n // 256) + bytes(n % 256))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    source = NoiseSource()
    source.normal(100)
    assert asked == [800]
    assert torch.equal(torch.get_rng_state(), before)
    assert source.state_dict() == {"random": None}


def test_two_unseeded_sources_differ_and_torch_seeds_change_nothing():
    torch.manual_seed(0)
    a = NoiseSource().normal(4)
    torch.manual_seed(0)
    assert not torch.equal(a, NoiseSource().normal(4))


def test_a_seeded_source_repeats_and_resumes():
    a, b = NoiseSource(7), NoiseSource(7)
    assert torch.equal(a.normal(5), b.normal(5))
    c = NoiseSource(8)
    c.load_state_dict(a.state_dict())
    assert torch.equal(a.normal(5), c.normal(5))


def test_states_of_seeded_and_unseeded_sources_do_not_mix():
    with pytest.raises(AssertionError, match="seeded run for an unseeded"):
        NoiseSource().load_state_dict(NoiseSource(0).state_dict())


EDGES = [0, 1, 2**12 - 1, 2**50 - 1, 2**50, 2**63 - 1, 2**63, 2**64 - 2**50, 2**64 - 1]


@pytest.mark.parametrize("std", [1.0, 0.3])
def test_box_muller_is_that_of_its_formula_to_the_last_digits(std):
    """Directly, by cosine and sine of the whole angle in 50 digits; on the CPU by a table and a turn from it."""
    random = np.random.default_rng(0)
    words = random.integers(0, 2**64, (2, 500 + len(EDGES) ** 2), dtype=np.uint64)
    words[:, 500:] = np.array([(a, b) for a in EDGES for b in EDGES], dtype=np.uint64).T
    by_table = noise._box_muller_by_table(words, std).view(np.float64).reshape(-1, 2)
    anywhere = noise._box_muller(*torch.from_numpy(words.view(np.int64))).view(-1, 2).numpy() * std
    with mpmath.workdps(50):
        for n, (first, second) in enumerate(words.T):
            radius = std * mpmath.sqrt(-2 * mpmath.log((mpmath.mpf(int(first) >> 12) + 0.5) / 2**52))
            angle = 2 * mpmath.pi * mpmath.mpf(int(second)) / 2**64
            for half, direct in enumerate((mpmath.cos(angle), mpmath.sin(angle))):
                assert abs(by_table[n, half] - radius * direct) < 4e-15 * std
                assert abs(anywhere[n, half] - radius * direct) < 1e-14 * std  # its angle has 53 bits
    assert np.abs(by_table).max() < 8.6 * std


def test_the_upper_52_bits_of_both_words_count():
    """A bit that is lost halves the number of outcomes."""
    words = np.random.default_rng(1).integers(0, 2**64, (2, 1), dtype=np.uint64)
    whole = noise._box_muller_by_table(words)
    for word in range(2):
        for bit in range(12, 64):  # the radius has no use for lower ones, doubles have no room for the angle's
            other = words.copy()
            other[word] ^= np.uint64(1 << bit)
            assert not np.array_equal(noise._box_muller_by_table(other), whole), (word, bit)


@pytest.mark.parametrize("count", [0, 1, 7, 40_001])
def test_noise_on_other_devices_is_that_of_the_cpu(monkeypatch, count):
    """By torch's functions, which run anywhere; the device that has no memory stands for one that is not the CPU."""
    value = torch.linspace(-3, 3, count).view(count, 1)
    normal, noisy = NoiseSource(5).normal(count), NoiseSource(5).add(value, 0.5, 3.0)
    monkeypatch.setattr(noise, "_by_table", lambda device: False)
    assert torch.allclose(NoiseSource(5).normal(count), normal, rtol=0, atol=2e-14)
    elsewhere = NoiseSource(5).add(value, 0.5, 3.0)
    assert torch.allclose(elsewhere, noisy, rtol=1e-15, atol=0)  # on the same cells of the grid
    monkeypatch.undo()
    assert NoiseSource(5).normal(count, "meta").shape == (count,)
    noisy = NoiseSource(5).add(value.to("meta"), 0.5, 3.0)
    assert (noisy.shape, noisy.dtype, noisy.device.type) == ((count, 1), torch.float64, "meta")


def test_no_random_word_is_used_twice(monkeypatch):
    monkeypatch.setattr(ssl, "RAND_bytes", lambda n: np.arange(n // 8, dtype=np.uint64).tobytes())
    assert NoiseSource()._words(3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert len(np.unique(NoiseSource(0)._words(500))) == 1000


def test_parts_are_independent_and_together_normal(monkeypatch):
    monkeypatch.setattr(noise, "_PART", 1000)
    sample = NoiseSource().normal(40_001)
    assert sample.shape == (40_001,)
    assert p_value(sample, 1.0) > LEVEL
    parts = sample[:40_000].view(40, 1000)
    assert (parts[:-1] * parts[1:]).mean().abs() < 6 / math.sqrt(39_000)
    assert len(sample.unique()) == 40_001
    noisy = NoiseSource().add(torch.zeros(40_000), 1.0).view(40, 1000)
    assert (noisy[:-1] * noisy[1:]).mean().abs() < 6 / math.sqrt(39_000)


@pytest.mark.parametrize("seed", [None, 3])
def test_values_keep_their_places_across_parts(monkeypatch, seed):
    monkeypatch.setattr(noise, "_PART", 14)
    value = torch.arange(101, dtype=torch.float32).view(101, 1) * 1000
    noisy = NoiseSource(seed).add(value, 1e-3, 8.0)
    assert noisy.shape == value.shape
    assert (noisy - value / 8).abs().max() < 1e-2


@pytest.mark.parametrize("divisor", [1.0, 3.0, 0.3])
def test_what_is_divided_is_the_noised_value_on_its_grid(divisor):
    value, std = torch.rand(1000, generator=torch.Generator().manual_seed(0)), 0.7
    noisy = NoiseSource(0).add(value, std, divisor)
    assert torch.allclose(noisy, NoiseSource(0).add(value, std) / divisor, rtol=1e-15, atol=0)
    cells = noisy * divisor / 2.0 ** (math.floor(math.log2(std)) - 20)
    assert (cells - cells.round()).abs().max() < 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_of_any_precision_that_are_not_contiguous(dtype):
    value = torch.arange(12, dtype=dtype).view(3, 4).T.requires_grad_()
    noisy = NoiseSource(0).add(value, 1e-6)
    assert noisy.dtype == torch.float64 and not noisy.requires_grad
    assert (noisy - value.double()).abs().max() < 1e-5


def test_no_digit_of_a_value_is_lost():
    value = 1 + 2.0**-30
    assert abs(NoiseSource().add(torch.tensor([value], dtype=torch.float64), 1e-12).item() - value) < 1e-10
    assert NoiseSource().add(torch.tensor([2**40 + 1]), 1e-3).round().item() == 2**40 + 1
