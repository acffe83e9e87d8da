"""What one use of one parameter adds to every patient's gradient, in forms that cost differently.

A contribution holds what the backward pass left (input a, output gradient g) and can give, for P patients,

    factors     U and V, of which W_p is the product, for norms without W_p (``choice.py``)
    per patient W_p, [P, *parameter shape]; asked of a few patients at a time (``of``)
    weighted    Σ_p c_p W_p, shaped like the parameter, by one ordinary weight gradient
    spread      how large the terms are that the last two sum

[P × parameters] is held only where that is little more than a and g, which it then replaces.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from imgsynth.privacy.engines.convolution import Geometry
from imgsynth.privacy.engines.parallel import for_each
from imgsynth.privacy.engines.patients import Images


class Contribution(ABC):
    """One use of one parameter. ``size`` is the parameter's number of elements, ``images`` the layout of the batch."""

    size: int
    images: Images

    @abstractmethod
    def per_patient(self) -> Tensor:
        """W_p, [P, *shape], in float32 or float64."""

    @abstractmethod
    def of(self, patients: range) -> Contribution:
        """The same of some patients in a row alone."""

    @abstractmethod
    def weighted(self, c_P: Tensor) -> Tensor:
        """Σ_p c_p W_p."""

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """U [P, G, R, T], V [P, G, S, T] with W_p = V Uᵀ in each group, where there are such; T over all images."""
        return None

    def positions(self) -> int:
        """T of ``factors``; 0 where there are none."""
        return 0

    def factor_elements(self) -> int:
        """Elements of ``factors`` for one patient."""
        return 0

    def sides(self) -> tuple[int, int]:
        """R and S of ``factors``."""
        return 0, 0

    @abstractmethod
    def spread(self) -> Tensor:
        """At least Σ_t |U_t||V_t|, [P]: what W_p would be if no term cancelled another.
        Every kind says its own: were one forgotten, rounding could pass the clipping norm unseen."""


class Stored(Contribution):
    """A contribution that is small, or was made small: W_p itself, [P, *shape], in parts over the patients."""

    def __init__(self, images: Images, *parts_P: Tensor):
        self.parts_P, self.images = parts_P, images
        self.size = parts_P[0][0].numel()

    def per_patient(self) -> Tensor:
        return self.parts_P[0] if len(self.parts_P) == 1 else torch.cat(self.parts_P)

    def of(self, patients: range) -> Stored:
        return Stored(self.images.of(patients), self.per_patient()[patients.start : patients.stop])

    def spread(self) -> Tensor:
        return torch.linalg.vector_norm(self.per_patient().flatten(1), dim=1)

    def weighted(self, c_P: Tensor) -> Tensor:
        cuts = c_P.split([len(part) for part in self.parts_P])
        first, *others = (torch.tensordot(c, part, dims=1) for c, part in zip(cuts, self.parts_P, strict=True))
        for other in others:
            first += other
        return first


