"""What the pictures beside patients show: which images, which maps, in which colours. With maps that are planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgsynth.explain import local, pictures
from imgsynth.explain.attribution import Told
from imgsynth.explain.part import Part
from imgsynth.measure.encoders import RandomConv
from imgsynth.measure.images import Images
from imgsynth.types import Grid

GRID = Grid((16, 16), (1.0, 1.0), "PL", "DX", "a.u.", 0, 255)
N = 24  # of each kind; the first six of each are explained


def greys(first: float, name: str) -> Images:
    """Images of one grey each, which says which image it is."""
    x_NC = np.broadcast_to((first + 0.02 * np.arange(N))[:, None, None, None], (N, 1, 16, 16)).astype(np.float32)
    return Images(x_NC, np.zeros(N, np.int64), np.array([f"{name}{i}" for i in range(N)]))


TEST, MADE = greys(-0.8, "r"), greys(0.2, "s")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Part, list[float], list[str]]]:
    """(part, greys of the images it shows, titles) by name. Maps speak for real at the left and for synthetic at the
    right: real images strongly and mostly for real, synthetic ones a hundredth as much and mostly for synthetic."""
    kind_N = np.repeat([0, 1], N)
    odds_N = np.where(kind_N == 1, 1.0, -1.0) * (5 - 0.1 * np.tile(np.arange(N), 2))  # the first is surest of its kind
    odds_N[[3, N + 3]] *= 2  # but for the fourth
    pick_M = np.concatenate([np.arange(6), N + np.arange(6)])
    map_MS = np.zeros((12, 16, 16))
    map_MS[:6, :, :8], map_MS[:6, :, 8:] = -0.4, 0.1
    map_MS[6:, :, :8], map_MS[6:, :, 8:] = -0.001, 0.004
    found = Told(odds_N, kind_N, 0.99, pick_M, map_MS, 0.01, np.ones((16, 16), bool), 4.0)
    control = Told(odds_N, kind_N, 0.5, pick_M, map_MS[:, :, ::-1], 0.01, np.ones((16, 16), bool), 0.0)
    monkeypatch.setattr(local, "told", lambda *_, shuffle=False: control if shuffle else found)
    images, page, seen, titled = pictures.images, pictures.page, [], []

    def spy_images(x_BC: np.ndarray, grid: Grid) -> Any:
        seen.append([float(x_C.mean()) for x_C in x_BC])
        return images(x_BC, grid)

    def spy_page(cells: Any, titles: Any, *rest: Any) -> Image.Image:
        titled.append(list(titles))
        return page(cells, titles, *rest)

    monkeypatch.setattr(pictures, "images", spy_images)
    monkeypatch.setattr(pictures, "page", spy_page)
    parts, not_done = local.explained(TEST, MADE, GRID, RandomConv(2, 0), 6, 0)
    assert not_done == [] and [part.name for part in parts] == ["far", "attribution", "surest_maps", "surest"]
    of = dict(zip(("far", "surest_maps", "surest"), seen, strict=True))
    return {p.name: (p, of.get(p.name, []), t) for p, t in zip(parts, titled, strict=True)}


def place(images: Images, greys_: list[float]) -> list[int]:
    """Which of ``images`` these are; fails for one that is none of them."""
    own = images.x_NC.mean((1, 2, 3))
    found = [int(np.abs(own - grey).argmin()) for grey in greys_]
    assert own[found] == pytest.approx(greys_, abs=1e-3)
    return found


def colour(picture: Image.Image, cell: int, side: str) -> tuple[int, int, int]:
    """Of the middle of one half of a map in the first row."""
    width = picture.width // 4
    box = np.asarray(picture.convert("RGB"))[picture.height // 2, cell * width + (width // 4 if side == "left" else
                                                                                 3 * width // 4)]  # fmt: skip
    return tuple(int(c) for c in box)  # type: ignore[return-value]


def test_samples_are_shown_and_no_patient_where_the_title_says_samples(shown: dict[str, Any]) -> None:
    assert set(place(MADE, shown["far"][1])) <= set(range(N))
    assert place(MADE, shown["surest"][1])[:3] == [3, 0, 1]  # by held-out log odds, the largest first
    assert shown["surest"][2][0] == "9.40"


def test_the_surest_of_each_kind_stand_over_their_own_maps(shown: dict[str, Any]) -> None:
    part, greys_, titles = shown["surest_maps"]
    assert place(MADE, greys_[:4]) == [3, 0, 1, 2] and place(TEST, greys_[4:]) == [3, 0, 1, 2]
    assert titles[:8] == ["synthetic, +9.4", "synthetic, +5.0", "synthetic, +4.9", "synthetic, +4.8",
                          "real, -9.4", "real, -5.0", "real, -4.9", "real, -4.8"]  # fmt: skip
    assert [one["synthetic"] for one in part.numbers["shown"]] == [True] * 4 + [False] * 4
    assert "full colour at ±0.4 log odds" in part.caption


def test_orange_speaks_for_synthetic_and_blue_for_real_on_one_scale_on_which_a_hundredth_is_seen(
    shown: dict[str, Any],
) -> None:
    part, _, titles = shown["attribution"]
    assert titles == ["real, mean", "synthetic, mean", "both, amount", "shuffled labels"]
    (r, _, b), (r2, _, b2) = colour(part.picture, 0, "left"), colour(part.picture, 0, "right")
    assert b > r + 60 and r2 > b2 + 60  # for real at the left, for synthetic at the right
    faint = colour(part.picture, 1, "right")
    assert faint[0] > faint[2] and 20 < faint[0] < r2  # the same scale: darker than real images', and not black
    assert sum(colour(part.picture, 2, "left")) > sum(colour(part.picture, 2, "right"))
    assert sum(colour(part.picture, 3, "left")) < sum(colour(part.picture, 3, "right"))  # the control's, mirrored
    assert "full colour at ±0.4 log odds" in part.caption and "less +4.0, those of the baseline" in " ".join(part.lines)
    assert part.numbers["baseline_log_odds"] == 4.0


def test_colours_and_units_of_maps() -> None:
    map_S = np.zeros((16, 16))
    map_S[:, :5], map_S[:, 11:] = -1.0, 1.0
    pixels = np.asarray(pictures.signed(map_S, 1.0, GRID)[0])
    row, width = pixels[len(pixels) // 2].astype(int), pixels.shape[1]
    assert row[width // 8][2] > row[width // 8][0] and row[-width // 8][0] > row[-width // 8][2]
    assert row[width // 2].max() < 6  # black, but for the step of 1/256
    assert pictures.shown(1.0, GRID) == "128 a.u." and pictures.shown(2.0, GRID) == "255 a.u."  # the window is 2 wide
