"""The cheapest exact way to the norms of one parameter's per-patient gradients, found once for each kind of layer.

| method  | what it does                                              | wins where                                  |
|---------|-----------------------------------------------------------|---------------------------------------------|
| gram    | Σ_tt' (UᵀU)(VᵀV), U unfolded                              | few positions, large weights (late layers)  |
| phases  | the same, UᵀU from the pixels' Gram matrices              | the same, with overlapping windows          |
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

from imgsynth.privacy.engines.contributions import (
    Contribution,
    ConvWeight,
    LinearWeight,
    Stored,
    norms2_of_sum,
)

_HOPELESS = 6.0  # times the best modelled cost
_LARGEST_GRAM = 2**26  # elements of all Gram matrices of a layer
_KEEP = 2  # W_p are kept up to this many times the size of a and g
_CACHE = 2**19  # elements of an unfolded input that stay in a processor's cache
_chosen: dict[object, str] = {}


class Norms(NamedTuple):
    norms2_P: Tensor
    terms_P: Tensor | None  # Σ |terms| where the norm is a sum of terms of both signs (Gram forms), else None
    kept: list[Contribution]  # what ``weighted`` is asked of


def norms2(parts: list[Contribution], exact_only: bool) -> Norms:
    """‖Σ_uses W_p‖² of one parameter. ``exact_only``: no Gram forms, in which large terms can cancel."""
    if len(parts) > 1:
        return _of_several(parts, exact_only)
    (part,) = parts
    if isinstance(part, Stored):
        return Norms(part.values_P.reshape(part.images.patients, -1).square().sum(1), None, parts)
    if isinstance(part, LinearWeight):
        small = _gram_cost(part) <= part.size * part.positions()
        return _gram(parts) if small and not exact_only else Norms(norms2_of_sum(parts), None, parts)
    if isinstance(part, ConvWeight):
        return _METHODS[_choose(part, exact_only)](part)
    return Norms(norms2_of_sum(parts), None, parts)


def _of_several(parts: list[Contribution], exact_only: bool) -> Norms:
    """Several uses of one parameter: their gradients are added before the norm, the cross terms included."""
    total = sum(part.positions() for part in parts)
    if all(part.positions() for part in parts) and not exact_only:
        first = parts[0]
        if total * total <= first.size and first.images.patients * total * total <= _LARGEST_GRAM:
            return _gram(parts)
    return Norms(norms2_of_sum(parts), None, parts)


def _gram(parts: list[Contribution]) -> Norms:
    factors = [part.factors() for part in parts]
    u = torch.cat([f[0] for f in factors if f is not None], dim=3) if len(parts) > 1 else factors[0][0]  # type: ignore[index]
    v = torch.cat([f[1] for f in factors if f is not None], dim=3) if len(parts) > 1 else factors[0][1]  # type: ignore[index]
    if u.shape[3] == 1:
        return Norms((u.square().sum((2, 3)) * v.square().sum((2, 3))).sum(1), None, parts)
    (u, scale_u), (v, scale_v) = _scaled(u), _scaled(v)
    return _from_grams(u.mT @ u, v.mT @ v, scale_u * scale_v, parts)


def _by_phases(part: ConvWeight) -> Norms:
    uu, vv = part.grams_by_phase()
    return _from_grams(uu, vv, None, [part])


def _from_grams(uu: Tensor, vv: Tensor, scale_P: Tensor | None, parts: list[Contribution]) -> Norms:
    terms = uu.mul_(vv).flatten(1)
    norms2_P, terms_P = terms.sum(1).clamp_(min=0), terms.abs_().sum(1)
    if scale_P is not None:
        norms2_P, terms_P = norms2_P * scale_P.square(), terms_P * scale_P.square()
    return Norms(norms2_P, terms_P, parts)


def _scaled(t: Tensor) -> tuple[Tensor, Tensor]:
    """t / scale, each patient's largest entry 1: products of tiny and of huge entries neither vanish nor overflow."""
    scale_P = t.abs().amax((1, 2, 3))
    scale_P = torch.where(scale_P > 0, scale_P, torch.ones_like(scale_P))
    return t / scale_P[:, None, None, None], scale_P


def _instances(method: str, step: Callable[[ConvWeight], int]) -> Callable[[ConvWeight], Norms]:
    """Norms by making every W_p with ``ConvWeight.by_<method>``, ``step`` patients at a time."""

    def norms(part: ConvWeight) -> Norms:
        make, patients, keep = getattr(part, f"by_{method}"), part.images.patients, _keeps(part)
        stride = max(1, min(step(part), patients))
        found, made = [], []
        for start in range(0, patients, stride):
            w_P = make(range(start, min(start + stride, patients)))
            found.append(w_P.reshape(len(w_P), -1).square().sum(1))
            if keep:
                made.append(w_P)
        kept: list[Contribution] = [part]
        if keep:
            kept = [Stored(made[0] if len(made) == 1 else torch.cat(made), part.images)]
        return Norms(torch.cat(found), None, kept)

    return norms


def _keeps(part: ConvWeight) -> bool:
    return part.images.patients * part.size <= _KEEP * (part.a_B.numel() + part.g_B.numel())


_METHODS: dict[str, Callable[[ConvWeight], Norms]] = {
    "gram": lambda part: _gram([part]),
    "phases": _by_phases,
    "groups": _instances("groups", lambda part: max(1, 2**23 // part.size)),
    "columns": _instances("columns", lambda part: max(1, _CACHE // max(1, _unfolded(part)))),
    "loop": _instances("loop", lambda part: part.images.patients if _keeps(part) else 1),
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
    """Best of three runs."""
    times = []
    for _ in range(3):
        _wait(part.a_B)
        began = time.perf_counter()
        _METHODS[method](part)
        _wait(part.a_B)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(t: Tensor) -> None:
    if t.is_cuda:
        torch.cuda.synchronize(t.device)


def _costs(part: ConvWeight, exact_only: bool) -> dict[str, float]:
    """Multiplications per patient, weighted by how well each method uses the machine."""
    images, geometry, t = part.images, part.geometry, part.positions()
    direct = t * part.size
    costs = {"columns": 1.5 * direct, "loop": 1.0 * direct + 2e5}
    if images.uniform:
        costs["groups"] = 1.1 * direct
    if not exact_only and images.patients * geometry.groups * t * t <= _LARGEST_GRAM:
        costs["gram"] = 1.0 * _gram_cost(part) + _unfolded(part)
        costs["phases"] = 1.2 * _phases_cost(part)
    return costs


def _unfolded(part: ConvWeight) -> int:
    """Elements of U for one patient."""
    return part.positions() * math.prod(part.shape[1:]) * part.geometry.groups


def _gram_cost(part: ConvWeight | LinearWeight) -> float:
    if isinstance(part, LinearWeight):
        return part.positions() ** 2 * (part.a_BTR.shape[2] + part.g_BTS.shape[2])
    rows, groups = math.prod(part.shape[1:]), part.geometry.groups
    return part.positions() ** 2 * (rows * groups + part.shape[0])


def _phases_cost(part: ConvWeight) -> float:
    geometry = part.geometry
    other = part.a_B if geometry.transposed else part.g_B
    pixels = part.images.most * math.prod(geometry.pixel_grid(tuple(other.shape[2:])))
    channels, phases = part.shape[1] * geometry.groups, math.prod(geometry.stride)
    return pixels**2 * (phases * channels + part.shape[0] + 4 * geometry.groups * math.prod(geometry.kernel))
