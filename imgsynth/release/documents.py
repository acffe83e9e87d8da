"""What lies beside the images: the README for the recipient, and how the release was made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import torch

from imgsynth import __version__
from imgsynth.files import write_json, write_text
from imgsynth.models.base import GenerativeModel
from imgsynth.training.run import Run

PROVENANCE = "provenance.json"
README = "README.md"
SEEDED = "noise and sampling came from a seed: void for whoever knows it, not releasable"
FACES = {
    None: "Nobody has declared whether the source's images show faces",
    True: "The source's images are declared to show no faces (removed, or skulls stripped)",
    False: "The source's images are declared to show faces",
}
UNSEEDED = "none: cryptographic generators, seeded by the operating system, of which nothing is kept"


def provenance(run: Run, defaced: bool | None = None, seed: int | None = None) -> dict[str, Any]:
    """Software, model and settings; ``seed`` is sample.seed. From an allow-list: no path, no name of a person or
    machine, no date."""
    cfg = run.config
    return {
        "imgsynth": __version__,
        "torch": torch.__version__,
        "model": {"name": type(run.model).__name__, "settings": hyper_parameters(type(run.model), cfg.model)},
        "trainer": {
            name: getattr(cfg.trainer, name)
            for name in ("steps", "learning_rate", "generator_learning_rate", "beta1", "beta2", "ema")
        },
        "preprocess": {
            name: getattr(cfg.preprocess, name)
            for name in ("shape", "spacing", "orientation", "fit", "intensity", "low", "high")
        },
        "began_with": began_with(run),
        "further_transforms": len(cfg.preprocess.extra),  # how many; what they are told could be a path
        "source_declared_defaced": defaced,  # null: nobody declared it
        "weights": "average over training (EMA) of the generator",
        "sampling_seed": seed,  # null: drawn for this release and not kept
        "seed": SEEDED if run.plan.seeded else UNSEEDED,
    }


def began_with(run: Run) -> dict[str, Any] | str:
    """Where the first weights came from, and how much of the private network has learned since."""
    if run.plan.public is None:
        return "random numbers"
    learned = run.config.init.train if run.config.init.train == "all" else "some"
    return {**asdict(run.plan.public), "trained": learned, "rank_of_adapters": run.config.init.rank}


def hyper_parameters(model: type[GenerativeModel], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The model's numeric hyper-parameters, defaults included. Text is left out: it could be a path."""
    defaults = {name: p.default for name, p in inspect.signature(model).parameters.items()}
    merged = {name: settings.get(name, default) for name, default in defaults.items()}
    return {name: value for name, value in merged.items() if value is None or isinstance(value, (bool, int, float))}


def write_provenance(folder: Path, run: Run, defaced: bool | None, seed: int | None = None) -> None:
    write_json(folder / PROVENANCE, provenance(run, defaced, seed))


def write_readme(folder: Path, card: dict[str, Any], run: Run, n: int, formats: Sequence[str], bids: bool,
                 defaced: bool | None) -> None:  # fmt: skip
    """Write README.md for the recipient; ``n`` synthetic patients in ``formats``; ``defaced`` is data.defaced."""
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("imgsynth.release"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = pages.get_template("README.md.j2").render(
        card=card,
        n=n,
        formats=formats,
        bids=bids,
        grid=run.grid,
        classes=run.manifest.classes,
        version=__version__,
        faces=FACES[defaced],
    )
    write_text(folder / README, text)
