"""A cell of a sweep: one cohort, one model, one ε, one repetition; an ordinary run in a folder of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsynth.files import read_json, write_json
from imgsynth.types import Fault, InputError

FORMAT = "imgsynth-sweep-1"


@dataclass(frozen=True, order=True)
class Cell:
    """``epsilon`` is ∞ for a run without privacy, ``repetition`` counts from 1."""

    cohort: str
    model: str
    epsilon: float
    repetition: int

    @property
    def name(self) -> str:
        return f"{self.cohort}-{self.model}-eps{self.epsilon:g}-{self.repetition}"

    @property
    def group(self) -> str:
        """What the patterns of curve.overrides are matched with."""
        return f"{self.cohort}/{self.model}/{self.epsilon:g}"


@dataclass(frozen=True)
class SweepFolder:
    """Where everything is in a sweep's folder. All of it is local."""

    root: Path

    @property
    def index(self) -> Path:
        """The cells that were ever planned here, and the command."""
        return self.root / "sweep.json"

    def cell(self, cell: Cell) -> Path:
        return self.root / "cells" / cell.name

    def log(self, cell: Cell) -> Path:
        return self.root / "logs" / f"{cell.name}.txt"

    def failure(self, cell: Cell) -> Path:
        """Why the cell's last attempt failed; not there where it did not."""
        return self.root / "logs" / f"{cell.name}.failed.json"

    def shared(self, cell: Cell) -> Path:
        """What is the same for all models of a cohort and repetition: features of its images, say. LOCAL."""
        return self.root / "local" / f"{cell.cohort}-{cell.repetition}"

    def finished(self, cell: Cell) -> bool:
        """Its last stage is done."""
        return all((self.cell(cell) / name).is_file() for name in ("evaluation.json", "audit.json"))


@dataclass(frozen=True)
class Index:
    """What a sweep's folder knows of itself: the command's overrides, its cells, and facts of each cohort."""

    overrides: list[str]
    cells: list[Cell]
    cohorts: dict[str, dict[str, Any]]


def read_index(folder: SweepFolder) -> Index:
    """Raises InputError where the folder holds no sweep."""
    if not folder.index.is_file():
        raise InputError(Fault(str(folder.root), "no sweep.json", "the folder of a sweep",
                               "imgsynth sweep experiment=curve output=DIR"))  # fmt: skip
    content = read_json(folder.index)
    cells = [Cell(c["cohort"], c["model"], _epsilon(c["epsilon"]), c["repetition"]) for c in content["cells"]]
    return Index(content["overrides"], cells, content["cohorts"])


def write_index(
    folder: SweepFolder, overrides: list[str], cells: Iterable[Cell], cohorts: dict[str, dict[str, Any]]
) -> Index:
    """Cells and cohorts of earlier commands in this folder stay: what was run is spent, and is shown."""
    known = read_index(folder) if folder.index.is_file() else Index([], [], {})
    whole = Index(overrides, list(dict.fromkeys([*known.cells, *cells])), known.cohorts | cohorts)
    plain = [{**dataclasses.asdict(cell), "epsilon": finite(cell.epsilon)} for cell in whole.cells]
    write_json(folder.index, {"format": FORMAT, "scope": "local", "overrides": overrides, "cells": plain,
                              "cohorts": whole.cohorts})  # fmt: skip
    return whole


def finite(value: float | None) -> float | None:
    """None for ∞, as JSON knows no ∞."""
    return value if value is not None and math.isfinite(value) else None


def said(epsilon: float | None) -> str:
    return "∞" if epsilon is None or math.isinf(epsilon) else f"{epsilon:.4g}"


def _epsilon(value: float | None) -> float:
    return math.inf if value is None else value
