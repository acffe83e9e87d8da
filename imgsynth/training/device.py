"""Where the arithmetic runs."""

from __future__ import annotations

import torch

from imgsynth.schema import TrainerConfig
from imgsynth.types import Fault, InputError


def choose_device(trainer: TrainerConfig) -> torch.device:
    """The device of ``trainer.device`` (auto: CUDA where there is one), with ``trainer.threads`` CPU threads set.

    Raises InputError when CUDA is asked for on a machine without.
    """
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    if trainer.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            Fault(
                "trainer.device", "cuda, which torch does not find here", "auto, cpu or cuda", "use trainer.device=auto"
            )
        )
    if trainer.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(trainer.device)


def make_repeatable(seed: int) -> None:
    """Fix torch's own random state and kernels, so that a seeded run (never a releasable one) repeats bit for bit."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
