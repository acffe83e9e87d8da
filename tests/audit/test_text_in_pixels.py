"""Text burned into the source is read, and caught when the samples repeat it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from imgsynth.audit.leakage.pixels import text_in_pixels
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Manifest
from imgsynth.features import ocr
from imgsynth.measure.images import synthetic_images
from imgsynth.schema import DataConfig
from imgsynth.types import InputError

NAME = "VESTERGAARD"


@pytest.fixture(scope="module", autouse=True)
def needs_the_package() -> None:
    try:
        ocr.TextReader()
    except InputError as error:
        pytest.skip(str(error))


def picture(text: str, seed: int) -> Image.Image:
    grey = np.random.default_rng(seed).normal(80, 15, (96, 128)).clip(0, 255)
    image = Image.fromarray(np.uint8(grey))
    ImageDraw.Draw(image).text((6, 40), text, fill=255, font=ImageFont.load_default(size=16))
    return image


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four radiographs as PNG files, the first two with a name in the corner."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        picture(NAME if i < 2 else "", i).save(folder / f"case{i}.png")
    return build_manifest(DataConfig(kind="images", root=str(folder), modality="DX", unit="image"))[0]


def samples(text: str) -> np.ndarray:
    return np.stack([np.asarray(picture(text, 10 + i), np.float32)[None] / 127.5 - 1 for i in range(2)])


@pytest.mark.parametrize(("text", "recovered"), [(NAME, 1), ("", 0), ("SOMETHING ELSE", 0)])
def test_a_burned_in_name_that_the_samples_repeat_is_recovered(
    text: str, recovered: int, cohort: Manifest, tmp_path: Path
) -> None:
    made = synthetic_images(samples(text), np.zeros(2, int))
    found = text_in_pixels(cohort, made, {"Vestergaard", "Johannsen", "VEST"}, 4, 0, tmp_path / "text.json")
    assert found["source"] == {"pictures": 4, "with_text": 2, "not_read": 0}
    assert found["samples"] == {"pictures": 2, "with_text": 2 * bool(text), "recovered": recovered}
    assert NAME.lower() not in json.dumps(found).lower()
    local = json.loads((tmp_path / "text.json").read_text())
    assert local["recovered"] == ["Vestergaard"] * recovered
    assert ocr.recovered(NAME, local["source"][0])


def test_what_was_not_looked_at_is_said(cohort: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = synthetic_images(samples(""), np.zeros(2, int))
    assert "ocr_pictures" in text_in_pixels(cohort, made, {NAME}, 0, 0, tmp_path / "t.json")["not_done"]
    monkeypatch.setattr(ocr, "PACKAGE", "no_such_package_for_text")
    assert "imgsynth[ocr]" in text_in_pixels(cohort, made, {NAME}, 4, 0, tmp_path / "t.json")["not_done"]
    assert not (tmp_path / "t.json").exists()
