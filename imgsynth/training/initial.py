"""What a run's networks begin with, kept in its folder: whoever trains by its recipe begins with the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from imgsynth.models.adapt import restrict
from imgsynth.models.base import GenerativeModel
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import InitConfig
from imgsynth.training.checkpoint import load_checkpoint, save_checkpoint
from imgsynth.training.folder import RunFolder
from imgsynth.types import Fault, InputError


@dataclass(frozen=True, eq=False)
class Initial:
    """Public weights, and what of them is trained: ``init.train`` and ``init.rank``."""

    weights: Mapping[str, Tensor]  # a model's ``state_dict``
    train: str | Sequence[str] = "all"
    rank: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and values of the weights; the file that holds them does not matter."""
        total = hashlib.sha256()
        for name, value in sorted(self.weights.items()):
            total.update(f"{name}\x1f{value.dtype}\x1f{list(value.shape)}\x1f".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


def begun(model: GenerativeModel, initial: Initial | None) -> GenerativeModel:
    """``model`` as training begins with it: with the public weights, and what does not learn frozen. InputError for
    random numbers where a public generator should be."""
    if initial is not None:
        model.begin_with(initial.weights)
        restrict(model, initial.train, initial.rank)
    elif model.public_part is not model:
        raise InputError(
            Fault("init.run", "null", f"a run on public images, as {type(model).__name__} makes what that one can make",
                  "imgsynth train privacy=none output=runs/public, and then init.run=runs/public")
        )  # fmt: skip
    return model


def store_initial(folder: RunFolder, initial: Initial) -> None:
    save_checkpoint(folder.initial, {"initial": dict(initial.weights)})


def stored_initial(folder: RunFolder, plan: PrivacyPlan, init: InitConfig) -> Initial | None:
    """What the begun run in ``folder`` began with; None where that was random numbers. InputError where the file is
    gone or holds other weights than ``plan`` says."""
    if plan.public is None:
        return None
    expected = f"the weights of SHA-256 {plan.public.digest}, with which the run began"
    remedy = "restore the file from a back-up, or train into a new output=DIR (a new entry in the ledger)"
    if not folder.initial.is_file():
        raise InputError(Fault(str(folder.initial), "no such file", expected, remedy))
    initial = Initial(load_checkpoint(folder.initial)["initial"], init.train, init.rank)
    if initial.digest != plan.public.digest:
        raise InputError(Fault(str(folder.initial), f"weights of SHA-256 {initial.digest}", expected, remedy))
    return initial
