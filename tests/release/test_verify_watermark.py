"""Which images verify says lack the watermark: by arithmetic, with p-values that are made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imgsynth.release import verify_watermark
from imgsynth.types import Fault, InputError


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``faults(images)``: where verify finds faults among images [p-value, 1]; of a sum [Σ p, n] the p-value is 1e-6
    where all that have any structure are in it. Two images are looked at together."""

    def asked(images: list[np.ndarray | None], together: int) -> list[str]:
        def by_format(folder: Path, facts: Any, number: int) -> Iterator[tuple[str, np.ndarray]]:
            image = images[number - 1]
            if image is None:
                raise InputError(Fault("image", "half a file", "a whole one", "get it again"))
            yield "nifti", image

        def p_of(left: np.ndarray) -> float:
            return float(left[0]) if left[1] == 1 else 1e-6 if left[1] == together else 1.0

        def chunks(work: Any, numbers: range) -> Iterator[tuple[Any, Any]]:
            for part in (numbers[i : i + 2] for i in range(0, len(numbers), 2)):
                yield part, work(part)

        for name, stub in (("images_by_format", by_format), ("residual", lambda image: image), ("p_as_made", p_of),
                           ("in_chunks", chunks)):  # fmt: skip
            monkeypatch.setattr(verify_watermark, name, stub)
        facts: Any = SimpleNamespace(
            watermark={"strength": 0.5}, patients=[SimpleNamespace(id=f"S{i}") for i in range(1, len(images) + 1)]
        )
        return [fault.where for fault in verify_watermark.watermark_faults(Path(), facts)]

    return asked


def image(p: float) -> np.ndarray:
    return np.array([p, 1.0])


def test_one_that_lacks_it_is_named_where_the_others_show_it_well(faults: Any) -> None:
    assert faults([image(1e-12), image(0.2), image(1e-11), image(1e-12)], 4) == ["watermark (nifti): S2"]
    assert faults([image(1e-12)] * 4, 4) == []


def test_where_single_images_say_little_none_is_named(faults: Any) -> None:
    assert faults([image(1e-3), image(0.2), image(1e-3), image(0.3)], 4) == []


def test_all_chunks_count_together(faults: Any) -> None:
    assert faults([image(0.4)] * 4, 4) == [] and faults([image(0.4)] * 4, 5) == ["watermark (nifti)"]


def test_what_has_no_structure_and_no_whole_file_is_not_held_against_it(faults: Any) -> None:
    assert faults([*[image(1e-12)] * 5, np.zeros(2), None], 5) == []


@pytest.mark.parametrize("place", [2, 3])
def test_an_image_of_another_shape_is_judged_by_itself(faults: Any, place: int) -> None:
    """First in its chunk, and second."""
    images = [image(1e-12)] * 5
    images.insert(place, np.array([0.9, 1.0, 1.0]))
    assert faults(images, 5) == [f"watermark (nifti): S{place + 1}"]
