"""From a sweep's command to the configuration of every cell, or all that is wrong with any of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from imgsynth import config as door
from imgsynth.privacy.public import DECLARATION, is_declaration
from imgsynth.schema import Config, CurveConfig
from imgsynth.sweep.cells import Cell, SweepFolder
from imgsynth.types import Fault, InputError

OWN = ("output", "curve")  # of the sweep itself
BY_SWEEP = ("privacy", "privacy.mode", "privacy.epsilon", "privacy.noise_multiplier")  # curve.epsilons says these


@dataclass(frozen=True)
class Design:
    """All cells with their checked configurations; for each cohort why it is public, None where it is private."""

    cells: dict[Cell, Config]
    public: dict[str, str | None]
    left_out: list[str]


def own_config(overrides: list[str]) -> Config:
    """The sweep's own configuration. With ``curve.models`` it has the sweep's settings alone: what the command says of
    runs is checked in the cells' configurations, as one model may take what another does not.
    """
    lines = door.keys_of(overrides)
    if door.compose("sweep", [line for key, line in lines if key != "sweep"]).curve.models:
        lines = [(key, line) for key, line in lines if key.split(".")[0] in (*OWN, "experiment", "sweep")]
    return door.from_overrides("sweep", [line for _, line in lines])


def design(config: Config, overrides: list[str], folder: SweepFolder) -> Design:
    """``config`` is that of the sweep, ``overrides`` its command's. Raises InputError with every fault of every cell.

    The overrides of a cell are, later ones first in force: the command's (but output, curve.* and experiment, where
    there are several cohorts), model, those of ``curve.overrides`` whose pattern fits, those of its cohort.
    """
    curve = config.curve
    faults = [*curve_faults(curve), *_command_faults(curve, overrides)]
    if faults:
        raise InputError(*faults)
    given = [line for key, line in door.keys_of(overrides) if key.split(".")[0] not in OWN]
    if curve.cohorts:
        given = [line for key, line in door.keys_of(given) if key != "experiment"]
        cohorts = {name: list(lines) for name, lines in curve.cohorts.items() if name not in curve.leave_out}
    else:
        cohorts = {config.experiment: []}
    cells: dict[Cell, Config] = {}
    found: list[tuple[Cell, Fault]] = []
    fits: set[str] = set()
    for name, lines in cohorts.items():
        for model in curve.models or [""]:
            for epsilon in curve.epsilons:
                cell = Cell(name, model or _own_model(config), epsilon, 1)
                patterns = [pattern for pattern in curve.overrides if fnmatchcase(cell.group, pattern)]
                fits.update(patterns)
                more = [line for pattern in patterns for line in curve.overrides[pattern]]
                command = [*lines, *([f"model={model}"] if model else []), *more, *given, *_privacy(epsilon)]
                try:
                    checked = _checked(command)
                except InputError as error:
                    found += [(cell, fault) for fault in error.faults]
                    continue
                for repetition in range(1, curve.repetitions + 1):
                    one = replace(cell, repetition=repetition)
                    shared = replace(checked.evaluate, shared=str(folder.shared(one)))
                    cells[one] = replace(checked, output=str(folder.cell(one)), evaluate=shared)
    public = {name: _public(name, cells, curve) for name in cohorts}
    faults += [*_of_cells(found, curve), *_pattern_faults(curve, fits), *_unbounded_faults(curve, public, cells),
               *_seeded_faults(curve, public, cells)]  # fmt: skip
    if faults:
        raise InputError(*faults)
    return Design(cells, public, list(curve.leave_out))


def curve_faults(curve: CurveConfig) -> Iterator[Fault]:
    """What is wrong with the section itself, values of open type included."""
    for where, value in (("cohorts", curve.cohorts), ("overrides", curve.overrides)):
        if not isinstance(value, dict) or not all(
            isinstance(v, list) and all(isinstance(line, str) and "=" in line for line in v) for v in value.values()
        ):
            yield Fault(f"curve.{where}", repr(value), "lists of overrides by name", 'NAME: ["key=value", …]')
            return
    if not isinstance(curve.public, dict) or not all(
        isinstance(text, str) and is_declaration(text) for text in curve.public.values()
    ):
        yield Fault("curve.public", repr(curve.public), f"for each public cohort, {DECLARATION}",
                    'curve.public={NAME: "radiographs of Example 2019, published under CC BY"}')  # fmt: skip
    for name in curve.cohorts:
        if not re.fullmatch(r"\w[\w.-]*", name):
            yield Fault("curve.cohorts", repr(name), "names of letters, digits, _, . and -, for files",
                        "another name")  # fmt: skip
    if len({f"{epsilon:g}" for epsilon in curve.epsilons}) < len(curve.epsilons):
        yield Fault("curve.epsilons", str(list(curve.epsilons)), "numbers that differ in their first six digits, which "
                    "are in the names of runs", "fewer of them")  # fmt: skip
    known = list(curve.cohorts)
    for where, names in (("leave_out", curve.leave_out), ("unbounded", curve.unbounded), ("public", curve.public)):
        for name in names if known else ():
            if name not in known:
                yield Fault(f"curve.{where}", repr(name), f"names of curve.cohorts: {', '.join(known)}", "its name")
    if known and not set(known) - set(curve.leave_out):
        yield Fault("curve.leave_out", repr(curve.leave_out), "one cohort at least that is not left out", "fewer names")


def _command_faults(curve: CurveConfig, overrides: list[str]) -> Iterator[Fault]:
    for key, line in door.keys_of(overrides):
        if key in BY_SWEEP:
            yield Fault(key, line, "no ε outside curve.epsilons, that of every run", "curve.epsilons=[1,8,inf]")
        if key == "model" and curve.models:
            yield Fault(key, line, f"no model outside curve.models={curve.models}", "curve.models=[…]")
        if key == "sweep":
            yield Fault(key, line, "no launcher: this verb runs its cells itself", "leave it out (docs/sweeps.md)")


def _privacy(epsilon: float) -> list[str]:
    return ["privacy=none"] if math.isinf(epsilon) else ["privacy=dp", f"privacy.epsilon={epsilon!r}"]


def _checked(command: list[str]) -> Config:
    in_force: dict[str, str] = {}
    for key, line in door.keys_of(command):  # a group may be chosen once
        in_force.pop(key, None)
        in_force[key] = line
    return replace(door.check(door.compose("run", list(in_force.values()))), curve=CurveConfig())


def _own_model(config: Config) -> str:
    return str(config.model["_target_"]).rpartition(".")[2].lower()


def _public(name: str, cells: dict[Cell, Config], curve: CurveConfig) -> str | None:
    kinds = {config.data.kind for cell, config in cells.items() if cell.cohort == name}
    if kinds == {"phantom"}:
        return "digital phantoms, which are nobody"
    return curve.public.get(name)


def _pattern_faults(curve: CurveConfig, fits: set[str]) -> Iterator[Fault]:
    kept = [name for name in curve.cohorts if name not in curve.leave_out]
    for pattern, lines in curve.overrides.items():
        if lines and pattern not in fits and (not curve.cohorts or any(fnmatchcase(f"{n}/", pattern) for n in kept)):
            yield Fault("curve.overrides", repr(pattern), "a pattern that fits a run: COHORT/MODEL/ε, as in file names",
                        "*/vae/inf, nih/*/*, say")  # fmt: skip


def _unbounded_faults(curve: CurveConfig, public: dict[str, str | None], cells: dict[Cell, Config]) -> Iterator[Fault]:
    for name in dict.fromkeys(cell.cohort for cell in cells if math.isinf(cell.epsilon)):
        if public[name] is None and name not in curve.unbounded:
            yield Fault("curve.epsilons", f"∞, and {name} is private as far as anybody said",
                        "no run without privacy on private patients, unless by name: it has no ε, the ledger shows ∞ "
                        "for these patients for ever, every budget is passed, and nothing of it may leave",
                        f"curve.epsilons without inf; if the images are public, curve.public.{name}=\"whose and why\"; "
                        f"if it is to be all the same, curve.unbounded=[{name}]")  # fmt: skip


def _seeded_faults(curve: CurveConfig, public: dict[str, str | None], cells: dict[Cell, Config]) -> Iterator[Fault]:
    seeded = [cell.cohort for cell, config in cells.items() if config.privacy.seed is not None]
    for name in dict.fromkeys(seeded):
        if public[name] is None and name not in curve.unbounded:
            yield Fault("privacy.seed", f"a seed, and {name} is private as far as anybody said",
                        "no seed of the noise on private patients: it protects from nobody who knows it, and their ε "
                        "in the ledger is ∞ for ever", "leave privacy.seed out")  # fmt: skip


def _of_cells(found: list[tuple[Cell, Fault]], curve: CurveConfig) -> list[Fault]:
    """The same fault of several cells of a cohort is said once; of a cohort whose data are not there, how to leave it
    out."""
    merged: dict[tuple[str, str, str], Fault] = {}
    for cell, fault in found:
        key = (cell.cohort, fault.where, fault.got)
        if fault.where == "data.root" and curve.cohorts:
            remedy = f"curve.root=FOLDER, or curve.leave_out=[{cell.cohort}]"
            merged.setdefault(key, replace(fault, where=f"{cell.cohort}: data.root", remedy=remedy))
        else:
            merged.setdefault(key, replace(fault, where=f"{cell.group}: {fault.where}"))
    return list(merged.values())
