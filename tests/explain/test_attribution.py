"""Maps of the real/synthetic classifier: closed forms, a fault at a known place, and controls that must not show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from imgsynth.evaluate.metric import NotDone
from imgsynth.explain.attribution import LogOdds, Told, integrated, likeness, told
from imgsynth.explain.local import explained, far
from imgsynth.measure.encoders import RandomConv
from imgsynth.measure.images import Images
from imgsynth.measure.small_cnn import SmallCNN
from imgsynth.types import Grid

PLACE = (slice(None), slice(None), slice(1, 5), slice(10, 14))  # 16 of 256 voxels, 6 %
GRID = Grid((16, 16), (1.0, 1.0), "PL", "DX", "a.u.", 0, 255)


class Score(nn.Module):
    """w·x + b, or a function of it."""

    def __init__(self, weight_C: Tensor, square: bool = False):
        super().__init__()
        self.weight_C, self.square = weight_C, square

    def forward(self, x_BC: Tensor) -> Tensor:
        score_B = (x_BC * self.weight_C).flatten(1).sum(1) + 3.0
        return score_B.square() if self.square else score_B


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 5)], ids=["2d", "3d"])
def test_of_a_linear_score_a_map_is_weight_times_distance_from_the_baseline(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    weight, baseline = (random.normal(size=(1, *shape)).astype(np.float32) for _ in range(2))
    x_NC = random.normal(size=(3, 1, *shape)).astype(np.float32)
    maps, missed = integrated(Score(torch.from_numpy(weight)), x_NC, baseline)
    assert np.allclose(maps, weight * (x_NC - baseline), atol=1e-5) and np.abs(missed).max() < 1e-4
    assert not np.allclose(maps, weight * x_NC, atol=0.1)  # another baseline


def test_of_a_square_a_map_is_complete_and_what_it_misses_is_what_is_reported() -> None:
    random = np.random.default_rng(1)
    weight = torch.from_numpy(random.normal(size=(1, 4, 4)).astype(np.float32))
    x_NC, baseline = random.normal(size=(4, 1, 4, 4)).astype(np.float32), np.zeros((1, 4, 4), np.float32)
    score = Score(weight, square=True)
    maps, missed = integrated(score, x_NC, baseline)
    total = (score(torch.from_numpy(x_NC)) - score(torch.zeros(1, 1, 4, 4))).numpy()
    assert np.allclose(maps.reshape(4, -1).sum(1), total, rtol=1e-4)  # Gauss-Legendre is exact for a polynomial
    kinked = LogOdds(SmallCNN(2, 2)).eval()
    maps, missed = integrated(kinked, np.pad(x_NC, ((0, 0), (0, 0), (6, 6), (6, 6))), np.zeros((1, 16, 16), np.float32))
    with torch.no_grad():
        ends = [
            kinked(torch.from_numpy(x))
            for x in (np.pad(x_NC, ((0, 0), (0, 0), (6, 6), (6, 6))), np.zeros((1, 1, 16, 16), np.float32))
        ]
    assert np.allclose(maps.reshape(4, -1).sum(1) - (ends[0] - ends[1]).numpy(), missed, atol=1e-4)


def digits(first: int, n: int, name: str, square: float = 0.0) -> Images:
    """Handwritten digits, one a patient, [n, 1, 16, 16]; with a brighter square if asked."""
    x, _ = load_digits(return_X_y=True)
    x = x[np.random.default_rng(0).permutation(len(x))][first : first + n]
    x_NC = (x.reshape(-1, 1, 8, 8) / 8.0 - 1.0).repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)
    x_NC[PLACE] = np.minimum(x_NC[PLACE] + square, 1)
    return Images(x_NC, np.zeros(n, np.int64), np.array([f"{name}{i}" for i in range(n)]))


@pytest.fixture(scope="module")
def planted() -> tuple[Told, Told]:
    real, made = digits(0, 160, "r"), digits(160, 160, "s", square=0.8)
    return told(real, made, 24, seed=0), told(real, made, 24, seed=0, shuffle=True)


def mass(map_MS: np.ndarray) -> float:
    return float(np.abs(map_MS[:, None][PLACE]).sum() / np.abs(map_MS).sum())


def by_kind(found: Told) -> np.ndarray:
    """The mean map of real and of synthetic images: what single images say beside it cancels."""
    return np.stack([found.map_MS[found.synthetic_N[found.pick_M] == k].mean(0) for k in (0, 1)])


def test_a_planted_square_is_where_the_map_has_its_mass(planted: tuple[Told, Told]) -> None:
    found, control = planted
    assert found.auc > 0.95 and found.missed < 0.05
    assert mass(found.map_MS) > 0.35 and mass(by_kind(found)) > 0.5
    square_M = found.map_MS[:, None][PLACE].sum((1, 2, 3))
    kind_M = found.synthetic_N[found.pick_M]
    assert square_M[kind_M == 1].mean() > 0 > square_M[kind_M == 0].mean()  # speaks for synthetic, and for real
    # Shuffled labels: the same images, the same network, nothing learned. Its map has no business there.
    assert 0.3 < control.auc < 0.7 and mass(control.map_MS) < 0.2 and mass(by_kind(control)) < 0.3
    assert likeness(found, control) < 0.8 and likeness(found, found) == pytest.approx(1)


def test_maps_sum_to_log_odds_less_those_of_the_baseline(planted: tuple[Told, Told]) -> None:
    """Two networks have two baselines; what is said is their mean."""
    for found in planted:
        start_M = np.sort(found.odds_N[found.pick_M] - found.map_MS.reshape(len(found.map_MS), -1).sum(1))
        assert found.start == pytest.approx((start_M[0] + start_M[-1]) / 2, abs=0.3)


def test_half_of_the_explained_are_the_surest_of_their_kind(planted: tuple[Told, Told]) -> None:
    found = planted[0]
    assert (
        len(found.pick_M) == 48 == len(set(found.pick_M))
        and found.synthetic_N[found.pick_M].tolist() == [0] * 24 + [1] * 24
    )
    odds_M = found.odds_N[found.pick_M]
    assert odds_M[0] == found.odds_N[:160].min() and odds_M[24] == found.odds_N[160:].max()
    assert sorted(odds_M[:12]) == odds_M[:12].tolist() and sorted(odds_M[24:36], reverse=True) == odds_M[24:36].tolist()


def test_every_image_is_judged_by_a_network_that_did_not_learn_from_it() -> None:
    """Labels of one half that are exchanged change the odds of the other half alone."""
    real, made = digits(0, 40, "r"), digits(40, 40, "s")
    from imgsynth.evaluate.detect import halves

    random = np.random.default_rng(0)
    half_N = np.concatenate([halves(real, random), halves(made, random)])
    before = told(real, made, 2, seed=0).odds_N
    changed = real.x_NC.copy()
    changed[half_N[:40] == 0] += 0.5
    after = told(real.with_images(changed), made, 2, seed=0).odds_N
    same = before == after
    assert same[40:][half_N[40:] == 0].all()  # judged by the network of half 1, whose images are as they were
    assert not same[half_N == 1].any()


def test_too_few_patients_are_not_explained() -> None:
    parts, not_done = explained(digits(0, 10, "r"), digits(10, 30, "s"), GRID, RandomConv(2, 0), 4, 0)
    assert [part.name for part in parts] == ["far"] and "it takes 20" in not_done[0]["why"]
    with pytest.raises(NotDone):
        told(digits(0, 10, "r"), digits(10, 30, "s"), 4, 0)


def test_the_sample_that_is_furthest_from_patients_leads_its_row() -> None:
    real, made = digits(0, 60, "r"), digits(60, 30, "s")
    made.x_NC[7] = np.sign(np.random.default_rng(0).normal(size=(1, 16, 16)))
    part = far(real, made, GRID, RandomConv(2, 0))
    assert part.numbers["shown"][0]["sample"] == 7
    assert part.numbers["shown"][0]["value"] > 2 * part.numbers["median_between_patients"]
    twice = Images(np.repeat(real.x_NC, 2, 0), np.repeat(real.y_N, 2), np.repeat(real.patients_N, 2))
    again = far(twice, made, GRID, RandomConv(2, 0))  # a patient's own second image is no other patient
    assert again.numbers["median_between_patients"] == pytest.approx(part.numbers["median_between_patients"], rel=1e-3)


def test_the_log_odds_are_the_difference_of_both_logits() -> None:
    class Two(nn.Module):
        def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
            return torch.stack([x_BC.mean((1, 2, 3)), 3 * x_BC.amax((1, 2, 3))], dim=1)

    x_BC = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(LogOdds(Two())(x_BC), 3 * x_BC.amax((1, 2, 3)) - x_BC.mean((1, 2, 3)))


def test_likeness_is_over_what_varies_and_the_error_is_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where images are the baseline every map is 0, alike whatever was learned: such places do not count."""
    random = np.random.default_rng(0)
    varied = np.zeros((16, 16), bool)
    varied[:4] = True
    maps = [np.where(varied, random.uniform(1, 2, (2, 16, 16)), 0.0) for _ in range(2)]
    a, b = (Told(np.zeros(2), np.arange(2), 0.5, np.arange(2), m, 0.0, varied, 0.0) for m in maps)
    assert abs(likeness(a, b)) < 0.5
    real_integrated, errors = integrated, iter([0.1, -0.7, 0.3, 0.2])

    def off(score: nn.Module, x_NC: np.ndarray, base_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, missed = real_integrated(score, x_NC, base_C)
        return found, np.array([next(errors) for _ in missed])

    monkeypatch.setattr("imgsynth.explain.attribution.integrated", off)
    found = told(digits(0, 40, "r"), digits(40, 40, "s", square=0.8), 2, seed=0)
    total = np.abs(found.map_MS.reshape(4, -1).sum(1)).mean()
    assert found.missed == pytest.approx(0.7 / total)
