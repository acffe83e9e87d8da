"""Training's curves: one plot for each number, and a number that is there once is to be seen, too."""

from __future__ import annotations

import base64

from imgsynth.report.figures import BLUE, curves


def svg(rows: list[dict[str, float]], name: str) -> str:
    uri = curves(rows, leave_out=[key for row in rows for key in row if key not in ("step", name)])
    assert uri is not None
    return base64.b64decode(uri.partition("base64,")[2]).decode()


def dots(text: str) -> int:
    return text.count(f'style="fill: {BLUE}')


def test_a_number_of_one_step_is_a_dot_and_one_of_many_a_line() -> None:
    rows = [{"step": 1, "loss": 0.5, "seconds": 0.1}, {"step": 2, "seconds": 0.2}, {"step": 3, "seconds": 0.1}]
    assert (dots(svg(rows, "loss")), dots(svg(rows, "seconds"))) == (1, 0)


def test_without_numbers_there_is_no_picture() -> None:
    assert curves([{"step": 1}]) is None and curves([]) is None
