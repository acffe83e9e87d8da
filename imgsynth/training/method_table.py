"""What methods came to on phantoms: a table that is shipped, made by benchmarks/method_table.py and by nothing else."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsynth.files import write_text
from imgsynth.types import Fault, InputError

TABLE = Path(__file__).parent / "methods.csv"
NEEDS_PUBLIC = ("evolution", "codegan", "latent_noise", "latent_diffusion")  # a public generator, by init.run


@dataclass(frozen=True)
class Row:
    """One method at one n, ε and grid. Intervals are 95 % over test phantoms and repetitions (sweep/combine.py).

    ``n`` is of training patients, ``grid`` voxels along each of ``dims`` axes, ``seconds`` of training on the machine
    that measured. ``auc`` is of a small CNN trained on synthetic images and tested on real ones, for ``label``;
    ``*_real`` the same trained on real ones, ``*_trivial`` on noised class means at the same ε (evaluate/trivial.py),
    ``*_dp_sgd`` the network trained by DP-SGD on the patients themselves. ``frechet_floor`` is of real against real.
    NaN: not measured.
    """

    method: str
    needs_public: bool
    dims: int
    grid: int
    n: int
    epsilon: float
    delta: float
    repetitions: int
    label: str
    auc: float = math.nan
    auc_low: float = math.nan
    auc_high: float = math.nan
    auc_real: float = math.nan
    auc_trivial: float = math.nan
    auc_trivial_low: float = math.nan
    auc_trivial_high: float = math.nan
    auc_dp_sgd: float = math.nan
    auc_dp_sgd_low: float = math.nan
    auc_dp_sgd_high: float = math.nan
    frechet: float = math.nan
    frechet_low: float = math.nan
    frechet_high: float = math.nan
    frechet_floor: float = math.nan
    frechet_trivial: float = math.nan
    ms_ssim: float = math.nan
    ms_ssim_real: float = math.nan
    ms_ssim_trivial: float = math.nan
    recall: float = math.nan
    coverage: float = math.nan
    coverage_trivial: float = math.nan
    seconds: float = math.nan
    date: str = ""
    commit: str = ""
    command: str = ""

    @property
    def key(self) -> tuple[int, int, int, float, str]:
        return self.dims, self.grid, self.n, self.epsilon, self.method


COLUMNS = {field.name: field.type for field in dataclasses.fields(Row)}


def read_table(path: Path = TABLE) -> list[Row]:
    """Raises InputError where a column is unknown or missing, a value is none of its type, or a row is there twice."""
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    if list(reader.fieldnames or ()) != list(COLUMNS):
        got = ", ".join(reader.fieldnames or ()) or "nothing"
        raise InputError(Fault(str(path), got, f"the columns {', '.join(COLUMNS)}", _AGAIN))
    hints = typing.get_type_hints(Row)
    rows, faults = [], []
    for line, content in enumerate(reader, 2):
        try:
            values: dict[str, Any] = {name: _value(hints[name], text) for name, text in content.items()}
            rows.append(Row(**values))
        except (KeyError, TypeError, ValueError) as error:
            faults.append(Fault(f"{path}:{line}", str(error), "a value of each column's type", _AGAIN))
    keys = [row.key for row in rows]
    faults += [Fault(str(path), f"{key} twice", "one row of each method, n, ε and grid", _AGAIN)
               for key in dict.fromkeys(keys) if keys.count(key) > 1]  # fmt: skip
    if faults:
        raise InputError(*faults)
    return rows


_AGAIN = "python benchmarks/method_table.py, which alone writes this table"


def write_table(path: Path, rows: Iterable[Row]) -> Path:
    """Of rows with equal keys the last is kept; sorted by grid, n, ε and method. NaN is an empty field."""
    kept = {row.key: row for row in rows}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for _, row in sorted(kept.items()):
        writer.writerow([_text(getattr(row, name)) for name in COLUMNS])
    return write_text(path, out.getvalue())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _value(hint: type, text: str) -> Any:
    if hint is bool:
        return {"yes": True, "no": False}[text]
    if hint is float:
        return float(text) if text else math.nan
    return hint(text)
