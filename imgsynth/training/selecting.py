"""Which step's averaged weights a run ends with: candidates are kept, and one of them is chosen, once.

The averages after each candidate step wait in the checkpoints. After the last step the plan's rule chooses, the chosen
ones take the place of the last, and a checkpoint says so, published like that of a step (``succession.py``): a choice
whose checkpoint was not on disk never left memory, and one that was is not made again.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from imgsynth import console
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import write_json
from imgsynth.privacy.choose import choose
from imgsynth.privacy.noise import seed_for
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import Config
from imgsynth.training.disk import writing
from imgsynth.training.folder import RunFolder
from imgsynth.training.public_voters import public_voters
from imgsynth.training.state import TrainingState
from imgsynth.training.voting import Candidates, Sampler

FORMAT = "imgsynth-selection-1"


def keep_candidate(state: TrainingState, plan: PrivacyPlan) -> None:
    """Keep the averages of this step, where it is one that may be chosen."""
    if plan.selection is not None and state.step in plan.selection.candidates:
        state.candidates[state.step] = state.ema.snapshot()


def asks_patients(state: TrainingState, plan: PrivacyPlan) -> bool:
    """Whether the run still has to ask its patients which candidate it is to be."""
    return plan.selection is not None and plan.selection.charged and state.selected is None


def select(
    state: TrainingState, plan: PrivacyPlan, cfg: Config, manifest: Manifest, cohort: PatientDataset | None,
    extra: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Choose by the plan's rule, and make the chosen step's averages those of ``state``.

    ``cohort`` are this rank's patients, whom charged rules ask. Raises InputError where the public images of the rule
    "public" are no longer those that the plan names.
    """
    selection = plan.selection
    assert selection is not None and state.selected is None
    found: dict[str, Any] = {"step": selection.candidates[0]}
    if selection.rule != "fixed":
        voters = cohort if selection.charged else state.team.tell(lambda: public_voters(cfg, plan, manifest, extra))
        assert voters is not None
        own = _candidates(state, plan, cfg, len(manifest.classes)).votes(voters.all_images())
        every = state.team.gather(own) if selection.charged else [own]
        votes = [sum(parts) for parts in zip(*every, strict=True)]
        place = state.team.tell(lambda: choose(selection, votes, plan.mode, cfg.privacy.seed))
        found = {"step": selection.candidates[place]}
        if not selection.charged:
            found["public_votes"] = state.team.tell(lambda: votes)
    if state.team.first:
        console.say(f"Chosen by {selection.rule}: the weights of step {found['step']}, of {selection.candidates}.")
    state.ema.load_state_dict(state.candidates[found["step"]])
    state.candidates, state.selected = {}, found


def write_selection(folder: RunFolder, state: TrainingState, plan: PrivacyPlan) -> None:
    """``selection.json``: what was chosen, by what rule, among which steps. Counts of votes only where the voters are
    public: exact ones of patients are in no file."""
    if plan.selection is None or state.selected is None:
        return
    said = plan.to_json()["selection"]
    with writing(folder.root):
        write_json(folder.selection, {"format": FORMAT, **said, "selected": state.selected})


def _candidates(state: TrainingState, plan: PrivacyPlan, cfg: Config, classes: int) -> Candidates:
    assert plan.selection is not None
    seed, device = cfg.privacy.seed, state.random.device
    drawn = state.team.tell(lambda: secrets.randbits(63) if seed is None else seed_for("candidates", seed) % 2**63)
    random = torch.Generator(device).manual_seed(drawn)
    samplers = _samplers(state, plan.selection.candidates)
    return Candidates(samplers, classes, cfg.selection.samples, cfg.selection.encoder, len(state.model.shape), random)


def _samplers(state: TrainingState, steps: Sequence[int]) -> Iterator[Sampler]:
    """One after another, in one model: each is done with when the next is asked for."""
    model = copy.deepcopy(state.ema.model)
    for step in steps:
        averages = state.candidates[step]
        weights = {k.removeprefix("generator."): v for k, v in averages.items() if isinstance(v, Tensor)}
        model.generator.load_state_dict(weights)
        yield model.sample
