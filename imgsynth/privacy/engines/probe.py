"""A few images on which a network is tried: the guard against one that is not what the ghost engine takes it for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from imgsynth.privacy.engines.base import Aux, Clipped
from imgsynth.types import PatientBatch


def probe(batch: PatientBatch, aux_PK: Aux) -> tuple[PatientBatch, Aux] | None:
    """Two patients made of one of ``batch``: as he is, and mirrored, moved by a voxel and dimmed.

    None where no patient has an image and finite numbers.
    """
    finite_P = batch.w_PK.sum(1) > 0
    for t in (batch.x_PKC, *aux_PK):
        finite_P &= t.flatten(1).isfinite().all(1)
    if not finite_P.any():
        return None
    first = int(finite_P.to(torch.uint8).argmax())
    x_KC = batch.x_PKC[first]
    x_PKC = torch.stack([x_KC, 0.7 * x_KC.flip(-1).roll(1, -1) + 0.1])

    def twice(t_P: Tensor) -> Tensor:
        return t_P[first].expand(2, *t_P.shape[1:]).clone()

    return PatientBatch(x_PKC, twice(batch.y_PK), twice(batch.w_PK)), tuple(map(twice, aux_PK))


def surroundings(
    batch: PatientBatch, aux_PK: Aux, label: int, patients: int, seed: int
) -> tuple[list[tuple[PatientBatch, Aux]], list[int]]:
    """``patients`` variants of the first patient of ``batch``, twice, and which of them are the same in both.

    In the second batch about half are replaced, their images by strong noise, their labels by 0 or ``label`` (one that
    there is), their random inputs by others. Nothing about the rest may differ between the two, if a network's images
    are independent. As a network may mix an image with any other (the next, the next but one, the one half a batch
    away), ``seed`` 0 to 2 replace those whose number has this bit, so that any two of eight are told apart; above, half
    of them at random.
    """
    x_KC = batch.x_PKC[0]
    random = torch.Generator(x_KC.device).manual_seed(seed)
    noise = torch.randn(patients, *x_KC.shape, generator=random, device=x_KC.device, dtype=x_KC.dtype)
    place_P = torch.arange(patients) if seed < 3 else torch.randperm(patients)
    out_P = (place_P >> seed % max(1, (patients - 1).bit_length())) % 2 == 1
    out, kept = out_P.nonzero()[:, 0].to(x_KC.device), (~out_P).nonzero()[:, 0].tolist()
    fades = torch.linspace(1, 0.5, patients, device=x_KC.device, dtype=x_KC.dtype)
    x_PKC = fades.view(-1, *(1 for _ in x_KC.shape)) * x_KC + 0.05 * noise
    y_PK, w_PK, *aux = (t[:1].expand(patients, *t.shape[1:]).clone() for t in (batch.y_PK, batch.w_PK, *aux_PK))
    other_PKC, other_PK, other_aux = x_PKC.clone(), y_PK.clone(), tuple(a.clone() for a in aux)
    other_PKC[out] = 1e4 * noise[out]
    other_PK[out] = torch.where(y_PK[out] == 0, label, 0)
    for a in other_aux:
        if a.is_floating_point():
            a[out] = 3.0 * a[out] + 1.0
    return [(PatientBatch(x_PKC, y_PK, w_PK), tuple(aux)), (PatientBatch(other_PKC, other_PK, w_PK), other_aux)], kept


def alike(got: Clipped, expected: Clipped, clipping_norm: float, tolerance: float) -> bool:
    """Whether norms and sums agree, patient by patient and parameter by parameter, but for 10⁻⁴ of what was added up.

    Norms that are not finite agree with each other: either engine leaves such a patient out.
    """

    def close(a: Tensor, b: Tensor, whole: Tensor) -> bool:
        return bool((a - b).norm() <= tolerance * b.norm() + 1e-4 * whole)

    finite_P = expected.norms_P.isfinite()
    if not torch.equal(got.norms_P.isfinite(), finite_P):
        return False
    largest = expected.norms_P[finite_P].amax() if finite_P.any() else expected.norms_P.new_zeros(())
    whole = expected.norms_P[finite_P].clamp(max=clipping_norm).sum()  # clipped gradients can cancel
    norms = zip(got.norms_P[finite_P], expected.norms_P[finite_P], strict=True)
    return all(close(g, e, largest) for g, e in norms) and all(
        close(got.sums[name], e, whole) for name, e in expected.sums.items()
    )


def in_double(module: nn.Module, batch: PatientBatch, aux_PK: Aux) -> tuple[nn.Module, PatientBatch, Aux] | None:
    """The network and what it is shown, in double precision; None where it is there already, or cannot be copied."""
    if all(p.dtype == torch.float64 for p in module.parameters()):
        return None
    try:
        twin = copy.deepcopy(module).double()
    except (RuntimeError, TypeError, NotImplementedError):  # tensors of a graph, handles: not every module can be
        return None
    aux = tuple(a.double() if a.is_floating_point() else a for a in aux_PK)
    return twin, PatientBatch(batch.x_PKC.double(), batch.y_PK, batch.w_PK.double()), aux


@contextmanager
def without_randomness(module: nn.Module, batch: PatientBatch, aux_PK: Aux) -> Iterator[None]:
    """Where the network draws random numbers (dropout), in evaluation mode, so that two passes can be compared.

    torch's random state is put back afterwards: a comparison leaves no trace in a repeatable run.
    """
    devices = [batch.x_PKC.device] if batch.x_PKC.is_cuda else []
    with torch.random.fork_rng(devices):
        before = _random_state(batch.x_PKC)
        module(*(t.flatten(0, 1) for t in (batch.x_PKC.clone(), batch.y_PK, *aux_PK)))
        training = {m: m.training for m in module.modules()}
        try:
            if not torch.equal(before, _random_state(batch.x_PKC)):
                module.eval()
            yield
        finally:
            for m, was in training.items():
                m.training = was


def _random_state(t: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(t.device) if t.is_cuda else torch.get_rng_state()
