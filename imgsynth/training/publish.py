"""What leaves memory, and when: a checkpoint first, then everything that is a function of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from imgsynth import console
from imgsynth.privacy.accounting import rdp_epsilon
from imgsynth.privacy.events import compose, pure_event, training_event
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import Config, TrainerConfig
from imgsynth.training.begin import Job
from imgsynth.training.checkpoint import same_networks
from imgsynth.training.disk import writing
from imgsynth.training.drift import refuse_drift
from imgsynth.training.folder import RunFolder
from imgsynth.training.metrics import Metrics, Row, Rows
from imgsynth.training.propose import ORDERS
from imgsynth.training.run import finished
from imgsynth.training.sheets import save_png, sheet
from imgsynth.training.state import TrainingState
from imgsynth.training.succession import Succession
from imgsynth.training.team import merged_rows
from imgsynth.types import Grid

ON_SHEET = 8  # images


def is_due(step: int, trainer: TrainerConfig, candidates: Sequence[int] = ()) -> bool:
    """Whether ``step`` ends in a checkpoint: the last private one does, so that what comes after it starts from one
    release, however often it is interrupted. Sheets come from checkpoints: none shows a step that gets lost; nor is a
    step among the ``candidates`` that may be chosen in the end."""
    of_trainer = step % trainer.checkpoint_every == 0 or step == trainer.steps or sheet_is_due(step, trainer)
    return of_trainer or step in candidates


def sheet_is_due(step: int, trainer: TrainerConfig) -> bool:
    return step > 0 and (step % trainer.sheet_every == 0 or step == trainer.all_steps)


class Publisher:
    """Writes checkpoints, metrics and sheets of one run, in the order that lets a kill lose only unpublished steps.

    On several ranks the first one writes, and the others hand it what they measured.
    """

    def __init__(self, folder: RunFolder, cfg: Config, job: Job, grid: Grid):
        self.folder, self.cfg, self.plan, self.grid, self.classes = folder, cfg, job.plan, grid, job.manifest.classes
        self.checkpoints = Succession(folder, job.ledger, job.entry.run)
        self.metrics: Metrics | Rows = Rows()

    def resume(self, state: TrainingState) -> float | None:
        """Bring ``state`` and the files to the last checkpoint, if there is one; returns the ε spent so far.

        The checkpoint carries its own rows, which were perhaps not written when the run died. Raises InputError when
        the checkpoint is not the one that was published last (``succession.py``), or more was shown than it knows of.
        """
        spent_so_far, streams = state.team.tell(lambda: self._restore(state))
        state.spread(streams)
        return spent_so_far

    def _restore(self, state: TrainingState) -> tuple[float | None, list[dict[str, Any]]]:
        """``resume`` on the first rank; returns also what each rank's randomness was at."""
        unpublished: list[Row] = []
        streams: list[dict[str, Any]] = []
        if (content := self.checkpoints.restore()) is not None:
            with same_networks(self.folder.checkpoint):
                state.load_state_dict(content["state"])
            unpublished = content["rows"]
            streams = content.get("streams") or [state.streams()]  # checkpoints of one process have no list
            if not finished(content["state"], self.plan, self.cfg.trainer.all_steps):
                console.say(f"Going on from step {state.step} of {self.cfg.trainer.all_steps}.")
        self.folder.refuse_older_checkpoint(state.step)
        with writing(self.folder.root):
            self.metrics = Metrics(self.folder.root, state.step, unpublished, releasable=self.plan.releasable)
            if not self.folder.sheet(state.step).is_file():
                self._draw_sheet(state)  # of step 0 as well, where that shows what public weights make
        return spent(self.plan, state.step), streams

    def publish(self, state: TrainingState) -> float | None:
        """Write everything up to ``state.step``; returns the ε that is now spent (None: ∞)."""
        epsilon = spent(self.plan, state.step)
        refuse_drift(state)
        streams = state.team.gather(state.streams())
        local = merged_rows(state.team.gather(self.metrics.waiting_local))
        if isinstance(self.metrics, Metrics):
            for row in self.metrics.waiting:
                row["epsilon"] = epsilon
            self.metrics.waiting_local = local
            self.checkpoints.publish(self._content(state, streams))
            with writing(self.folder.root):
                self.metrics.publish()
                self._draw_sheet(state)
        else:
            self.metrics.clear()
        return epsilon

    def close(self) -> None:
        self.metrics.close()

    def _content(self, state: TrainingState, streams: list[dict[str, Any]]) -> dict[str, Any]:
        """Weights and all that goes on from them, the plan, the rows of metrics that are not yet written, the class
        names, and of the configuration what the weights came from.

        Of the last, ``model`` holds the hyper-parameters as the user gave them, because the network is rebuilt from
        them: a path or name given there is in the checkpoint. Left out are the sections ``data`` and ``sample``, the
        ledger's folder, and ``preprocess.extra``, whose free arguments may be paths and which no load needs.
        """
        cfg = self.cfg
        privacy = {key: value for key, value in dataclasses.asdict(cfg.privacy).items() if key != "ledger"}
        preprocess = {key: value for key, value in dataclasses.asdict(cfg.preprocess).items() if key != "extra"}
        return {
            "state": state.state_dict(),
            **({"streams": streams} if len(streams) > 1 else {}),
            "plan": self.plan.to_json(),
            "rows": self.metrics.waiting,
            "model": cfg.model,
            "privacy": privacy,
            "trainer": dataclasses.asdict(cfg.trainer),
            "preprocess": preprocess,
            "classes": list(self.classes),
        }

    def _draw_sheet(self, state: TrainingState) -> None:
        """Samples of the averaged generator for fixed latent vectors, so that sheets can be compared over time."""
        if not (sheet_is_due(state.step, self.cfg.trainer) or (state.step == 0 and self.plan.public is not None)):
            return
        device = state.random.device
        y_B = torch.arange(ON_SHEET, device=device) % len(self.classes)
        images_BC = state.ema.model.sample(y_B, torch.Generator(device).manual_seed(0))
        picture = sheet(images_BC, [self.classes[int(y)] for y in y_B], self.grid)
        save_png(picture, self.folder.sheet(state.step))


def spent(plan: PrivacyPlan, step: int) -> float | None:
    """An upper bound on ε of the first ``step`` steps, never above the plan's; None is ∞. Steps after the plan's cost
    nothing."""
    if plan.mode == "none" or not math.isfinite(plan.epsilon):
        return None
    events = [training_event(1.0, query.noise_multiplier, 1) for query in plan.queries]  # those to come as well
    if plan.selection is not None and plan.selection.epsilon > 0:
        events.append(pure_event(plan.selection.epsilon))
    if step > 0:
        events.append(training_event(plan.sampling_rate, plan.noise_multiplier, min(step, plan.steps)))
    return min(rdp_epsilon(compose(events), plan.delta, ORDERS), plan.epsilon) if events else 0.0
