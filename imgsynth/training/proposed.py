"""A plan for a cohort, as a Hydra experiment file that ``imgsynth run`` takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from imgsynth.files import write_text
from imgsynth.schema import DataConfig
from imgsynth.training.estimate import Estimate
from imgsynth.training.suit import Suited

PLACE = (
    Path("experiment") / "proposed.yaml"
)  # in the folder of `imgsynth inspect`: a group and a name, as Hydra has them


def write_proposal(
    folder: Path, data: DataConfig, group: str, grid: Sequence[str], suited: Suited, epsilon: float | None,
    remarks: Iterable[str],
) -> Path:  # fmt: skip
    """Write ``experiment/proposed.yaml`` below ``folder``.

    ``group`` is the preprocess group for the modality, ``grid`` are overrides "preprocess.key=value" as
    ``inspect_cohort`` suggests them, ``epsilon`` None is no privacy, ``remarks`` are lines of comment. The file names
    the source's folder: it is local.
    """
    values: dict[str, Any] = {"experiment": "proposed", "data": _declared(data)}
    for entry in grid:
        key, _, value = entry.partition("=")
        _set(values, key, yaml.safe_load(value))
    for key, value in suited.settings.items():
        _set(values, key, value)
    if epsilon is not None:
        _set(values, "privacy.epsilon", epsilon)
    privacy = "dp" if epsilon is not None else "none"
    defaults = [{"override /preprocess": group}, {"override /model": suited.model}, {"override /privacy": privacy}]
    lines = ["# @package _global_", *(f"# {line}" for line in remarks)]
    body = yaml.safe_dump({"defaults": defaults, **values}, sort_keys=False, allow_unicode=True, width=1000)
    return write_text(folder / PLACE, "\n".join(lines) + "\n" + body)


def remarks_of(
    n: int, unit: str, suited: Suited, word: str, estimate: Estimate, local: str
) -> list[str]:  # fmt: skip
    """What the file says of itself, line by line."""
    found = [
        f"imgsynth run experiment={local}",
        f"Proposed by imgsynth inspect for {n:,} training {unit}s. LOCAL: it names the source's folder.",
        "Shape and spacing come from headers of the cohort, rounded: by training with them you declare that you would",
        "take these numbers for any cohort of this kind. The intensity window is the modality's, not of the data.",
        f"Method: {suited.why}",
        f"To expect: {word}",
    ]
    return [*found, said(estimate)]


def said(estimate: Estimate) -> str:
    """One sentence on time and memory."""
    minutes = estimate.seconds / 60
    time = (
        f"{minutes / 60:.1f} hours"
        if minutes > 90
        else f"{minutes:.0f} minutes"
        if minutes >= 2
        else "two minutes at most"
    )
    return (f"Training takes about {time} and {estimate.memory_bytes / 2**30:.1f} GiB on this machine "
            f"({estimate.device}), by a few steps on random images.")  # fmt: skip


def _declared(data: DataConfig) -> dict[str, Any]:
    """What differs from the defaults, with absolute paths: the file may be taken from anywhere."""
    plain, usual = dataclasses.asdict(data), dataclasses.asdict(DataConfig())
    found = _differing(plain, usual) | {"kind": data.kind}
    for key in ("root", "table"):
        if found.get(key) and "://" not in found[key]:
            found[key] = str(Path(found[key]).absolute())
    return found


def _differing(plain: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and isinstance(usual[key], dict):
            value = _differing(value, usual[key])
            if value:
                found[key] = value
        elif value != usual[key]:
            found[key] = value
    return found


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[last] = value
