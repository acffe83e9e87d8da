"""Where the arithmetic runs."""

from __future__ import annotations

import ctypes
from typing import TypeVar

import torch
from torch import nn

from imgsynth.schema import TrainerConfig
from imgsynth.types import Fault, InputError

Model = TypeVar("Model", bound=nn.Module)


def choose_device(trainer: TrainerConfig, index: int | None = None) -> torch.device:
    """The device of ``trainer.device`` (auto: CUDA where there is one), with ``trainer.threads`` CPU threads set.

    ``index`` is the place among this machine's processes of one run: each needs a CUDA device of its own. Raises
    InputError when CUDA is asked for on a machine without, or with fewer devices than processes, and when bf16 is asked
    for on a GPU that only emulates it.
    """
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    if trainer.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            Fault(
                "trainer.device", "cuda, which torch does not find here", "auto, cpu or cuda", "use trainer.device=auto"
            )
        )
    if trainer.device == "cpu" or not torch.cuda.is_available():
        keep_freed_memory()
        return torch.device("cpu")
    if index is not None and index >= torch.cuda.device_count():
        raise InputError(
            Fault("trainer.device", f"process {index + 1} on a machine with {torch.cuda.device_count()} CUDA devices",
                  "one CUDA device for each process", "torchrun --nproc_per_node with as many as there are devices")
        )  # fmt: skip
    if trainer.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(
            Fault("trainer.precision", f"bf16 on {torch.cuda.get_device_name()}, which has no arithmetic for it",
                  "float32, or a GPU that computes in bf16 (NVIDIA Ampere or later)", "trainer.precision=float32")
        )  # fmt: skip
    return torch.device("cuda") if index is None else torch.device("cuda", index)


def lay_out(model: Model, memory_format: str) -> Model:
    """``model`` with its weights of four and five dimensions in that format, "contiguous" or "channels_last".

    Convolutions compute in the format of their weights, and what they make has it too. Values are the same but for
    rounding. What is trained beside the model (a teacher, an encoder of moments) stays as it is.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d} if memory_format == "channels_last" else {}
    for weight in model.parameters():
        weight.data = weight.data.contiguous(memory_format=formats.get(weight.dim(), torch.contiguous_format))
    return model


def make_repeatable(seed: int) -> None:
    """Fix torch's own random state and kernels, so that a seeded run (never a releasable one) repeats bit for bit."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it is glibc: by default every large tensor of every step is a new
    mapping, whose pages the kernel must fill with zeros again. A tenth less time in our VAE's step on CPU.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # another C library
        return
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)