class Apart(Contribution):
    """Uses of one parameter, W_p made by ``make`` for some patients at a time (``own``), for the norm and once more for
    the sum: so a patient adds the very W_p of which the norm was taken, rounding and all, whatever its terms are."""

    def __init__(self, parts: list[Contribution], own: list[range], make: Callable[[list[Contribution]], Tensor]):
        self.parts, self.own, self.make = parts, own, make
        self.images, self.size = parts[0].images, parts[0].size

    def each(self, take: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """``take(W_p)`` of the patients of each of ``own``."""
        return [take(self.of(patients).per_patient()) for patients in self.own]

    def per_patient(self) -> Tensor:
        return self.make(self.parts)

    def of(self, patients: range) -> Apart:
        return Apart([part.of(patients) for part in self.parts], [range(len(patients))], self.make)

    def spread(self) -> Tensor:
        return torch.linalg.vector_norm(self.per_patient().flatten(1), dim=1)

    def weighted(self, c_P: Tensor) -> Tensor:
        total = torch.zeros(self.size, dtype=c_P.dtype, device=c_P.device)
        for own in self.own:
            w_P = self.of(own).per_patient()
            total += torch.tensordot(c_P[own.start : own.stop], w_P.flatten(1), dims=1)
        return total


class ConvWeight(Contribution):
    """The weight of a convolution, transposed or not."""

    def __init__(self, geometry: Geometry, a_B: Tensor, g_B: Tensor, shape: torch.Size, images: Images):
        self.geometry, self.images = geometry, images
        self.a_B, self.g_B = exact(a_B), exact(g_B)
        self.shape, self.size = shape, shape.numel()

    def of(self, patients: range) -> ConvWeight:
        own = self.images.slice_of(patients)
        return ConvWeight(self.geometry, self.a_B[own], self.g_B[own], self.shape, self.images.of(patients))

    def per_patient(self) -> Tensor:
        return self.by_loop()

    def by_loop(self) -> Tensor:
        """The vendor's kernel for each patient by himself; it sums his images itself."""
        shape_only = self.a_B.new_empty(self.shape)
        out = self.a_B.new_zeros(self.images.patients, *self.shape)

        def one(p: int) -> None:
            own = self.images.slice_of(range(p, p + 1))
            if own.start < own.stop:
                out[p] = self.geometry.weight_gradient(self.g_B[own], self.a_B[own], shape_only)

        for_each(one, self.images.patients, self.a_B.device)
        return out

    def by_groups(self) -> Tensor:
        """One call of the vendor's kernel with the patients as groups; needs equal numbers of images."""
        patients, k = self.images.patients, self.images.uniform
        assert k is not None
        a, g = (_as_groups(t, patients, k) for t in (self.a_B, self.g_B))
        stacked = self.a_B.new_empty(patients * self.shape[0], *self.shape[1:])
        return self.geometry.weight_gradient(g, a, stacked, patients * self.geometry.groups).view(patients, *self.shape)

    def by_columns(self) -> Tensor:
        """Products of unfolded input and output gradient (im2col)."""
        u_BGRT, v_BGST = self.geometry.factors(self.a_B, self.g_B)
        return self.images.sum_by_patient(torch.matmul(v_BGST, u_BGRT.mT).view(-1, *self.shape))

    def weighted(self, c_P: Tensor) -> Tensor:
        a_B, g_B, c_B = self.a_B, self.g_B, c_P[self.images.patient_B].view(-1, *(1 for _ in self.g_B.shape[1:]))
        if a_B.numel() < g_B.numel():  # either will do: the smaller is copied
            a_B = a_B * c_B
        else:
            g_B = g_B * c_B
        return self.geometry.weight_gradient(g_B, a_B, a_B.new_empty(self.shape))

    def factors(self) -> tuple[Tensor, Tensor]:
        u_BGRT, v_BGST = self.geometry.factors(self.a_B, self.g_B)
        return _joined(self.images.by_patient(u_BGRT)), _joined(self.images.by_patient(v_BGST))

    def positions(self) -> int:
        return self.images.most * self.geometry.positions(self.a_B, self.g_B)

    def factor_elements(self) -> int:
        return self.positions() * (self.unfolded_rows() + self.shape[0])

    def unfolded_rows(self) -> int:
        """R of U, of all groups."""
        return self.shape[1:].numel() * self.geometry.groups

    def sides(self) -> tuple[int, int]:
        return self.shape[1:].numel(), self.shape[0]

    def spread(self) -> Tensor:
        """By Cauchy and Schwarz, image by image: a pixel is in as many windows as the kernel has taps."""
        taps = math.prod(self.geometry.kernel) ** 0.5
        return self.images.sum_by_patient(taps * _length(self.a_B) * _length(self.g_B))


class LinearWeight(Contribution):
    """The weight [out, in] of a linear layer on inputs [B, ..., in]."""

    def __init__(self, a_B: Tensor, g_B: Tensor, images: Images):
        self.images = images
        self.a_BTR, self.g_BTS = (exact(t).reshape(len(t), -1, t.shape[-1]) for t in (a_B, g_B))
        self.size = a_B.shape[-1] * g_B.shape[-1]

    def of(self, patients: range) -> LinearWeight:
        own = self.images.slice_of(patients)
        return LinearWeight(self.a_BTR[own], self.g_BTS[own], self.images.of(patients))

    def per_patient(self) -> Tensor:
        u, v = self.factors()
        return torch.bmm(v[:, 0], u[:, 0].mT)

    def weighted(self, c_P: Tensor) -> Tensor:
        g_BTS = self.g_BTS * c_P[self.images.patient_B][:, None, None]
        return g_BTS.flatten(0, 1).mT @ self.a_BTR.flatten(0, 1)

    def factors(self) -> tuple[Tensor, Tensor]:
        u, v = (self.images.by_patient(t).flatten(1, 2).mT[:, None] for t in (self.a_BTR, self.g_BTS))
        return u, v

    def positions(self) -> int:
        return self.images.most * self.a_BTR.shape[1]

    def factor_elements(self) -> int:
        return self.positions() * sum(self.sides())

    def sides(self) -> tuple[int, int]:
        return self.a_BTR.shape[2], self.g_BTS.shape[2]

    def spread(self) -> Tensor:
        """By Cauchy and Schwarz, image by image."""
        return self.images.sum_by_patient(_length(self.a_BTR) * _length(self.g_BTS))


class EmbeddingWeight(Contribution):
    """The table [classes, width] of an embedding; ``index_BT`` are the rows that were read, g [B, T, width]."""

    def __init__(self, index_B: Tensor, g_B: Tensor, shape: torch.Size, padding_idx: int | None, images: Images):
        self.images, self.shape, self.size = images, shape, shape.numel()
        g_BTD = exact(g_B).reshape(len(g_B), -1, shape[1])
        self.index_BT = index_B.reshape(len(index_B), -1)
        if padding_idx is not None:  # that row is never trained
            g_BTD = g_BTD * (self.index_BT != padding_idx % shape[0])[:, :, None]
        self.g_BTD = g_BTD

    def of(self, patients: range) -> EmbeddingWeight:
        own, images = self.images.slice_of(patients), self.images.of(patients)
        return EmbeddingWeight(self.index_BT[own], self.g_BTD[own], self.shape, None, images)

    def per_patient(self) -> Tensor:
        row_BT = self.images.patient_B[:, None] * self.shape[0] + self.index_BT
        out = self.g_BTD.new_zeros(self.images.patients * self.shape[0], self.shape[1])
        return out.index_add_(0, row_BT.flatten(), self.g_BTD.flatten(0, 1)).view(-1, *self.shape)

    def spread(self) -> Tensor:
        return self.images.sum_by_patient(torch.linalg.vector_norm(self.g_BTD, dim=2).sum(1))

    def weighted(self, c_P: Tensor) -> Tensor:
        g_BTD = self.g_BTD * c_P[self.images.patient_B][:, None, None]
        out = self.g_BTD.new_zeros(self.shape)
        return out.index_add_(0, self.index_BT.flatten(), g_BTD.flatten(0, 1))


def exact(t: Tensor) -> Tensor:
    """Half precisions as float32: norms and sums are never taken in less."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def _length(t_B: Tensor) -> Tensor:
    """At least the Euclidean norm of each image's values, [B]: squares below the smallest number count as that."""
    lost = (t_B[0].numel() * torch.finfo(t_B.dtype).tiny) ** 0.5
    return torch.linalg.vector_norm(t_B, dim=tuple(range(1, t_B.ndim))) + lost


def _as_groups(t_B: Tensor, patients: int, k: int) -> Tensor:
    """[p·k, C, *] as [k, p·C, *]."""
    t = t_B.view(patients, k, *t_B.shape[1:]).transpose(0, 1)
    return t.reshape(k, patients * t_B.shape[1], *t_B.shape[2:])


def _joined(t_PkGRT: Tensor) -> Tensor:
    """[P, k, G, R, T] as [P, G, R, k·T]: a patient's images are further positions."""
    if t_PkGRT.shape[1] == 1:
        return t_PkGRT[:, 0]
    return t_PkGRT.permute(0, 2, 3, 1, 4).flatten(3, 4)
