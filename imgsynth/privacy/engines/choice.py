"""The cheapest exact way to the norms of one parameter's per-patient gradients, found once for each kind of layer.

| method  | what it does                                              | wins where                                  |
|---------|-----------------------------------------------------------|---------------------------------------------|
| gram    | Σ_tt' (UᵀU)(VᵀV), U unfolded                              | few positions, large weights (late layers)  |
| phases  | the same, from the pixels' Gram matrices                  | the same, with overlapping windows          |
| groups  | W_p by one grouped convolution                            | many positions, small weights; 3D           |
| columns | W_p by matrix products on U, in chunks that fit the cache | in between, in 2D                           |
| loop    | W_p by one call of the vendor's kernel for each patient   | few large patients (3D volumes)             |

W_p is kept where that takes little more memory than a and g, which can then go; elsewhere it is reduced to its norm at
once. A model of the arithmetic drops what is hopeless; the rest is measured, the first time that a layer of this shape
is seen. With ``torch.backends.cudnn.deterministic`` (seeded runs) the model alone decides, and runs repeat bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from imgsynth.privacy.engines.contributions import Contribution, ConvWeight, Stored
from imgsynth.privacy.engines.parallel import for_each, processors

_HOPELESS = 1.8  # times the best modelled cost of norms and weighted sum together
KEEP = 1.5  # W_p are kept up to this many times the size of a and g
_TEMPORARY = 2**21  # elements that are made at once: 8 MB in float32
_TRIAL = 2**20  # elements of a and g that a method is measured on
_chosen: dict[object, str] = {}


class Norms(NamedTuple):
    norms2_P: Tensor
    terms_P: Tensor | None  # Σ |terms| where the norm is a sum of terms of both signs (Gram forms), else None
    kept: list[Contribution]  # what ``weighted`` is asked of


def norms2(parts: list[Contribution], exact_only: bool) -> Norms:
    """‖Σ_uses W_p‖² of one parameter. ``exact_only``: no Gram forms, in which large terms can cancel."""
    first = parts[0]
    if len(parts) == 1 and isinstance(first, ConvWeight):
        return _by_method(_choose(first, exact_only), first)
    if len(parts) == 1 and isinstance(first, Stored):
        return Norms(_squares(first.per_patient()), None, parts)
    total = sum(part.positions() for part in parts)
    if all(part.positions() for part in parts) and not exact_only and total**2 <= first.size:
        return _in_steps(parts, max(part.size for part in parts) + total**2, _by_gram)
    return _in_steps(parts, first.size, _by_sum)


def _in_steps(parts: list[Contribution], elements: int, norms: Callable[[list[Contribution]], Norms]) -> Norms:
    """``norms`` of a few patients at a time, who need ``elements`` of memory each."""
    device = parts[0].images.patient_B.device
    own = _few(parts[0], elements, processors(device))
    by_part: dict[int, Norms] = {}

    def take(i: int) -> None:
        some = [part.of(own[i]) for part in parts]
        zeros_P = torch.zeros(len(own[i]), device=device)
        by_part[i] = norms(some) if len(some[0].images) else Norms(zeros_P, zeros_P, [])

    for_each(take, len(own), device)
    found = [by_part[i] for i in range(len(own))]
    terms = [f.terms_P for f in found if f.terms_P is not None]
    all_P = torch.cat(terms) if len(terms) == len(found) else None
    return Norms(torch.cat([f.norms2_P for f in found]), all_P, parts)


def _few(part: Contribution, elements: int, threads: int) -> list[range]:
    """All patients where ``_TEMPORARY`` elements are enough for them, else parts, of which ``threads`` at a time need
    as many."""
    patients, together = part.images.patients, max(1, _TEMPORARY // max(1, elements))
    step = together if together >= patients else max(1, together // threads)
    return [range(start, min(start + step, patients)) for start in range(0, patients, step)]


def _by_sum(parts: list[Contribution]) -> Norms:
    """By making every W_p: uses of one parameter are added before the norm is taken."""
    w_P = parts[0].per_patient()
    for part in parts[1:]:
        w_P = w_P + part.per_patient()
    return Norms(_squares(w_P), None, parts)


def _by_gram(parts: list[Contribution]) -> Norms:
    """Uses of one parameter are further positions, so that their cross terms are in it."""
    factors = [part.factors() for part in parts]
    u, v = (torch.cat(fs, dim=3) if len(fs) > 1 else fs[0] for fs in zip(*[f for f in factors if f], strict=True))

    def norms(u: Tensor, v: Tensor) -> Squares:
        u2_P, v2_P = (t.square().sum(2).flatten(1) for t in (u, v))
        if u.shape[3] == 1:
            return (u2_P * v2_P).sum(1), u2_P, v2_P
        return (u.mT @ u).mul_(v.mT @ v).flatten(1).sum(1), u2_P, v2_P

    return _in_range(norms, u, v, parts)


def _by_phases(parts: list[Contribution]) -> Norms:
    (part,) = parts
    assert isinstance(part, ConvWeight)
    a_P, g_P = part.images.by_patient(part.a_B), part.images.by_patient(part.g_B)
    return _in_range(part.geometry.norms2_by_phase, a_P, g_P, parts)


Squares = tuple[Tensor, Tensor, Tensor]  # norms² [P]; |U_t|² and |V_t|² [P, T]


def _in_range(norms: Callable[[Tensor, Tensor], Squares], u: Tensor, v: Tensor, parts: list[Contribution]) -> Norms:
    """``norms(u, v)``, with each patient's u and v scaled to 1 where their squares could vanish or overflow.

    Beside them (Σ_t |U_t||V_t|)² = Σ_tt' |U_t||U_t'||V_t||V_t'|, to which rounding is in proportion.
    """
    found, scale2_P = norms(u, v), None
    largest = torch.stack([t.amax(1) for t in found[1:]])
    if not bool(((largest > 1e-24) & (largest < 1e24)).all()):
        scales = [t.flatten(1).abs().amax(1) for t in (u, v)]
        scales = [torch.where(s > 0, s, torch.ones_like(s)) for s in scales]
        scale2_P = (scales[0] * scales[1]).square()
        found = norms(*(t / s.view(-1, *(1 for _ in t.shape[1:])) for t, s in zip((u, v), scales, strict=True)))
    norms2_P, terms_P = found[0].clamp(min=0), (found[1] * found[2]).sqrt().sum(1).square()
    if scale2_P is not None:
        norms2_P, terms_P = norms2_P * scale2_P, terms_P * scale2_P
    return Norms(norms2_P, terms_P, parts)


def _by_method(method: str, part: ConvWeight) -> Norms:
    """Norms by one of ``_ELEMENTS``; W_p made on the way are kept where they take little room."""
    elements = _ELEMENTS[method](part)
    if method == "gram":
        return _in_steps([part], elements, _by_gram)
    if method == "phases":
        return _in_steps([part], elements, _by_phases)
    norms2, made = [], []
    for own in _few(part, elements, threads=1):  # the vendor's kernels share out their work
        some = part.of(own)
        w_P = getattr(some, f"by_{method}")() if len(some.images) else part.a_B.new_zeros(len(own), *part.shape)
        norms2.append(_squares(w_P))
        if _keeps(part):
            made.append(w_P)
    return Norms(torch.cat(norms2), None, [Stored(part.images, *made) if made else part])


def _squares(w_P: Tensor) -> Tensor:
    """‖W_p‖², without a temporary of the size of W."""
    return torch.linalg.vector_norm(w_P.reshape(len(w_P), -1), dim=1).square()


def _keeps(part: ConvWeight) -> bool:
    return part.images.patients * part.size <= KEEP * (part.a_B.numel() + part.g_B.numel())


# method -> elements of memory that it takes for a patient
_ELEMENTS: dict[str, Callable[[ConvWeight], int]] = {
    "gram": lambda part: _unfolded(part) + 2 * part.geometry.groups * part.positions() ** 2,
    "phases": lambda part: 2 * _pixels(part) * (part.geometry.groups * _pixels(part) + _phase_channels(part)),
    "groups": lambda part: part.size,
    "columns": lambda part: max(part.size, 4 * _unfolded(part)),  # small enough to stay in a processor's cache
    "loop": lambda part: part.size,
}


def _choose(part: ConvWeight, exact_only: bool) -> str:
    images = part.images
    key = (
        part.geometry, part.a_B.shape[1:], part.g_B.shape[1:], images.uniform, images.patients.bit_length(), exact_only,
        part.a_B.dtype, part.a_B.device, part.a_B.stride(1) == 1, torch.get_num_threads(),
        torch.backends.cudnn.deterministic,
    )  # fmt: skip
    if key not in _chosen:
        costs = _costs(part, exact_only)
        best = min(costs.values())
        candidates = [name for name, cost in costs.items() if cost <= _HOPELESS * best]
        if torch.backends.cudnn.deterministic or len(candidates) == 1:
            _chosen[key] = min(costs, key=lambda name: costs[name])
        else:
            _chosen[key] = min(candidates, key=lambda name: _seconds(name, part))
    return _chosen[key]


def _seconds(method: str, part: ConvWeight) -> float:
    """Of norms and weighted sum; the best of three runs, on as many patients as make a fair trial."""
    each = (part.a_B.numel() + part.g_B.numel()) // part.images.patients
    some = part.of(range(min(part.images.patients, max(4, _TRIAL // each))))
    times = []
    for _ in range(3):
        _wait(part.a_B)
        began = time.perf_counter()
        for kept in _by_method(method, some).kept:
            kept.weighted(part.a_B.new_ones(some.images.patients))
        _wait(part.a_B)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(t: Tensor) -> None:
    if t.is_cuda:
        torch.cuda.synchronize(t.device)


def _costs(part: ConvWeight, exact_only: bool) -> dict[str, float]:
    """Multiplications per patient, weighted by how well each method uses the machine."""
    images, t = part.images, part.positions()
    direct = float(t * part.size) * (1 if _keeps(part) else 2)  # what is not kept is made once more, weighted
    costs = {"columns": 2.0 * direct, "loop": direct + 2e5}
    if images.uniform:
        costs["groups"] = 1.1 * direct
    if not exact_only:
        rows, groups = math.prod(part.shape[1:]), part.geometry.groups
        costs["gram"] = t**2 * (rows * groups + part.shape[0]) + _unfolded(part) + float(t * part.size)
        costs["phases"] = 1.2 * _phases_cost(part) + float(t * part.size)
    return costs


def _unfolded(part: ConvWeight) -> int:
    """Elements of U for one patient."""
    return part.positions() * math.prod(part.shape[1:]) * part.geometry.groups


def _pixels(part: ConvWeight) -> int:
    """Pixels of one stride phase, of all images of a patient."""
    other = part.a_B if part.geometry.transposed else part.g_B
    return part.images.most * math.prod(part.geometry.pixel_grid(tuple(other.shape[2:])))


def _phase_channels(part: ConvWeight) -> int:
    """Channels of the unfolded tensor, times stride phases."""
    return math.prod(part.geometry.stride) * part.shape[1] * part.geometry.groups


def _phases_cost(part: ConvWeight) -> float:
    geometry = part.geometry
    offsets = math.prod(geometry.kernel) / math.prod(geometry.stride)
    each = _phase_channels(part) + 8 * geometry.groups * offsets
    return float(_pixels(part) ** 2 * each + part.positions() ** 2 * part.shape[0])
