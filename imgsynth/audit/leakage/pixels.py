"""Text in pixels, read on both sides: in the cohort's own images before preprocessing, and in the samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.cohort.load import load_volume
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.features.ocr import Text, TextReader, planes, recovered
from imgsynth.files import write_json
from imgsynth.measure.images import Images
from imgsynth.types import InputError

SHORTEST = 5  # characters of a source string, at least: shorter ones are read into anything
LETTERS = 3  # characters of a line, at least, that count as text


def text_in_pixels(
    manifest: Manifest, synthetic: Images, strings: Iterable[str], pictures: int, seed: int, local: Path
) -> dict[str, Any]:
    """Read text off ``pictures`` real and as many synthetic pictures; JSON-able, without a word of it.

    ``recovered``: how many of the source's ``strings`` are in the text of the samples, at most a fifth of their letters
    misread. What was read goes to ``local``. {"not_done": why} without the OCR package, or without pictures.
    """
    if pictures == 0:
        return {"not_done": "audit.ocr_pictures=0"}
    try:
        reader = TextReader()
    except InputError as error:
        return {"not_done": str(error)}
    random = np.random.default_rng(seed)
    real, unread = _real_pictures(manifest, pictures, random)
    made = _pictures((x[0] for x in synthetic.x_NC[random.permutation(len(synthetic))]), pictures)
    seen, said = [_lines(reader, picture) for picture in real], [_lines(reader, picture) for picture in made]
    lines = sorted({line.text for found in said for line in found})
    known = sorted({text for text in strings if len(text) >= SHORTEST and recovered(text, lines)})
    write_json(local, {"local_only": True, "source": _texts(seen), "samples": _texts(said), "recovered": known})
    return {
        "source": {"pictures": len(real), "with_text": sum(map(bool, seen)), "not_read": unread},
        "samples": {"pictures": len(made), "with_text": sum(map(bool, said)), "recovered": len(known)},
    }


def _real_pictures(manifest: Manifest, n: int, random: np.random.Generator) -> tuple[list[np.ndarray], int]:
    """At most ``n`` pictures of images as they lie in the source, one image a patient; how many could not be read."""
    firsts: list[Item] = [items[0] for items in manifest.by_patient.values()]
    found: list[np.ndarray] = []
    unread = 0
    for index in random.permutation(len(firsts)):
        if len(found) >= n:
            break
        try:
            array = load_volume(manifest, firsts[index]).array
        except InputError:
            unread += 1
            continue
        found += planes(array[..., 0].T if array.shape[-1] == 1 else array)
    return found[:n], unread


def _pictures(images: Iterable[np.ndarray], n: int) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for image in images:
        if len(found) >= n:
            break
        found += planes(image)
    return found[:n]


def _lines(reader: TextReader, picture: np.ndarray) -> list[Text]:
    return [line for line in reader.read(picture) if sum(map(str.isalnum, line.text)) >= LETTERS]


def _texts(found: list[list[Text]]) -> list[list[str]]:
    return [[line.text for line in lines] for lines in found if lines]
