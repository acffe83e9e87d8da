"""The innocent synthesizer and the leaking ones: what they contain, and that a patch equals the whole."""

from __future__ import annotations

import numpy as np
import pytest

from imgsynth.audit.synthesizers import Patched, innocent, leaky
from imgsynth.measure import images as images_module
from imgsynth.measure.images import Images


def people(patients: int, each: int, seed: int, shape: tuple[int, ...] = (6, 5)) -> Images:
    n = patients * each
    x_NC = np.random.default_rng(seed).uniform(-1, 1, (n, 1, *shape)).astype(np.float32)
    return Images(x_NC, np.arange(n) % 2, np.array([f"{seed}-{i % patients:03d}" for i in range(n)]))


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3)], ids=["2d", "3d"])
def test_innocent_images_lie_between_two_patients_of_the_reference(shape: tuple[int, ...]) -> None:
    reference = people(3, 2, 0, shape)
    made = innocent(reference, 150, np.random.default_rng(0))
    assert made.x_NC.shape == (150, 1, *shape) and made.n_patients == 150
    x, y = reference.x_NC.reshape(6, -1), reference.owner_N
    pairs = [(i, j) for i in range(6) for j in range(6) if y[i] != y[j]]
    shares, used = [], set()
    for one in made.x_NC.reshape(150, -1):
        for i, j in pairs:
            share = np.dot(one - x[j], x[i] - x[j]) / np.square(x[i] - x[j]).sum()
            if np.abs(x[j] + share * (x[i] - x[j]) - one).max() < 1e-5:
                shares.append(share)
                used.add((i, j))
    assert len(shares) == 300  # each pair is found from both ends
    assert used == set(pairs)
    assert min(shares) > -1e-4 and max(shares) < 1 + 1e-4 and np.std(shares) == pytest.approx(12**-0.5, abs=0.03)


def test_many_samples_are_stored_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "HALF_FROM", 10 * 30)
    reference = people(4, 1, 0)
    assert innocent(reference, 9, np.random.default_rng(0)).x_NC.dtype == np.float32
    stored = innocent(reference, 10, np.random.default_rng(0))
    assert stored.x_NC.dtype == np.float16
    assert leaky(stored, people(4, 1, 1), 0.5, 0.1, np.random.default_rng(0))[0].x_NC.dtype == np.float16


@pytest.mark.parametrize(("rate", "copies", "share"), [(0.2, 20, 0.5), (0.6, 60, 1.0)])
def test_a_leaky_synthesizer_holds_distinct_copies_while_they_last(rate: float, copies: int, share: float) -> None:
    base, members = people(100, 1, 1), people(40, 1, 2)
    made, copied = leaky(base, members, rate, 0.0, np.random.default_rng(0))
    same = (made.x_NC[:, None] == members.x_NC[None]).all((2, 3, 4))
    assert (same.any(1).sum(), same.any(0).sum(), copied) == (copies, 40 * share, share)
    assert (made.x_NC[~same.any(1)] == base.x_NC[~same.any(1)]).all()
    assert leaky(base, members, 0.0, 0.1, np.random.default_rng(0)) == (base, 0.0)


def test_the_share_that_is_copied_is_of_patients_not_of_images() -> None:
    members = people(10, 4, 2)
    _, copied = leaky(people(100, 1, 1), members, 0.03, 0.0, np.random.default_rng(3))
    assert copied in (0.1, 0.2, 0.3)


def test_noise_has_its_standard_deviation() -> None:
    base, members = people(300, 1, 1), people(300, 1, 2)
    made, _ = leaky(base, members, 1.0, 0.1, np.random.default_rng(0))
    residual = np.sort(np.abs(made.x_NC[:, None] - members.x_NC[None]).mean((2, 3, 4)), axis=1)[:, 0]
    assert residual.mean() == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.03)


def test_a_patched_set_is_the_whole_set() -> None:
    base = people(20, 1, 1)
    patched = Patched(base, np.array([3, 17]), np.zeros((2, 1, 6, 5)))
    picked = patched.select(np.array([17, 2, 3]))
    assert "x_NC" not in patched.__dict__, "selecting a few makes the whole"
    assert len(patched) == 20 and "x_NC" not in patched.__dict__
    assert (picked.x_NC == patched.x_NC[[17, 2, 3]]).all() and (picked.patients_N == base.patients_N[[17, 2, 3]]).all()
    assert (patched.x_NC[[3, 17]] == 0).all() and (base.x_NC[[3, 17]] != 0).any()
    mask = np.arange(20) % 3 == 0
    assert (patched.select(mask).x_NC == patched.x_NC[mask]).all()
