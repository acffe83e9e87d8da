"""What training writes down, in two places.

``metrics.jsonl`` and ``tensorboard/`` hold only functions of the noised gradients, of the weights made from them and of
the plan. Of a releasable run they may be shown to anyone. Of any other run (without noise, or with noise from a seed)
the same numbers are protected by nothing, and ``metrics.LOCAL-ONLY.txt`` beside them says so.

``local/metrics.jsonl`` holds what was measured on patients without noise (losses, gradient norms, batch sizes, and
times, which follow the batch size) and must stay where the data are.

Rows wait in memory until the checkpoint that contains their step is on disk. A run that is killed has therefore shown
nothing of the steps it lost, and taking those steps again with fresh noise is no second release.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgsynth.files import write_text
from imgsynth.training.board import Board

Row = dict[str, Any]  # "step", and names to numbers or None

LOCAL_ONLY = """LOCAL ONLY

What is in this folder was measured on, or shows, real patients without any privacy protection.
It must not leave the place that the data are kept in, and it is no part of a release.
"""

NOT_PRIVATE = """LOCAL ONLY

This run has no privacy guarantee: it was trained without noise, or with noise from a known seed. What is in this folder
(metrics.jsonl, tensorboard/, checkpoints/, samples/) therefore tells about the patients without any protection.
It must not leave the place that the data are kept in, and nothing of this run can be released.
"""


class Rows:
    """Rows that wait in memory, public and local ones."""

    def __init__(self) -> None:
        self.waiting: list[Row] = []
        self.waiting_local: list[Row] = []

    def add(self, public: Row, local: Row) -> None:
        """Keep the rows of one step in memory; what is no finite number becomes null."""
        self.waiting.append(_finite(public))
        self.waiting_local.append(_finite(local))

    def clear(self) -> None:
        self.waiting, self.waiting_local = [], []

    def close(self) -> None:
        """Nothing was opened."""


class Metrics(Rows):
    """The two files and TensorBoard of one run folder, brought to the state of a checkpoint.

    ``unpublished`` are the public rows that the checkpoint carried: those since the checkpoint before. Where the
    process was killed between the checkpoint and the files, they are written now; rows after ``step`` are dropped.
    ``releasable`` is the plan's: without it, a note says that the public rows are not differentially private.
    """

    def __init__(self, run_dir: Path, step: int, unpublished: list[Row], *, releasable: bool):
        super().__init__()
        self.public_path = run_dir / "metrics.jsonl"
        self.local_path = run_dir / "local" / "metrics.jsonl"
        write_text(run_dir / "local" / "README.txt", LOCAL_ONLY)
        if not releasable:
            write_text(run_dir / "metrics.LOCAL-ONLY.txt", NOT_PRIVATE)
        first_unpublished = min((row["step"] for row in unpublished), default=step + 1)
        rows = [row for row in read_rows(self.public_path) if row["step"] < first_unpublished] + unpublished
        _write_rows(self.public_path, rows)
        _write_rows(self.local_path, [row for row in read_rows(self.local_path) if row["step"] <= step])
        shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)  # a view of metrics.jsonl, drawn anew
        self.board = Board(run_dir / "tensorboard")
        self._draw(rows)

    def publish(self) -> None:
        """Write the rows that wait. Call it when, and only when, their checkpoint is on disk."""
        _append_rows(self.public_path, self.waiting)
        _append_rows(self.local_path, self.waiting_local)
        self._draw(self.waiting)
        self.clear()

    def _draw(self, rows: Iterable[Row]) -> None:
        for row in rows:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self.board.add(name, value, row["step"])
        self.board.flush()

    def close(self) -> None:
        self.board.close()


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file; a last line that was cut off in the middle is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # a whole line ends in a newline, so the last part is no line


def _finite(row: Row) -> Row:
    return {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    write_text(path, _lines(rows))


def _append_rows(path: Path, rows: Iterable[Row]) -> None:
    with path.open("a", encoding="utf-8") as handle:
        handle.write(_lines(rows))
