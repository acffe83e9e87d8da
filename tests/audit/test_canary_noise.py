"""Tests of fresh noise: silent on independent normals of any shape, loud on noise that was used twice or kept."""

from __future__ import annotations

import numpy as np
import pytest

from imgsynth.audit.canaries.independence import of_rows, of_shape
from imgsynth.audit.canaries.mechanism import LEVEL


def normals(steps: int, canaries: int, seed: int = 0) -> np.ndarray:
    return 1.7 * np.random.default_rng(seed).standard_normal((steps, canaries)).astype(np.float32)


def p_values(z_TM: np.ndarray) -> dict[str, float]:
    found = {"steps": of_rows(z_TM), "coordinates": of_rows(z_TM.T.copy()), "normal": of_shape(z_TM)}
    return {name: pair[1] for name, pair in found.items() if pair is not None}


@pytest.mark.parametrize(("steps", "canaries"), [(2, 40), (3, 500), (30, 60)])
def test_fresh_noise_is_suspected_no_more_often_than_the_level_says(steps: int, canaries: int) -> None:
    """At 5 %, in 300 repetitions: 15 expected at most, 30 are four standard deviations above."""
    found = [p_values(normals(steps, canaries, seed)) for seed in range(300)]
    assert set(found[0]) == {"steps", "coordinates", "normal"}
    for name in found[0]:
        assert sum(p[name] <= 0.05 for p in found) < 30, name
        assert min(p[name] for p in found) > LEVEL / 10, name


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("apart", [1, 2, 17])
def test_one_step_used_again_anywhere_is_caught(apart: int, sign: int) -> None:
    z_TM = normals(30, 100)
    z_TM[5 + apart] = sign * z_TM[5]
    found = p_values(z_TM)
    assert found["steps"] < 1e-9 and found["normal"] > LEVEL


def test_pairs_of_steps_with_the_same_noise_are_caught_from_two_steps_on() -> None:
    assert p_values(normals(1, 100).repeat(2, 0))["steps"] < 1e-9
    assert p_values(normals(10, 100).repeat(2, 0))["steps"] < 1e-9


def test_noise_that_is_drawn_once_and_kept_is_caught() -> None:
    assert p_values(np.tile(normals(1, 100), (20, 1)))["steps"] < 1e-9


def test_one_noise_for_two_coordinates_is_caught() -> None:
    z_TM = normals(60, 100)
    z_TM[:, 90] = -z_TM[:, 3]
    assert p_values(z_TM)["coordinates"] < 1e-9


def test_correlation_too_thin_for_any_pair_is_caught_in_the_sum() -> None:
    """A tenth, between neighbouring steps, neighbouring coordinates, and both halves of the coordinates."""
    z_TM = normals(60, 200)
    for z_RN, name in ((z_TM, "steps"), (z_TM.T.copy(), "coordinates")):
        assert of_rows(z_RN)[1] > LEVEL, name
        assert of_rows(z_RN[1:] + 0.1 * z_RN[:-1])[1] < LEVEL, name
    halves = z_TM.copy()
    halves[:, 100:] += 0.2 * halves[:, :100]
    assert p_values(halves)["coordinates"] < LEVEL


@pytest.mark.parametrize("name", ["uniform", "laplace", "constant"])
def test_other_distributions_of_the_same_variance_are_caught(name: str) -> None:
    random = np.random.default_rng(1)
    made = {"uniform": random.uniform(-(3**0.5), 3**0.5, (40, 100)), "laplace": random.laplace(0, 0.5**0.5, (40, 100)),
            "constant": np.ones((40, 100))}[name]  # fmt: skip
    assert of_shape(made)[1] < LEVEL


def test_too_few_steps_or_canaries_say_nothing_of_pairs() -> None:
    assert of_rows(normals(1, 50)) is None and of_rows(normals(50, 1)) is None
    assert of_rows(np.zeros((4, 5)))[1] > LEVEL  # no noise at all is for another test
