"""A finished (or half-finished) run, opened again: what release, evaluation and audit start from."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imgsynth.cohort.grid import grid_of
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import read_json
from imgsynth.models.adapt import restrict
from imgsynth.models.base import GenerativeModel
from imgsynth.models.named import ModelFactory as ModelFactory
from imgsynth.models.named import model_factory as model_factory
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import Config
from imgsynth.training.checkpoint import load_checkpoint, same_networks
from imgsynth.training.folder import RunFolder
from imgsynth.types import Fault, Grid, InputError


@dataclass(frozen=True)
class Run:
    """A run as its folder holds it.

    ``model`` is on the CPU in evaluation mode; its generator has the averaged weights, its other parts those of the
    last step. ``manifest`` is LOCAL ONLY. ``step`` is how many steps were taken, those after the private ones included,
    ``asked`` how many of the plan's queries were answered. ``selected`` is the step whose averages the generator has,
    where one was chosen (``plan.selection``); None: the last.
    """

    root: Path
    config: Config
    plan: PrivacyPlan
    manifest: Manifest
    model: GenerativeModel
    grid: Grid
    step: int
    asked: int = 0
    selected: int | None = None

    @property
    def finished(self) -> bool:
        return finished(
            {"step": self.step, "asked": self.asked, "selected": self.selected},
            self.plan,
            self.config.trainer.all_steps,
        )


def finished(state: dict[str, Any], plan: PrivacyPlan, steps: int) -> bool:
    """Whether a checkpoint's ``state`` has taken all ``steps``, and has the answer to every query of ``plan`` and the
    weights that its selection, if any, has chosen."""
    chosen = plan.selection is None or state.get("selected") is not None
    return bool(state["step"] == steps and state.get("asked", 0) == len(plan.queries) and chosen)


def load_run(run_dir: Path) -> Run:
    """Open the run in ``run_dir``.

    Raises InputError naming every file that is missing, or where this version's networks have other layers.
    """
    folder = RunFolder(run_dir)
    needed = (folder.config, folder.manifest, folder.plan, folder.checkpoint)
    faults = [
        Fault(
            str(path), "no such file", "a folder that imgsynth train has worked in", f"imgsynth train output={run_dir}"
        )
        for path in needed
        if not path.is_file()
    ]
    if faults:
        raise InputError(*faults)
    cfg = read_config(folder.config)
    manifest = Manifest.load(folder.manifest)
    grid = grid_of(cfg.preprocess, manifest.modality, manifest.structures)
    content = load_checkpoint(folder.checkpoint)
    model = _networks(folder.checkpoint, content, cfg, grid.shape, len(manifest.classes))
    averages = {
        k.removeprefix("generator."): v for k, v in content["state"]["ema"].items() if isinstance(v, torch.Tensor)
    }
    with same_networks(folder.checkpoint):
        model.load_state_dict(content["state"]["model"])
        model.generator.load_state_dict(averages)
    plan = PrivacyPlan.from_json(content["plan"])
    state = content["state"]
    return Run(
        run_dir, cfg, plan, manifest, model.eval().requires_grad_(False), grid, state["step"], state.get("asked", 0),
        (state.get("selected") or {}).get("step"),
    )  # fmt: skip


def trained_model(run: Run) -> GenerativeModel:
    """The networks as the last step left them, no part averaged: those that were trained with each other.

    Discriminator and encoder were never averaged; beside an averaged generator they are strangers to it.
    """
    path = RunFolder(run.root).checkpoint
    content = load_checkpoint(path)
    model = _networks(path, content, run.config, run.grid.shape, len(run.manifest.classes))
    with same_networks(path):
        model.load_state_dict(content["state"]["model"])
    return model.eval().requires_grad_(False)


def _networks(
    path: Path, content: dict[str, Any], cfg: Config, shape: tuple[int, ...], classes: int
) -> GenerativeModel:
    """As they were before the first step. Raises InputError where the settings of the checkpoint at ``path`` are of
    another version."""
    try:
        model = model_factory(content["model"])(shape, classes)
    except InputError as error:
        got = "; ".join(f"{fault.where}: {fault.got}" for fault in error.faults)
        expected = "settings that the models of this version of imgsynth have"
        remedy = "go on with the version that trained it, or train again into a new output folder"
        raise InputError(Fault(str(path), got, expected, remedy)) from error
    restrict(model, cfg.init.train, cfg.init.rank)
    return model


def read_config(path: Path) -> Config:
    """The plain configuration that ``train`` stored (``config.json``)."""
    config: Config = _dataclass(Config, read_json(path))
    return config


def _dataclass(cls: type, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    return cls(**{k: _dataclass(hints[k], v) if dataclasses.is_dataclass(hints[k]) else v for k, v in values.items()})
