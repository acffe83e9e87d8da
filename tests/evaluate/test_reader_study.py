"""The reader study: blinded, in an order that tells nothing, the key apart, and scored against scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from forked import script_forked
from PIL import Image
from sklearn.metrics import roc_auc_score

from imgsynth.evaluate.reader_study import FORM, key_of, picture, score, write_kit
from imgsynth.files import read_json
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.types import InputError


def sides(n: int = 12) -> tuple[Images, Images]:
    random = np.random.default_rng(0)
    real = Images(random.uniform(-1, 1, (2 * n, 1, 8, 8)).astype(np.float32), np.zeros(2 * n, int),
                  np.repeat([f"secret-{i}" for i in range(n)], 2))  # fmt: skip
    return real, synthetic_images(random.uniform(-1, 1, (n, 1, 8, 8)).astype(np.float16), np.zeros(n, int))


def fill(folder: Path, marks: dict[str, tuple[str, str]]) -> Path:
    form = folder / FORM
    rows = list(csv.reader(form.open(encoding="utf-8")))
    for row in rows[1:]:
        row[1:3] = marks[row[0]]
    csv.writer(form.open("w", encoding="utf-8", newline="")).writerows(rows)
    return form


def test_the_folder_tells_nothing_and_the_key_tells_all(tmp_path: Path) -> None:
    real, made = sides()
    folder = write_kit(tmp_path / "readers", real, made, 10)
    files = sorted(path.name for path in (folder / "images").iterdir())
    assert files == [f"{i:03d}.png" for i in range(1, 21)]
    pictures = [Image.open(folder / "images" / name) for name in files]
    assert {(p.size, p.mode, tuple(p.info)) for p in pictures} == {((384, 384), "L", ())}
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"secret" not in everything and not (folder / key_of(folder).name).exists()
    key = read_json(key_of(folder))
    assert sum(key["synthetic"].values()) == 10 and len(set(key["patients"].values())) == 10
    for name, synthetic in key["synthetic"].items():  # each picture is what the key says
        shown = np.asarray(Image.open(folder / "images" / name))[::48, ::48]
        pool = made.x_NC if synthetic else real.x_NC[real.patients_N == key["patients"][name]]
        assert any((np.asarray(picture(x))[::48, ::48] == shown).all() for x in pool)
    # the order is fresh each time
    again = write_kit(tmp_path / "again", real, made, 10)
    assert read_json(key_of(again))["synthetic"] != key["synthetic"]
    with pytest.raises(InputError, match="readers=12"):
        write_kit(tmp_path / "more", real, made, 13)


def test_volumes_are_three_planes() -> None:
    x = np.full((1, 6, 8, 10), -1, np.float32)
    x[0, 3] = 1
    shown = np.asarray(picture(x))
    assert shown.shape[0] < shown.shape[1] and shown.max() == 255


def test_scores_are_those_of_scikit_learn_and_faulty_forms_are_told(tmp_path: Path) -> None:
    real, made = sides()
    folder = write_kit(tmp_path / "readers", real, made, 12)
    truth = read_json(key_of(folder))["synthetic"]
    random = np.random.default_rng(1)
    marks = {n: (str(np.clip(3 + y + random.integers(-2, 2), 1, 5)), str(4 - y)) for n, y in truth.items()}
    form = fill(folder, marks)
    found = score(form, key_of(folder))
    y = np.array(list(truth.values()))
    certain = np.array([int(marks[n][0]) for n in truth])
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(y, certain))
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]
    assert found["sensitivity"]["value"] == pytest.approx((certain[y == 1] >= 4).mean())
    assert found["specificity"]["value"] == pytest.approx((certain[y == 0] < 4).mean())
    assert found["quality"] == {"real": 4.0, "synthetic": 3.0}
    script = Path(__file__).parents[2] / "scripts" / "score_readers.py"
    shown = script_forked(script, str(form), str(key_of(folder)))
    assert shown.returncode == 0 and '"auc"' in shown.stdout, shown.stderr
    fill(folder, {**marks, "001.png": ("6", "3"), "002.png": ("", "3")})
    with pytest.raises(InputError) as caught:
        score(form, key_of(folder))
    assert len(caught.value.faults) == 2
    form.write_text("\n".join(form.read_text().splitlines()[:-1]))
    with pytest.raises(InputError, match=r"no line for 024\.png"):
        score(form, key_of(folder))
