"""From a ranking to a plan: what each method would be run with here, its noise and time, and the best's command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from imgsynth import config as door
from imgsynth import console
from imgsynth.planning.cohort import Asked, asked_of
from imgsynth.planning.words import print_plan
from imgsynth.schema import Config, SelectionConfig
from imgsynth.training.begin import plan_for
from imgsynth.training.choosing import Ranked, Ranking, along_axis, rank
from imgsynth.training.estimate import estimate
from imgsynth.training.method_table import NEEDS_PUBLIC, Row, read_table
from imgsynth.training.run import model_factory
from imgsynth.training.suit import K_MOST, overrides_of, sensible_delta, settings_for, suited
from imgsynth.types import InputError


@dataclass(frozen=True)
class Candidate:
    """A method as it would be run here. ``faults`` in one line where it cannot; then the rest is None."""

    method: str
    ranked: Ranked
    faults: str | None
    noise: float | None = None  # σ
    batch: int | None = None  # expected units in a step
    steps: int | None = None
    seconds: float | None = None  # of training on this machine; votes of teachers are not in it
    device: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class Plan:
    """``best`` is None where nothing is worth its ε, needs no more than is there, and fits into the hours."""

    asked: Asked
    epsilon: float
    delta: float
    public: bool  # a public run is named
    ranking: Ranking | None  # None: nothing was measured on such a grid
    candidates: list[Candidate]
    best: Candidate | None
    fallback: str  # the method that inspect would propose, and why


def plan(overrides: Sequence[str], rows: Sequence[Row] | None = None) -> Plan:
    """Make the plan of a command and print it. ``rows`` default to the shipped table. Raises InputError."""
    found = plan_of(asked_of(overrides), read_table() if rows is None else rows)
    print_plan(found)
    return found


def plan_of(asked: Asked, rows: Sequence[Row]) -> Plan:
    config, shape = asked.config, asked.config.preprocess.shape
    epsilon, delta = config.privacy.epsilon, config.privacy.delta
    if "privacy.delta" not in {key for key, _ in door.keys_of(asked.overrides)}:
        delta = sensible_delta(asked.n, delta)
    assert epsilon is not None  # asked_of refuses a plan without one
    public = config.init.run is not None
    methods = sorted(path.stem for path in (door.config_folder() / "model").glob("*.yaml"))
    ranking = rank(rows, asked.n, epsilon, len(shape), along_axis(shape), methods)
    candidates = [_candidate(one, asked, epsilon, delta) for one in
                  console.each(ranking.methods if ranking else [], "timing")]  # fmt: skip
    hours = config.plan.hours
    able = [one.method for one in candidates
            if one.faults is None and (hours is None or (one.seconds or 0.0) <= 3600 * hours)]  # fmt: skip
    first = ranking.best(public, able) if ranking else None
    best = next((one for one in candidates if first is not None and one.method == first.row.method), None)
    privacy = replace(config.privacy, delta=delta)
    fit = suited(
        asked.n, len(shape), along_axis(shape), asked.images, privacy, asked.unit, rows, bool(config.data.masks)
    )
    return Plan(asked, epsilon, delta, public, ranking, candidates, best, f"model={fit.model}. {fit.why}")


def _candidate(one: Ranked, asked: Asked, epsilon: float, delta: float) -> Candidate:
    method = one.row.method
    dims = len(asked.config.preprocess.shape)
    try:
        own: dict[str, Any] = {"privacy.delta": delta} | settings_for(method, asked.n, epsilon, delta, dims)
    except InputError as error:
        return Candidate(method, one, _in_a_line(error))
    if asked.images > 1:
        own["data.images_per_patient"] = min(K_MOST, asked.images)
    given = door.keys_of(asked.overrides)
    if method not in NEEDS_PUBLIC:  # others may begin with public weights too, but were not measured so
        given = [(key, line) for key, line in given if not key.startswith("init.")]
    stated = {key for key, _ in given}
    own = {"privacy.epsilon": f"{epsilon:g}"} | own
    proposed = overrides_of({key: value for key, value in own.items() if key not in stated})
    lines = [*(line for _, line in given), f"model={method}", *proposed]
    try:
        config = door.from_overrides("run", lines)
        sigma = _noise(config, asked)
        cost = estimate(config, asked.n, asked.classes, asked.privacy_unit)
    except InputError as error:
        return Candidate(method, one, _in_a_line(error))
    batch, steps = min(asked.n, config.privacy.batch_for(asked.n)), config.trainer.steps
    return Candidate(method, one, None, sigma, batch, steps, cost.seconds, cost.device, _command(lines, config))


def _noise(config: Config, asked: Asked) -> float:
    """σ as the run itself will have it: beside queries, a histogram of labels, a choice among steps."""
    if config.selection.rule == "public":  # which asks no patient, but images that are not at hand here
        config = replace(config, selection=SelectionConfig())
    ids: Literal["patient", "case"] = "case" if asked.unit == "case" else "patient"
    plan = plan_for(config, asked.n, asked.classes, asked.privacy_unit, ids, model_factory(config.model))
    return plan.noise_multiplier


def _in_a_line(error: InputError) -> str:
    return "; ".join(f"{f.where}: {f.expected}" for f in error.faults)


def _command(lines: Sequence[str], config: Config) -> str:
    root = ["data=KIND", "data.root=DIR"] if config.data.kind == "phantom" and not _names_data(lines) else []
    return " ".join(["imgsynth run", *root, *map(shlex.quote, lines)])


def _names_data(lines: Sequence[str]) -> bool:
    return any(line.split("=")[0] in ("data", "experiment") or line.startswith("data.phantom") for line in lines)
