"""Per-patient clipping without a second pass: book-keeping on one forward and one backward pass.

The backward pass of the summed loss is written by ourselves for every layer with trainable parameters (``tape.py``,
``layers.py``). It leaves each layer's input and output gradient, from which follow, layer by layer, the norms of all
patients' gradients by the cheapest of several exact methods (``choice.py``), and then the clipped sum, by one ordinary
weight gradient on output gradients scaled by the clip factors. There is no second backward pass, and nothing of size
[patients × parameters] unless it is small. Ghost norms: Goodfellow 2015 (arXiv 1510.01799), Li et al. 2022 (arXiv
2110.05679); book-keeping: Bu et al. 2023 (arXiv 2210.00038); here for convolutions and for patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from imgsynth import console
from imgsynth.privacy.engines.base import (
    Aux,
    Clipped,
    Engine,
    Parameters,
    check_losses,
    clip_factors,
    trainable_parameters,
)
from imgsynth.privacy.engines.choice import norms2
from imgsynth.privacy.engines.contributions import Contribution
from imgsynth.privacy.engines.functional import FunctionalEngine
from imgsynth.privacy.engines.layers import Unsupported
from imgsynth.privacy.engines.loop import LoopEngine
from imgsynth.privacy.engines.patients import Images
from imgsynth.privacy.engines.probe import alike, in_double, probe, surroundings, without_randomness
from imgsynth.privacy.engines.tape import Tape
from imgsynth.types import Fault, InputError, PatientBatch

# Above this, a norm may have lost more than 5e-5 of its value to rounding of terms that cancel, or a sum more than
# 1e-3 of the clipping norm; both are then taken in another way.
_LARGEST_ERROR = 1e-4


@dataclass
class _Known:
    """What was found out about a network with these trainable parameters."""

    names: tuple[str, ...]
    calls: int = 0
    examined: int = 0  # how often it was found to be what we take it for
    obstacle: str | None = None  # why it is left to the functional engine


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


class GhostEngine(Engine):
    """Linear, Conv1d-3d and ConvTranspose1d-3d of any kind, GroupNorm, InstanceNorm, LayerNorm, Embedding, PReLU.

    A network with anything else that is trainable, and a loss with a gradient inside, is left whole to ``functional``,
    which is said once. A network that mixes the images of a batch has no per-patient gradients. So on calls 1, 2, 4, 8,
    … a few images made of one patient's are taken by ``functional`` too, which treats every patient by himself; and
    patients are surrounded by others, with the same random numbers, which must move nothing. A network that fails is
    left to ``functional`` on the first call; on a later one the run ends.
    """

    name = "ghost"

    @staticmethod
    def obstacle(module: nn.Module) -> str | None:
        """Why ``module`` was left to the functional engine in its last call; None where it was not."""
        known = _known.get(module)
        return None if known is None else known.obstacle

    def _sum(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        clipping_norm: float,
        physical_batch: int,
    ) -> Clipped:
        known = _known.get(module)
        if known is None or known.names != tuple(parameters):
            known = _known[module] = _Known(tuple(parameters))
        known.calls += 1
        try:
            if known.obstacle is None:
                if not known.examined or known.calls & (known.calls - 1) == 0:
                    self._examine(module, parameters, batch, aux_PK, clipping_norm, physical_batch, known)
                if known.examined:
                    return self._chunks(module, parameters, batch, aux_PK, clipping_norm, physical_batch)
        except Unsupported as obstacle:
            known.obstacle = str(obstacle)
            console.say(f"privacy.engine=ghost leaves {type(module).__name__} to the functional engine: {obstacle}.")
            self._check_functional(module, parameters, batch, aux_PK, clipping_norm)
        functional = FunctionalEngine(self.precision)
        return functional._sum(module, parameters, batch, aux_PK, clipping_norm, physical_batch)

    def _chunks(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        clipping_norm: float,
        physical_batch: int,
    ) -> Clipped:
        """The sum over parts of the batch of at most ``physical_batch`` patients; the split changes nothing."""
        if len(batch) <= physical_batch:
            return self._clipped(module, parameters, batch, aux_PK, clipping_norm)
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        norms, losses = [], []
        for start in range(0, len(batch), physical_batch):
            own = slice(start, start + physical_batch)
            part = PatientBatch(batch.x_PKC[own], batch.y_PK[own], batch.w_PK[own])
            found = self._clipped(module, parameters, part, tuple(a[own] for a in aux_PK), clipping_norm)
            for name, total in found.sums.items():
                sums[name] += total
            norms.append(found.norms_P)
            losses.append(found.loss_P)
        return Clipped(sums, torch.cat(norms), torch.cat(losses))

    def _clipped(
        self, module: nn.Module, parameters: Parameters, batch: PatientBatch, aux_PK: Aux, clipping_norm: float
    ) -> Clipped:
        """One pass. A patient whose norm is not finite is left out and the pass repeated, as 0·NaN is not 0."""
        record = self._record(module, parameters, batch, aux_PK, clipping_norm)
        norms_P, loss_P = record.norms2_P.sqrt(), record.loss_P
        finite_P = norms_P.isfinite()
        if not finite_P.all():
            sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
            if finite_P.any():
                rest = PatientBatch(batch.x_PKC[finite_P], batch.y_PK[finite_P], batch.w_PK[finite_P])
                found = self._clipped(module, parameters, rest, tuple(a[finite_P] for a in aux_PK), clipping_norm)
                sums, norms_P[finite_P], loss_P[finite_P] = found.sums, found.norms_P, found.loss_P
            return Clipped(sums, norms_P, loss_P)
        factors_P = clip_factors(norms_P, clipping_norm)
        sums = {name: torch.zeros_like(p) for name, p in parameters.items() if name not in record.kept}
        with _full_precision():
            while record.kept:  # each freed as soon as it is summed
                name, (first, *others) = record.kept.popitem()
                c_P = factors_P.to(parameters[name].dtype)
                total = first.weighted(c_P)
                for part in others:
                    total += part.weighted(c_P)
                sums[name] = total.view(parameters[name].shape)
        return Clipped(sums, norms_P, loss_P)

    def _record(
        self, module: nn.Module, parameters: Parameters, batch: PatientBatch, aux_PK: Aux, clipping_norm: float
    ) -> _Record:
        """Forward, backward and norms; once more with each patient's gradient made by itself where rounding could be
        felt in what is made of all patients' at once, or its size is not known."""
        record = self._pass(module, parameters, batch, aux_PK, exact_only=False)
        limit_P = _LARGEST_ERROR * record.norms2_P.clamp(min=clipping_norm**2)
        if not (record.terms_P * torch.finfo(record.terms_P.dtype).eps <= limit_P).all():
            record = self._pass(module, parameters, batch, aux_PK, exact_only=True)
        return record

    def _pass(
        self, module: nn.Module, parameters: Parameters, batch: PatientBatch, aux_PK: Aux, exact_only: bool
    ) -> _Record:
        images, zeros_P = Images(batch.w_PK), next(iter(parameters.values())).new_zeros(len(batch))
        record = _Record(zeros_P, zeros_P, zeros_P, exact_only)
        if not len(images):
            return record
        tape = Tape(parameters, images, record.add)
        x_BC, y_B, *aux_B = images.take(batch, aux_PK)
        with _unsupported(), tape:
            loss_B = self.losses(module, x_BC, y_B, *aux_B)
        check_losses(loss_B, len(images))
        weighted_B = images.w_B * loss_B
        stray = tape.stray_parameters(weighted_B)
        if stray:
            raise Unsupported(f"{', '.join(stray)} used in a way that cannot be watched")
        with _unsupported():
            tape.backward(weighted_B.sum())
        record.loss_P = images.sum_by_patient(weighted_B.detach())
        return record

    def _examine(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        clipping_norm: float,
        physical_batch: int,
        known: _Known,
    ) -> None:
        """Unsupported where the network is not what we take it for; InputError where it was so in earlier calls.

        Where the batch allows no verdict (no finite patient, no gradient) nothing is counted as examined, and a network
        that was never examined is taken by ``functional``.
        """
        made = probe(batch, aux_PK)
        if made is None:
            return
        first = known.examined == 0
        patients = min(8, physical_batch, max(4, len(batch) // 4))  # more would need more memory than a step
        seeds = [*range(3)] if first else [known.calls]
        label = int(batch.y_PK.max())

        def check(module: nn.Module, parameters: Parameters, batch: PatientBatch, aux: Aux) -> tuple[str | None, bool]:
            reason, telling = self._compare(module, parameters, batch, aux, clipping_norm)
            if reason is None and physical_batch > 1:
                tries = (self._coupling(module, parameters, batch, aux, label, patients, seed) for seed in seeds)
                reason = next((found for found in tries if found is not None), None)
            return reason, telling

        reason, telling = check(module, parameters, *made)
        if reason is not None:
            # Where a sum lies at the kink of a ReLU or |.|, rounding can send two orders of summation to different
            # sides. What is wrong is wrong in double precision too; what rounding did is not there.
            twin = in_double(module, *made)
            with suppress(Unsupported, InputError, RuntimeError):  # a network that cannot compute in double precision
                if twin is not None:
                    again = check(twin[0], trainable_parameters(twin[0]), *twin[1:])
                    reason, telling = again if again[0] is None else (reason, telling)
        if reason is None:
            known.examined += telling
        elif first:
            raise Unsupported(reason)
        else:
            raise InputError(
                Fault(
                    where=f"private network {type(module).__name__}, call {known.calls} of privacy.engine=ghost",
                    got=f"{reason}, though earlier calls found nothing",
                    expected="gradients that do not depend on which other patients are in the batch",
                    remedy="privacy.engine=functional in a new run; do not release what this run made",
                )
            )

    def _compare(
        self, module: nn.Module, parameters: Parameters, batch: PatientBatch, aux_PK: Aux, clipping_norm: float
    ) -> tuple[str | None, bool]:
        """Whether ``functional``, which takes every patient by himself, finds the same: what is wrong, or None; and
        whether there was a gradient to compare."""
        with without_randomness(module, batch, aux_PK):
            got = self._clipped(module, parameters, batch, aux_PK, clipping_norm)
            functional = FunctionalEngine(self.precision)  # one patient at a time: less memory
            expected = functional._sum(module, parameters, batch, aux_PK, clipping_norm, 1)
        telling = bool((expected.norms_P > 0).all() and expected.norms_P.isfinite().all())
        if alike(got, expected, clipping_norm, self._tolerance):
            return None, telling
        return "its images do not have gradients independent of each other, or we take a layer wrongly", telling

    def _check_functional(
        self, module: nn.Module, parameters: Parameters, batch: PatientBatch, aux_PK: Aux, clipping_norm: float
    ) -> None:
        """InputError where ``functional``, to which the network is about to be left, misses a part of the gradient.

        torch.func replaces the attributes of modules, and not what a network keeps of a parameter elsewhere. Single
        images, as ``loop`` takes them.
        """
        made = probe(batch, aux_PK)
        if made is None:
            return
        single = PatientBatch(made[0].x_PKC[:, :1], made[0].y_PK[:, :1], torch.ones_like(made[0].w_PK[:, :1]))
        arguments = (module, parameters, single, tuple(a[:, :1] for a in made[1]), clipping_norm, 1)
        with without_randomness(module, *arguments[2:4]):
            found, plainly = (e(self.precision)._sum(*arguments) for e in (FunctionalEngine, LoopEngine))
        if not alike(found, plainly, clipping_norm, self._tolerance):
            raise InputError(
                Fault(
                    where=f"private network {type(module).__name__}",
                    got="other gradients by torch.func than by ordinary differentiation",
                    expected="parameters that are used only as attributes of their modules, not through lists or views",
                    remedy="use self.layer.weight where it is needed, or privacy.engine=loop",
                )
            )

    @property
    def _tolerance(self) -> float:
        """Relative, when engines are compared."""
        return 1e-3 if self.precision == "float32" else 0.1

    def _coupling(
        self,
        module: nn.Module,
        parameters: Parameters,
        batch: PatientBatch,
        aux_PK: Aux,
        label: int,
        patients: int,
        seed: int,
    ) -> str | None:
        """Whether a patient's gradient moves when others in the batch are replaced, random numbers being the same."""
        records = []
        made_twice, kept = surroundings(batch, aux_PK, label, patients, seed)
        for made, aux in made_twice:
            with torch.random.fork_rng([batch.x_PKC.device] if batch.x_PKC.is_cuda else []):
                torch.manual_seed(seed)
                records.append(self._pass(module, parameters, made, aux, exact_only=True))
        tolerance = 1e-4 if self.precision == "float32" else 0.05
        for p in kept:
            one, other = (_gradient_of(record, p) for record in records)
            length = torch.stack([g.norm() for g in one]).norm()
            moved = torch.stack([(a - b).norm() for a, b in zip(one, other, strict=True)]).norm()
            if length.isfinite() and not moved <= tolerance * length:  # diverged: nothing to be said
                return "its images do not have gradients independent of each other"
        return None


@dataclass
class _Record:
    """What one pass leaves behind."""

    norms2_P: Tensor
    terms_P: Tensor  # as in ``Norms``, of all parameters
    loss_P: Tensor
    exact_only: bool
    kept: dict[str, list[Contribution]] = field(default_factory=dict)

    def add(self, name: str, parts: list[Contribution]) -> None:
        with _full_precision():
            found = norms2(parts, self.exact_only)
        self.norms2_P = self.norms2_P + found.norms2_P
        if found.terms_P is not None:
            self.terms_P = self.terms_P + found.terms_P
        self.kept[name] = found.kept


def _gradient_of(record: _Record, p: int) -> list[Tensor]:
    """Patient p's own gradient, parameter by parameter."""
    found = []
    for name in sorted(record.kept):
        first, *others = (part.of(range(p, p + 1)).per_patient()[0] for part in record.kept[name])
        found.append(sum((g.view_as(first) for g in others), first))
    return found


@contextmanager
def _unsupported() -> Iterator[None]:
    """A RuntimeError of torch (a tensor changed in place, a function that cannot be watched) as an obstacle.

    Were it the network's own fault, the functional engine will raise it again.
    """
    try:
        yield
    except RuntimeError as error:
        if "memory" in str(error) and "alloc" in str(error):
            raise
        said = str(error).strip().split("\n")[0]
        within = "with functorch transforms" in said  # torch.func, within the loss, on what we watch
        raise Unsupported("a gradient taken within the loss" if within else said) from error


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32, nor bf16 in float32's place: with so few bits a clipped gradient could be longer than the clipping norm
    by a thousandth or more."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
