"""From the files of cells to tables, figure and page."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from planted_cells import FACTS, entry, indexed, plant
from scipy import stats

from imgsynth.files import read_json, write_json
from imgsynth.sweep.cells import Cell, SweepFolder, read_index, write_index
from imgsynth.sweep.combine import ceilings, combined, group, largest, rivals
from imgsynth.sweep.figure import figure_of
from imgsynth.sweep.tables import table_of
from imgsynth.sweep.write import curve_of, write_curve
from imgsynth.types import InputError

ONE, TWO, THREE = (Cell("ward", "vae", 1.0, r) for r in (1, 2, 3))
UNBOUNDED, BROKEN, WAITING = Cell("ward", "vae", math.inf, 1), Cell("ward", "gan", 1.0, 1), Cell("ward", "gan", 1.0, 2)
REAL, TRIVIAL, DP = "real", "trivial generator", "real (DP-SGD)"


@pytest.fixture
def planted(tmp_path: Path) -> SweepFolder:
    folder = indexed(tmp_path, ONE, TWO, THREE, UNBOUNDED, BROKEN, WAITING)
    for cell, auc, trivial, bound in ((ONE, 0.80, 0.70, 0.1), (TWO, 0.82, 0.72, 0.4), (THREE, 0.78, 0.70, 0.0)):
        plant(folder, cell, {"synthetic": auc, REAL: 0.95, TRIVIAL: trivial, DP: 0.9}, bound)
    plant(folder, UNBOUNDED, {"synthetic": 0.93, REAL: 0.95, TRIVIAL: 0.85, DP: 0.94}, 3.0, frechet=0.5)
    fault = {"where": "trainer", "got": "nan", "expected": "numbers", "remedy": "a smaller rate"}
    write_json(folder.failure(BROKEN), {"faults": [fault]})
    return folder


def test_repetitions_and_patients_are_both_in_the_interval() -> None:
    """Each part alone, and both as variances: by hand."""
    same = combined([entry(0.8, 0.03)])
    assert (same["low"], same["high"], same["repetitions"]) == (pytest.approx(0.77), pytest.approx(0.83), 1)
    values = [0.80, 0.82, 0.78]
    known = combined([entry(v) for v in values])  # no patients in it
    half = stats.t.interval(0.95, 2, 0.8, np.std(values, ddof=1) / math.sqrt(3))[1] - 0.8
    assert known["value"] == pytest.approx(0.8) and known["high"] == pytest.approx(0.8 + half)
    both = combined([entry(v, 0.03) for v in values])
    assert both["high"] - 0.8 == pytest.approx(math.hypot(half, 0.03)) and both["values"] == values


def test_dice_has_its_rivals_and_its_difference_from_noised_means(planted: SweepFolder) -> None:
    dice = {"synthetic": 0.50, REAL: 0.78, TRIVIAL: 0.41, DP: 0.35}
    for cell in (ONE, TWO, THREE):
        path = planted.cell(cell) / "evaluation.json"
        structures = {on: [{"name": "front", "dice": entry(value, 0.02),
                            "over_trivial": entry(0.09, 0.03) if on == "synthetic" else None}]
                      for on, value in dice.items()}  # fmt: skip
        results = [{"trained_on": on, "structures": rows} for on, rows in structures.items()]
        write_json(path, read_json(path) | {"segmentation": {"results": results}})
    table = table_of("ward", curve_of(planted))
    rows = {row[0] + row[1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["vae1"]["Dice, front"] == "0.5 [0.48, 0.52]" == rows["vae1"]["Dice, mean"]
    assert rows["vae1"]["Dice above trivial, front"] == "0.09 [0.06, 0.12]"
    assert rows["trivial generator1"]["Dice, front"] == "0.41 [0.39, 0.43]"
    assert rows["DP-SGD network1"]["Dice, front"] == "0.35 [0.33, 0.37]"
    assert rows["real data–"]["Dice, front"] == "0.78 [0.76, 0.8]"
    assert rows["trivial generator1"]["Dice above trivial, front"] == "–"


def test_the_difference_from_the_trivial_generator_is_the_paired_one(planted: SweepFolder) -> None:
    curve = curve_of(planted)
    found = curve["groups"][0]["numbers"]["over_trivial/small_cnn"]
    half = stats.t.interval(0.95, 2, 0, np.std([0.10, 0.10, 0.08], ddof=1) / math.sqrt(3))[1]
    assert found["value"] == pytest.approx(0.28 / 3)
    assert found["high"] - found["value"] == pytest.approx(math.hypot(half, 0.04))
    table = table_of("ward", curve)
    column = table.columns.index("AUC above trivial, small_cnn")
    assert [row[column] for row in table.rows if row[0] == "real data" or row[0].startswith("DP")] == ["–"] * 3
    assert table.rows[0][column].startswith("0.0933 [")


def test_an_interval_of_repetitions_holds_what_it_says() -> None:
    """Simulated: patients shared by all repetitions, training anew in each. 95 % of intervals hold the truth, and those
    of patients or of repetitions alone do not."""
    random = np.random.default_rng(0)
    patients, training, hold = 0.02, 0.03, {"both": 0, "patients": 0, "repetitions": 0}
    for _ in range(2000):
        values = patients * random.standard_normal() + training * random.standard_normal(3)
        for name, h in (("both", 1.96 * patients), ("repetitions", 0.0)):
            found = combined([entry(v, h) for v in values])
            hold[name] += found["low"] <= 0 <= found["high"]
        hold["patients"] += abs(values.mean()) <= 1.96 * patients
    assert 0.94 < hold["both"] / 2000 < 0.995
    assert hold["patients"] / 2000 < 0.9 and hold["repetitions"] / 2000 < 0.94


def test_a_result_that_cells_share_counts_once_and_trainings_that_agree_count_each() -> None:
    """Rivals are computed once for all models of a repetition, real data once for all; models each time."""

    def row(model: str, repetition: int, **numbers: float) -> dict:
        return {"cohort": "ward", "model": model, "epsilon": 1.0, "repetition": repetition, "state": "finished",
                "numbers": {name.replace("_in_", "/"): entry(v) for name, v in numbers.items()}, "verdict": "",
                "plan": {"epsilon": 1.0, "delta": 1e-5}, "seconds": {}}  # fmt: skip

    recall = ((0.0, 0.2), (0.0, 0.1), (0.3, 0.1))  # of two models, which are different trainings throughout
    means = (0.5, 0.5, 0.8)  # of class means: drawn anew in each repetition, twice to the same number
    shared = [
        {f"auc_in_cnn_in_{TRIVIAL}": mean, f"auc_in_cnn_in_{REAL}": 0.9, "recall_in_floor": 0.0} for mean in means
    ]
    rows = [row(model, r + 1, recall=recall[r][m], **shared[r])
            for r in range(3) for m, model in enumerate(("vae", "gan"))]  # fmt: skip
    vae, gan = (g["numbers"]["recall"] for g in group(rows))
    assert vae["value"] == pytest.approx(0.1) and vae["repetitions"] == 3 and vae["values"] == [0.0, 0.0, 0.3]
    assert gan["value"] == pytest.approx(0.4 / 3) and gan["repetitions"] == 3
    (trivial,) = rivals(rows)
    assert trivial["numbers"]["auc/cnn"]["values"] == [0.5, 0.5, 0.8]
    real = ceilings(rows)["ward"]
    assert real["auc/cnn"]["repetitions"] == real["recall"]["repetitions"] == 1


def test_cohorts_and_epsilons_are_kept_apart(planted: SweepFolder) -> None:
    clinic = Cell("clinic", "vae", 1.0, 1)
    plant(planted, clinic, {"synthetic": 0.6, REAL: 0.7, TRIVIAL: 0.55, DP: 0.65}, 0.2)
    write_index(planted, [], [clinic], {"clinic": FACTS})
    curve = curve_of(planted)
    value = {(r["cohort"], r["rival"], r["epsilon"]): r["numbers"]["auc/small_cnn"]["value"] for r in curve["rivals"]}
    assert value == {("ward", TRIVIAL, 1.0): pytest.approx(2.12 / 3), ("ward", TRIVIAL, None): 0.85,
                     ("ward", "DP-SGD network", 1.0): pytest.approx(0.9),
                     ("ward", "DP-SGD network", None): 0.94, ("clinic", TRIVIAL, 1.0): 0.55,
                     ("clinic", "DP-SGD network", 1.0): 0.65}  # fmt: skip
    assert {name: real["auc/small_cnn"]["value"] for name, real in curve["ceilings"].items()} == {
        "ward": 0.95, "clinic": 0.7}  # fmt: skip


def test_a_share_has_no_interval_beyond_0_and_1(tmp_path: Path) -> None:
    folder = indexed(tmp_path, ONE)
    plant(folder, ONE, {"synthetic": 0.99, REAL: 0.995}, frechet=0.1)
    curve = curve_of(folder)
    assert curve["groups"][0]["numbers"]["auc/small_cnn/synthetic"]["high"] == 1.0
    assert curve["groups"][0]["numbers"]["frechet_distance"]["low"] == pytest.approx(-0.3)


def test_what_is_proven_is_the_largest_of_the_repetitions(planted: SweepFolder) -> None:
    plan = planted.cell(TWO) / "plan.json"
    write_json(plan, read_json(plan) | {"epsilon": 1.5})
    assert max(g["proven"] or 0 for g in curve_of(planted)["groups"]) == 1.5
    assert "0.4 [0, 0.4]" in (write_curve(planted).parent / "curve.md").read_text()


def test_of_lower_bounds_the_largest_is_shown() -> None:
    found = largest([entry(0.1), entry(0.4), entry(0.0)])
    assert found["value"] == 0.4 and found["values"] == [0.1, 0.4, 0.0]


def test_the_curve_of_planted_cells(planted: SweepFolder) -> None:
    curve = curve_of(planted)
    gan, vae, free = sorted(curve["groups"], key=lambda g: (g["model"], g["epsilon"] is None))
    assert (gan["finished"], gan["failed"], gan["unfinished"], gan["numbers"]) == (0, 1, 1, {})
    assert (vae["epsilon"], vae["finished"], vae["proven"]) == (1.0, 3, 0.99)
    assert free["epsilon"] is None and free["proven"] is None
    auc = vae["numbers"]["auc/small_cnn/synthetic"]
    assert auc["value"] == pytest.approx(0.8) and auc["repetitions"] == 3
    assert vae["numbers"]["epsilon_lower_bound"]["value"] == 0.4
    assert vae["seconds"] == {"train": 10.0, "sample": 1.0, "evaluate": 4.0, "audit": 5.0}
    others = [name for name in vae["numbers"] if "real" in name or "trivial" in name or "floor" in name]
    assert others == ["over_trivial/small_cnn"]
    trivial = {r["epsilon"]: r["numbers"]["auc/small_cnn"] for r in curve["rivals"] if r["rival"] == TRIVIAL}
    assert trivial[1.0]["value"] == pytest.approx((0.70 + 0.72 + 0.70) / 3) and trivial[None]["value"] == 0.85
    ceiling = curve["ceilings"]["ward"]
    assert ceiling["auc/small_cnn"]["value"] == 0.95 and ceiling["auc/small_cnn"]["repetitions"] == 1
    assert ceiling["frechet_distance"]["value"] == 0.2
    assert "brier/small_cnn/synthetic" in vae["numbers"]
    assert "calibration_error/small_cnn/synthetic" not in vae["numbers"]  # it could not be computed


def test_the_table_for_people(planted: SweepFolder) -> None:
    write_curve(planted)
    text = (planted.root / "curve.md").read_text()
    rows = {tuple(c.strip() for c in line.split("|")[1:3]): line for line in text.splitlines() if line.startswith("|")}
    assert rows["vae", "1"].split("|")[3].strip() == "3"
    assert "0.8 [" in rows["vae", "1"] and "10 / 20" in rows["vae", "1"]
    assert "0.93 [0.9, 0.96]" in rows["vae", "∞"]
    assert rows["gan", "1"].split("|")[3].strip() == "0, 1 failed, 1 unfinished"
    assert "0.95 [0.92, 0.98]" in rows["real data", "–"] and "0.2 [0.1, 0.3]" in rows["real data", "–"]
    assert "0.9 [0.87, 0.93]" in rows["DP-SGD network", "1"] and ("trivial generator", "∞") in rows
    assert "gan, ε = 1, repetition 1: trainer: got nan" in text
    assert "private" in text and "not covered by any ε" in text
    order = [name for name, _ in rows if name in ("vae", "gan", "real data")]
    assert order == ["vae", "vae", "gan", "real data"]


def test_the_table_for_programs(planted: SweepFolder) -> None:
    write_curve(planted)
    with (planted.root / "curve.csv").open() as file:
        lines = list(csv.DictReader(file))
    of = {(x["what"], x["epsilon"], x["repetition"], x["number"]): x for x in lines}
    assert float(of["vae", "1", "2", "auc/small_cnn/synthetic"]["value"]) == 0.82
    assert float(of["vae", "1", "all", "auc/small_cnn/synthetic"]["value"]) == 0.8
    assert float(of["real data", "", "all", "auc/small_cnn"]["value"]) == 0.95
    assert float(of["vae", "∞", "1", "epsilon_lower_bound"]["value"]) == 3.0


def test_page_and_pictures(planted: SweepFolder) -> None:
    page = write_curve(planted).read_text()
    assert "LOCAL ONLY" in page and "data:image/svg+xml;base64" in page and "<script" not in page
    assert "trainer: got nan" in page and "http" not in page.split("<body>")[1]
    assert (planted.root / "curve-ward.png").read_bytes().startswith(b"\x89PNG")
    svg = (planted.root / "curve-ward.svg").read_text()
    for word in ("AUC, small_cnn", "Fréchet distance", "audited", "∞", "proven ε", "real data", "DP-SGD network"):
        assert word in svg
    before = {p.name: p.read_bytes() for p in planted.root.glob("curve*")}
    write_curve(planted)
    assert before == {p.name: p.read_bytes() for p in planted.root.glob("curve*")}  # the same files, the same bytes


def test_the_figure_shows_the_numbers_of_the_table(planted: SweepFolder) -> None:
    """Read back from its axes: each line at its ε with its interval, ∞ at the right, the ceiling, the proven ε."""
    path = planted.cell(UNBOUNDED) / "evaluation.json"
    told = read_json(path)
    told["utility"]["results"][0]["auc"] = {"value": 0.93, "low": 0.83, "high": 0.95}  # an interval that is not even
    write_json(path, told)
    plant(planted, BROKEN, {"synthetic": 0.6, REAL: 0.95}, 0.0)
    figure = figure_of("ward", curve_of(planted))
    assert figure is not None
    axes = {axis.get_title(): axis for axis in figure.axes}
    auc = axes["AUC, small_cnn"]
    lines = {c.get_label(): c.lines for c in auc.containers}
    (vae, _, (bars,)), (gan, _, _) = lines["vae"], lines["gan"]
    x, y = vae.get_data()
    assert len(x) == 2 and x[0] == pytest.approx(1, rel=0.03) and x[1] == pytest.approx(3, rel=0.03)
    assert list(y) == pytest.approx([0.8, 0.93]) and list(gan.get_ydata()) == [0.6]
    assert [float(v) for v in bars.get_segments()[1][:, 1]] == pytest.approx([0.83, 0.95])
    assert [tick.get_text() for tick in auc.get_xticklabels()] == ["1", "∞"]
    assert list(lines["trivial generator"][0].get_ydata()) == pytest.approx([2.12 / 3, 0.85])
    real = next(line for line in auc.lines if line.get_label() == "real data")
    assert list(real.get_ydata()) == [0.95, 0.95]
    bound = axes["ε: proven, and audited ≥"]
    proven = next(line for line in bound.lines if line.get_label() == "proven ε")
    assert [list(map(float, values)) for values in proven.get_data()] == [[1.0], [0.99]]
    assert {c.get_label(): list(c.lines[0].get_ydata()) for c in bound.containers}["vae"] == [0.4, 3.0]
    assert axes["Fréchet distance"].get_yscale() == "log"


def test_nothing_finished_is_a_table_without_a_picture(tmp_path: Path) -> None:
    folder = indexed(tmp_path, WAITING)
    page = write_curve(folder).read_text()
    assert "1 not finished" in page and not list(tmp_path.glob("*.png"))


def test_cells_of_earlier_commands_stay_in_the_table(planted: SweepFolder) -> None:
    write_index(planted, ["experiment=other"], [Cell("clinic", "vae", 8.0, 1)], {})
    index = read_index(planted)
    assert ONE in index.cells and UNBOUNDED in index.cells and len(index.cells) == 7
    assert index.overrides == ["experiment=other"] and read_json(planted.index)["scope"] == "local"


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sweep\.json"):
        read_index(SweepFolder(tmp_path))
