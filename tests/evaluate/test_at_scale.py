"""Many images: sums and pairs by blocks are those of plain loops to 1e-9, and no table of all pairs is ever held."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from rich.console import Console

from imgsynth import console
from imgsynth.evaluate import side
from imgsynth.evaluate.frechet import frechet_with_interval
from imgsynth.evaluate.intensity import histograms
from imgsynth.evaluate.kid import kid_with_interval
from imgsynth.evaluate.manifold import NEIGHBOURS, Neighbours
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.run import evaluate
from imgsynth.evaluate.scores import weighted_auc
from imgsynth.evaluate.side import Side
from imgsynth.evaluate.spectrum import spectra
from imgsynth.measure import images as images_module
from imgsynth.measure import small_cnn
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, in_blocks, synthetic_images
from imgsynth.measure.resampling import mean_by_patient, sum_by_patient
from imgsynth.schema import EvaluateConfig
from imgsynth.types import Grid


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_sums_by_patient_are_those_of_a_loop(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    values, owner = random.normal(size=(50, *shape)).astype(np.float32), random.integers(0, 9, 50)
    owner[owner == 4] = 5  # a patient without images
    expected = np.zeros((9, *shape))
    for value, patient in zip(values, owner, strict=True):
        expected[patient] += value
    found = sum_by_patient(values, owner, 9)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    owner[:9] = np.arange(9)
    table = values.reshape(50, -1)
    np.testing.assert_allclose(mean_by_patient(table, owner, 9)[3], table[owner == 3].mean(0, dtype=float), rtol=1e-12)


def test_an_area_under_the_curve_is_that_of_all_pairs_with_ties() -> None:
    random = np.random.default_rng(1)
    scores, positive = random.integers(0, 6, 40) / 5, random.integers(0, 2, 40).astype(bool)
    w_RN = random.integers(0, 4, (7, 40)).astype(float)
    w_RN[6, positive] = 0
    for w_N, found in zip(w_RN, weighted_auc(scores, positive, w_RN), strict=True):
        won = pairs = 0.0
        for i in np.flatnonzero(positive):
            for j in np.flatnonzero(~positive):
                pairs += w_N[i] * w_N[j]
                won += w_N[i] * w_N[j] * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
        assert np.isnan(found) if pairs == 0 else found == pytest.approx(won / pairs, rel=1e-12)
    assert np.isnan(weighted_auc(np.zeros(0), np.zeros(0, dtype=bool), np.ones((1, 0)))[0])


def test_neighbours_are_those_of_a_loop_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    a, b = random.normal(size=(30, 3)), random.normal(size=(26, 3)) + 0.3
    owner = np.repeat(np.arange(15), 2)
    real, other = Side.of(a.astype(np.float32), owner), Side.of(b.astype(np.float32), np.arange(26))

    def radius(x: np.ndarray, who: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if who[j] != who[i])[NEIGHBOURS - 1]

    inside = np.array([[np.linalg.norm(p - q) < radius(a, owner, i) for q in b] for i, p in enumerate(a)])
    reverse = np.array([[np.linalg.norm(p - q) < radius(b, np.arange(26), j) for j, q in enumerate(b)] for p in a])
    for pairs in (side.PAIRS, 70):
        monkeypatch.setattr(side, "PAIRS", pairs)
        found = Neighbours.of(real, other)
        np.testing.assert_array_equal(found.balls_M, inside.sum(0))
        np.testing.assert_array_equal(found.covered_N, inside.any(1))
        np.testing.assert_array_equal(found.recalled_N, reverse.any(1))


def test_images_in_blocks_are_images_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NC = np.random.default_rng(3).uniform(-1.1, 1.1, (11, 1, 9, 8)).astype(np.float16)
    images = Images(x_NC, np.zeros(11, int), np.repeat(list("abcd"), [3, 3, 3, 2]))
    whole = histograms(images), in_blocks(lambda x: spectra(x[:, 0]), x_NC)
    monkeypatch.setattr(images_module, "AT_ONCE", 200)  # two images
    np.testing.assert_array_equal(histograms(images), whole[0])
    np.testing.assert_allclose(in_blocks(lambda x: spectra(x[:, 0]), x_NC), whole[1], rtol=1e-9)
    lengths: list[int] = []
    in_blocks(lambda x: lengths.append(len(x)) or x, x_NC)
    assert lengths == [2, 2, 2, 2, 2, 1]
    assert in_blocks(lambda x: x.mean((1, 2, 3)), x_NC[:0]).shape == (0,)


def test_a_batch_in_parts_is_the_same_step_and_large_volumes_come_in_small_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(4)
    x_NC, y_N = random.uniform(-1, 1, (20, 1, 9, 8)).astype(np.float32), np.arange(20) % 2
    monkeypatch.setattr(small_cnn, "STEPS", 5)

    def trained(dims: int = 2, x: np.ndarray = x_NC) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = small_cnn.train(small_cnn.SmallCNN(dims, 2), x, y_N[: len(x)], 2)
        return torch.nn.utils.parameters_to_vector(network.parameters())

    whole = trained()
    monkeypatch.setattr(small_cnn, "AT_ONCE", 5 * 72)  # five images
    torch.testing.assert_close(trained(), whole, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(small_cnn, "MOST", 7 * 72)
    assert not torch.allclose(trained(), whole, atol=1e-3)
    drawn: list[int] = []
    draw = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda w, n, replacement: drawn.append(n) or draw(w, n, replacement))
    trained()
    assert drawn == [7] * 5
    monkeypatch.undo()
    assert [min(small_cnn.BATCH, small_cnn.MOST // side**3) for side in (28, 40, 48, 64)] == [32, 32, 18, 8]


def test_networks_take_more_steps_where_there_are_thousands_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [small_cnn.steps_for(n) for n in (5, 624, 1280, 1281, 4708, 6400, 100_000)]
    assert said == [120, 120, 120, 121, 442, 600, 600]
    steps: list[int] = []
    adam = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(1) or adam(self))
    x_NC, y_N = np.random.default_rng(6).uniform(-1, 1, (1300, 1, 8, 8)), np.arange(1300) % 2
    small_cnn.train(small_cnn.SmallCNN(2, 2), x_NC, y_N, 2)
    assert len(steps) == 122


ON_PAIRS: dict[str, Callable[[Side, Side], object]] = {
    "kernel": lambda a, b: kid_with_interval(a, b, 10, np.random.default_rng(0)),
    "neighbours": Neighbours.of,
    "frechet": lambda a, b: frechet_with_interval(a, b, 3, np.random.default_rng(0)),
    "auc": lambda a, b: weighted_auc(a.x_ND[:, 0], b.x_ND[:, 0] > 0, np.ones((10, len(a)))),
}


@pytest.mark.parametrize("what", list(ON_PAIRS))
def test_memory_is_not_that_of_all_pairs(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "PAIRS", 1 << 15)
    n, d = 2000, 4
    a, b = (Side.of(x, np.arange(n)) for x in np.random.default_rng(5).normal(size=(2, n, d)).astype(np.float32))
    tracemalloc.start()
    ON_PAIRS[what](a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n  # bytes: an eighth of one table of double precision, a quarter of single


def test_each_part_is_named_while_it_runs(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=110))
    monkeypatch.setattr(small_cnn, "STEPS", 2)
    two = digits.select(digits.y_N < 2)
    train, test, made = (two.select(part) for part in np.split(np.arange(180), [60, 120]))
    grid = Grid((16, 16), (1.0, 1.0), "PL", "CT", "HU", -1000.0, 1000.0)
    c = Comparison(train, test, synthetic_images(made.x_NC, made.y_N), get_encoder("random_conv", 2, 0), grid, 10, 0)
    evaluate(c, ["zero", "one"], EvaluateConfig(classifier_seeds=1, shares=[0.5]))
    shown = screen.getvalue()
    parts = (
        "evaluating: classes", "measuring: kernel_distance", "class: one", "evaluating: utility", "encoding",
        "training a small_cnn on: real + synthetic", "small_cnn on a share of the patients: 0.5",
        "evaluating: detectability", "telling synthetic from real: grey values",
    )  # fmt: skip
    assert not [part for part in parts if part not in shown]
    assert console._shown is None
