"""The cheapest exact way to the norms of one parameter's per-patient gradients, found once for each kind of layer.

| method  | what it does                                              | wins where                                  |
|---------|-----------------------------------------------------------|---------------------------------------------|
| gram    | Σ_tt' (UᵀU)(VᵀV), U unfolded                              | few positions, large weights (late layers)  |
| phases  | the same, from the pixels' Gram matrices                  | the same, with overlapping windows          |
| groups  | W_p by one grouped convolution                            | many positions, small weights; 3D           |
| columns | W_p by matrix products on U, in chunks that fit the cache | in between, in 2D                           |
| loop    | W_p by one call of the vendor's kernel for each patient   | few large patients (3D volumes)             |

W_p is kept where that takes little more memory than a and g, which can then go; elsewhere it is reduced to its norm at
once, and the clipped sum is one weight gradient over all patients. In that, as in Gram forms, a patient's terms can be
large and cancel; beside the norm goes how large they are, and where rounding them could be felt, ``ghost`` asks again
with ``exact_only``: then norm and sum are of W_p that were each made by themselves.

A model of the arithmetic drops what is hopeless; the rest is measured, the first time that a layer of this shape is
seen. With ``torch.backends.cudnn.deterministic`` (seeded runs) the model alone decides, and runs repeat bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from imgsynth.privacy.engines.contributions import Apart, Contribution, ConvWeight, Stored
from imgsynth.privacy.engines.parallel import for_each, processors

_HOPELESS = 1.8  # times the best modelled cost of norms and weighted sum together
KEEP = 1.5  # W_p are kept up to this many times the size of a and g
_TEMPORARY = 2**21  # elements that are made at once: 8 MB in float32
_TRIAL = 2**20  # elements of a and g that a method is measured on
_chosen: dict[object, str] = {}


class Norms(NamedTuple):
    norms2_P: Tensor
    terms_P: Tensor | None  # where terms of both signs are summed: ‖error‖² ≤ eps · terms; not finite: nothing is known
    kept: list[Contribution]  # what ``weighted`` is asked of


def norms2(parts: list[Contribution], exact_only: bool) -> Norms:
    """‖Σ_uses W_p‖² of one parameter. ``exact_only``: nothing in which large terms of a patient can cancel beside those
    of others."""
    first = parts[0]
    if len(parts) == 1 and isinstance(first, ConvWeight):
        return _by_method(_choose(first, exact_only), first, exact_only)
    if len(parts) == 1 and isinstance(first, Stored):
        return Norms(_squares(first.per_patient()), None, parts)
    total = sum(part.positions() for part in parts)
    if all(part.positions() for part in parts) and not exact_only and total**2 <= first.size:
        return _by_gram(parts)
    apart = Apart(parts, _few(first, first.size, threads=1), _sum_of_uses)
    norms2_P = torch.cat(apart.each(_squares))
    return Norms(norms2_P, None, [apart]) if exact_only else Norms(norms2_P, _spread(parts), parts)


Take = Callable[[list[Contribution]], Tensor]


def _in_steps(parts: list[Contribution], elements: int, take: Take, empty: tuple[float, ...]) -> Tensor:
    """``take`` ([n, P]) of a few patients at a time, who need ``elements`` of memory each; ``empty`` [n] is what those
    without images have."""
    device = parts[0].images.patient_B.device
    own = _few(parts[0], elements, processors(device))
    found: dict[int, Tensor] = {}

    def step(i: int) -> None:
        some = [part.of(own[i]) for part in parts]
        nothing = not len(some[0].images)
        found[i] = torch.tensor([empty] * len(own[i]), dtype=torch.float32, device=device).T if nothing else take(some)

    for_each(step, len(own), device)
    return torch.cat([found[i] for i in range(len(own))], 1)


def _few(part: Contribution, elements: int, threads: int) -> list[range]:
    """All patients where ``_TEMPORARY`` elements are enough for them, else parts, of which ``threads`` at a time need
    as many."""
    patients, together = part.images.patients, max(1, _TEMPORARY // max(1, elements))
    step = together if together >= patients else max(1, together // threads)
    return [range(start, min(start + step, patients)) for start in range(0, patients, step)]


def _sum_of_uses(parts: list[Contribution]) -> Tensor:
    first, *others = (part.per_patient() for part in parts)
    return sum(others, first)


def _spread(parts: list[Contribution]) -> Tensor:
    """As ``terms_P`` of ``Norms``, of W_p that are summed with all others' in one product: rounding is then known to be
    within a thousandth of what ``ghost`` compares with, as bounds that need no product are far from sharp."""
    spread_P = sum((part.spread() for part in parts[1:]), parts[0].spread())
    return spread_P.square() * (100 * torch.finfo(spread_P.dtype).eps)


def _by_gram(parts: list[Contribution]) -> Norms:
    """Uses of one parameter are further positions, so that their cross terms are in it."""

    def factors(parts: list[Contribution]) -> tuple[Tensor, Tensor]:
        factors = [part.factors() for part in parts]
        u, v = (torch.cat(fs, dim=3) if len(fs) > 1 else fs[0] for fs in zip(*[f for f in factors if f], strict=True))
        return u, v

    def squares(u: Tensor, v: Tensor) -> Squares:
        u2_P, v2_P = (t.square().sum(2).flatten(1) for t in (u, v))
        if u.shape[3] == 1:
            return (u2_P * v2_P).sum(1), u2_P, v2_P
        return (u.mT @ u).mul_(v.mT @ v).flatten(1).sum(1), u2_P, v2_P

    groups = max(part.geometry.groups if isinstance(part, ConvWeight) else 1 for part in parts)
    products = 2 * groups * sum(part.positions() for part in parts) ** 2
    return _by_terms(parts, sum(part.factor_elements() for part in parts) + products, factors, squares)


def _by_phases(part: ConvWeight) -> Norms:
    def factors(parts: list[Contribution]) -> tuple[Tensor, Tensor]:
        (some,) = parts
        assert isinstance(some, ConvWeight)
        return some.images.by_patient(some.a_B), some.images.by_patient(some.g_B)

    pixels, groups = _pixels(part), part.geometry.groups
    elements = 2 * pixels * (groups * pixels + _phase_channels(part))
    return _by_terms([part], elements, factors, part.geometry.norms2_by_phase)


Squares = tuple[Tensor, Tensor, Tensor]  # norms² [P]; |U_t|² and |V_t|² [P, T]


def _by_terms(
    parts: list[Contribution],
    elements: int,
    factors: Callable[[list[Contribution]], tuple[Tensor, Tensor]],
    squares: Callable[[Tensor, Tensor], Squares],
) -> Norms:
    """``squares(u, v)``, and beside it (Σ_t |U_t||V_t|)² = Σ_tt' |U_t||U_t'||V_t||V_t'|, to which rounding is in
    proportion, with what products below the smallest number have lost at most. Where squares overflow it is infinite.
    """

    def take(some: list[Contribution]) -> Tensor:
        u, v = factors(some)
        norms2_P, u2, v2 = squares(u, v)
        limits, positions = torch.finfo(u2.dtype), u2.shape[1]
        # ⟨U_t, U_t'⟩ is a sum of ``rows`` products, each of which may be short of ``tiny``; so are ⟨V_t, V_t'⟩, and
        # the products of the two.
        of_u, of_v = (rows * limits.tiny for rows in sides)
        lost_P = of_u * v2.amax(1) + of_v * u2.amax(1) + (of_u * of_v + limits.tiny)
        terms_P = (u2 * v2).sqrt().sum(1).square() * longer
        return torch.stack([norms2_P, terms_P + lost_P * (positions**2 / limits.eps)])

    sides = parts[0].sides()
    longer = max(1, max(sides) / 2**16)  # rounding of longer products was seen to be so many times as large
    found = _in_steps(parts, elements, take, empty=(0.0, 0.0))
    return Norms(found[0].clamp(min=0), found[1], parts)


def _by_method(method: str, part: ConvWeight, exact_only: bool = False) -> Norms:
    """Norms by one of ``_ELEMENTS``; W_p made on the way are kept where they take little room."""
    if method == "gram":
        return _by_gram([part])
    if method == "phases":
        return _by_phases(part)
    own = _few(part, _ELEMENTS[method](part), threads=1)  # the vendor's kernels share out their work
    apart = Apart([part], own, lambda some: getattr(some[0], f"by_{method if len(some[0].images) else 'loop'}")())
    if _keeps(part):
        made = apart.each(lambda w_P: w_P)
        return Norms(torch.cat([_squares(w_P) for w_P in made]), None, [Stored(part.images, *made)])
    norms2_P = torch.cat(apart.each(_squares))
    return Norms(norms2_P, None, [apart]) if exact_only else Norms(norms2_P, _spread([part]), [part])


def _squares(w_P: Tensor) -> Tensor:
    """‖W_p‖², without a temporary of the size of W."""
    return torch.linalg.vector_norm(w_P.reshape(len(w_P), -1), dim=1).square()


def _keeps(part: ConvWeight) -> bool:
    return part.images.patients * part.size <= KEEP * (part.a_B.numel() + part.g_B.numel())


# method that makes W_p -> elements of memory that it takes for a patient
_ELEMENTS: dict[str, Callable[[ConvWeight], int]] = {
    "groups": lambda part: part.size,
    "columns": lambda part: max(part.size, 4 * part.positions() * part.unfolded_rows()),  # stays in a processor's cache
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
        costs["gram"] = t**2 * (rows * groups + part.shape[0]) + t * rows * groups + float(t * part.size)
        costs["phases"] = 1.2 * _phases_cost(part) + float(t * part.size)
    return costs


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
