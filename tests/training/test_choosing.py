"""The ranking of methods, on tables whose answer is known."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import pytest
from planted_methods import planted, poor

from imgsynth import config as door
from imgsynth.schema import PrivacyConfig
from imgsynth.training.choosing import along_axis, place_for, rank, score
from imgsynth.training.method_table import COLUMNS, NEEDS_PUBLIC, TABLE, read_table, write_table
from imgsynth.training.suit import IMAGES_ALONE, UNMEASURED, suited
from imgsynth.types import InputError


def test_the_score_is_the_share_of_the_way_from_class_means_to_real_images() -> None:
    found = score(planted("vae"))
    assert found is not None and found.utility == pytest.approx(0.5) and found.fidelity == pytest.approx(0.5)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.45, 0.55))


def test_a_distance_counts_by_its_root_and_its_bad_end_is_the_high_one() -> None:
    found = score(planted("vae", auc=math.nan, frechet=1.0, frechet_low=0.25, frechet_high=4.0))
    assert found is not None and found.utility is None
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.5, 0.875))


def test_no_respect_counts_for_more_than_the_whole_way() -> None:
    ruined = score(planted("vae", auc=0.3, auc_low=0.2, auc_high=0.4))
    better = score(planted("vae", auc=1.1, auc_low=1.1, auc_high=1.1, auc_real=0.95))
    assert ruined is not None and ruined.utility == -1 and better is not None and better.utility == 1


@pytest.mark.parametrize("real", [0.815, 0.7])
def test_where_class_means_reach_real_images_utility_tells_nothing(real: float) -> None:
    found = score(planted("vae", auc_real=real))
    assert found is not None and found.utility is None and found.value == pytest.approx(0.5)


def test_without_anything_to_compare_with_there_is_no_score() -> None:
    assert score(planted("vae", auc_trivial=math.nan, frechet_trivial=math.nan)) is None
    ranking = rank([planted("vae", auc_trivial=math.nan, frechet_trivial=math.nan)], 200, 8, 3, 32, ["vae"])
    assert ranking is not None and (ranking.methods, ranking.unscored, ranking.missing) == ([], ["vae"], [])


def test_the_order_is_that_of_scores_and_the_best_is_worth_it_and_can_be_taken() -> None:
    rows = [poor("gan"), planted("merf", auc=0.92, auc_low=0.9, auc_high=0.94), planted("vae"),
            planted("evolution", auc=0.95, auc_low=0.93, auc_high=0.97)]  # fmt: skip
    ranking = rank(rows, 200, 8, 3, 32, ["evolution", "gan", "mepf", "merf", "vae"])
    assert ranking is not None
    assert [one.row.method for one in ranking.methods] == ["evolution", "merf", "vae", "gan"]
    assert [one.worth for one in ranking.methods] == [True, True, True, False]
    assert ranking.missing == ["mepf"]
    bests = [ranking.best(public=True), ranking.best(public=False), ranking.best(False, ["vae", "gan"]),
             ranking.best(False, ["gan"])]  # fmt: skip
    assert [one and one.row.method for one in bests] == ["evolution", "merf", "vae", None]


def test_a_score_whose_interval_touches_class_means_is_not_worth_its_epsilon() -> None:
    """The value alone is above them."""
    ranking = rank([poor("vae")], 200, 8, 3, 32, ["vae"])
    assert ranking is not None and ranking.methods[0].score.value > 0
    assert not ranking.methods[0].worth and ranking.best(public=True) is None


def test_images_that_teach_no_class_are_not_worth_their_epsilon_however_near_they_look() -> None:
    blind = score(planted("vae", auc=0.82, auc_low=0.79, auc_high=0.85, frechet=0.0, frechet_low=0.0, frechet_high=0.0))
    assert blind is not None and blind.low > 0.4 and not blind.worth
    ugly = score(planted("vae", frechet=15.0, frechet_low=14.0, frechet_high=17.0))
    assert ugly is not None and ugly.low > 0 and not ugly.worth
    only = score(planted("vae", auc=math.nan))
    assert only is not None and only.worth and only.worst == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("n", "nearest", "below", "above", "further"),
    [(335, 200, 200, 1000, 1000), (500, 1000, 200, 1000, 200), (200, 200, 200, 200, None), (50, 200, None, 200, None),
     (9000, 5000, 5000, None, None), (1000, 1000, 1000, 1000, None)],
)  # fmt: skip
def test_n_is_bracketed_and_never_extrapolated(
    n: int, nearest: int, below: int | None, above: int | None, further: int | None
) -> None:
    place = place_for([planted("vae", 200), planted("vae", 1000), planted("vae", 5000)], n, 8, 3, 32)
    assert place is not None and place.further == further
    assert (place.nearest, place.below, place.above) == (nearest, below, above)


def test_the_other_end_of_the_bracket_stands_beside() -> None:
    ranking = rank([planted("vae", 200), poor("vae", 1000), planted("gan", 1000), planted("merf", 5000)], 335, 8, 3, 32,
                   ["gan", "merf", "vae"])  # fmt: skip
    assert ranking is not None and [one.row.method for one in ranking.methods] == ["vae", "gan"]  # nearest n first
    vae, gan = ranking.methods
    assert vae.row.n == 200 and vae.other == score(poor("vae", 1000)) and gan.row.n == 1000 and gan.other is None
    assert ranking.missing == ["merf"]  # measured outside of the bracket alone
    assert [(row.method, row.n) for row in ranking.elsewhere] == [("gan", 1000), ("merf", 5000)]


def test_the_nearest_grid_comes_before_epsilon_and_epsilon_before_n() -> None:
    rows = [
        planted("vae", 200, 1.0),
        planted("vae", 1000, 8.0),
        planted("vae", 200, 8.0, grid=64),
        planted("vae", dims=2),
    ]
    place = place_for(rows, 200, 8.0, 3, along_axis([24, 32, 24]))
    assert place is not None and (place.grid, place.epsilon, place.nearest) == (32, 8.0, 1000)
    low = place_for(rows, 200, 2.0, 3, 32)
    assert low is not None and low.epsilon == 1.0
    assert place_for(rows[:3], 200, 8.0, 2, 32) is None and rank(rows[:3], 200, 8.0, 2, 32, []) is None


def test_the_proposal_of_inspect_is_the_best_of_the_same_table() -> None:
    asked = (200, 3, 32.0, 1, PrivacyConfig(epsilon=8.0), "patient")
    found = suited(*asked, rows=[planted("merf"), planted("vae", auc=0.95, auc_low=0.94, auc_high=0.96)])
    assert found.model == "vae" and "62% of the way" in found.why and "imgsynth plan" not in found.why
    assert suited(*asked, rows=[planted("merf"), planted("evolution", auc=0.99)]).model == "merf"
    none = suited(*asked, rows=[poor("merf"), poor("vae", frechet=17.0)])
    assert none.model == "merf" and "nothing measured there was worth its ε" in none.why
    unknown = suited(*asked, rows=[poor("vae")])
    assert unknown.model == "merf" and "By a fixed rule merf, which was not measured there" in unknown.why
    assert unknown.settings["model.images"] == 64  # volumes: fewer a step
    pairs = suited(200, 2, 32.0, 1, PrivacyConfig(), rows=[planted("mepf", dims=2, auc=0.99)], pairs=True)
    assert pairs.model == "merf" and "fixed rule" in pairs.why  # MEPF makes no masks
    for dims in (2, 3):
        fixed = suited(200, dims, 32.0, 1, PrivacyConfig(epsilon=8.0), rows=[])
        assert fixed.model == UNMEASURED[dims] and "fixed rule" in fixed.why


def test_the_shipped_table_parses_and_names_methods_that_there_are() -> None:
    rows = read_table()
    there = {path.stem for path in (door.config_folder() / "model").glob("*.yaml")}
    assert rows and {row.method for row in rows} <= there and set(NEEDS_PUBLIC) <= there
    for row in rows:
        assert row.needs_public == (row.method in NEEDS_PUBLIC) and row.dims in (2, 3) and row.repetitions >= 1
        assert row.date and row.commit
        assert any(f"{asked}{row.method}" in row.command for asked in ("--methods ", "curve.models=["))
        assert row.frechet_low <= row.frechet <= row.frechet_high and score(row) is not None


def test_a_table_comes_back_as_it_was_written_and_the_last_of_equal_rows_stays(tmp_path: Path) -> None:
    old, new = planted("vae", seconds=3.5), planted("vae", auc=0.95, command="a, b")
    path = write_table(tmp_path / "table.csv", [old, planted("gan", ms_ssim=math.nan, recall=0.0), new])
    found = read_table(path)
    assert [row.method for row in found] == ["gan", "vae"] and found[1].auc == 0.95 and found[1].command == "a, b"
    assert found[0].recall == 0.0 and math.isnan(found[0].ms_ssim) and found[0].needs_public is False


def test_what_is_wrong_with_a_table_is_said_all_at_once(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv", [planted("vae"), planted("gan")])
    good = list(csv.DictReader(path.read_text().splitlines()))

    def said(rows: list[dict[str, str]], columns: list[str]) -> str:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        with pytest.raises(InputError) as error:
            read_table(path)
        return str(error.value)

    columns = list(COLUMNS)
    assert "the columns" in said(good, columns[1:])
    both = said([good[0] | {"n": "many"}, good[1] | {"needs_public": "perhaps"}], columns)
    assert ":2" in both and ":3" in both
    assert "twice" in said([good[0], good[0]], columns)
    assert dataclasses.fields(planted("vae"))[0].name == columns[0]


def test_the_table_is_in_the_package() -> None:
    assert TABLE.parent == Path(door.__file__).parent / "training"


def test_what_makes_images_alone_is_what_the_door_refuses_beside_masks() -> None:
    refused = set()
    for path in (door.config_folder() / "model").glob("*.yaml"):
        try:
            door.from_overrides("train", [f"model={path.stem}", "data=nifti", "data.root=.", "data.masks=[a]",
                                          "privacy.delta=1e-5", "output=nowhere"])  # fmt: skip
        except InputError as error:
            refused |= {path.stem for fault in error.faults if fault.where == "data.masks"}
    assert refused == set(IMAGES_ALONE)
