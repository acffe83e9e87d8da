"""Fakes as a step of the private network takes them: in patients' units, each made as if it were the only one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from imgsynth.models.base import FakeSource
from imgsynth.privacy.fakes import Fakes
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.types import Fault, InputError, PatientBatch

# Of the largest voxel. One image alone and many at once go through different kernels, whose float32 results differ by
# 1e-6 of it (1e-3 with TensorFloat32); BatchNorm over a handful of images moves them by far more than this. No privacy
# hangs on it: what differs is refused because the generator would be trained as one network and used as another.
_KERNELS = 0.02
_REMEDY = "GroupNorm(groups, channels) for a layer that couples images; or privacy.fakes=plain"


def in_units(plan: PrivacyPlan) -> bool:
    """Whether fakes enter the patients' clipped units, so that their number is that of the drawn patients."""
    return plan.mode == "dp" and plan.fakes == "joint"


def refuse_earlier_fakes(plan: PrivacyPlan, folder: str) -> None:
    """InputError for a run of an earlier version, which clipped each fake by itself: it would go on with another
    objective than it was begun with, and than its plan tells."""
    if plan.fakes == "separate":
        raise InputError(
            Fault(
                f"{folder}, plan.json",
                "no key fakes: a run of an earlier version, which clipped each generated image by itself",
                "a run that this version began, or the version that began it",
                "a new run in another output=DIR; what this one spent stays spent",
            )
        )


@torch.no_grad()
def made(source: FakeSource, n: int, random: torch.Generator, *, alone: bool) -> Fakes:
    """``n`` fakes of weight 1 as units of one image each, with their aux tensors.

    Formal guarantee with ``alone``: the fakes are independent and identically distributed given the weights, whatever
    n is, and nothing that the call leaves behind but the position of ``random`` follows n: each has its own draws, and
    vmap keeps one image's values out of every other's and out of shared buffers (it raises RuntimeError instead).
    """
    if alone:
        # At least one, for the shapes.
        draws = [source.draw(1, random) for _ in range(max(n, 1))]
        x_BC, y_B, *aux = _each(source, tuple(torch.cat(d) for d in zip(*draws, strict=True)))
    else:
        x_BC, y_B, *aux = source.make(*source.draw(n, random))
    w_B = x_BC.new_ones(n)
    return PatientBatch(x_BC[:n, None], y_B[:n, None], w_B[:, None]), tuple(a[:n] for a in aux)


def check_fakes(source: FakeSource, device: torch.device) -> None:
    """InputError where ``source`` cannot make its images one by one, or makes others when it makes several at once.

    To be called in the mode that training uses, before any data are read. No random state is moved.
    """
    random = torch.Generator(device).manual_seed(0)
    drawn = source.draw(3, random)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        before = _random_state(device)
        try:
            alone = _each(source, drawn)
        except (RuntimeError, ValueError) as error:  # what vmap raises on what it cannot map
            got = f"a function that cannot be mapped over images: {str(error).splitlines()[0]}"
            raise InputError(Fault("model, fakes", got, "one that makes each image by itself", _REMEDY)) from error
        if not torch.equal(before, _random_state(device)):
            return  # the generator draws random numbers of its own (dropout): no two calls are alike
        together = source.make(*drawn)
    for one, many in zip(alone, together, strict=True):
        largest = many.abs().max().item()
        apart = (one - many).abs().max().item()
        if not apart <= _KERNELS * largest:
            got = f"images that depend on those made with them (by {apart:.2g}, the largest value being {largest:.2g})"
            raise InputError(Fault("model, fakes", got, "the same image alone and among others", _REMEDY))


def _each(source: FakeSource, drawn: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """``source.make`` on every image by itself, at once."""

    def one(*drawn_of_one: Tensor) -> tuple[Tensor, ...]:
        return tuple(t[0] for t in source.make(*(d[None] for d in drawn_of_one)))

    return vmap(one, randomness="different")(*drawn)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
