"""Several processes for one run, started by torchrun: torch.distributed, gloo on CPUs, NCCL on CUDA devices.

Two channels. Over gloo, always, goes what is small: is everybody well, what went wrong, configuration and random
states. Before anything large is exchanged, all ranks say whether they are well, so that nobody waits there for a rank
that has failed. Gradients go over NCCL where ranks have CUDA devices, else over gloo as well.

A rank that dies without a word (killed, out of memory) closes its connection, or is missed after
``trainer.rank_timeout``: the others then end too, and the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from imgsynth import console
from imgsynth.privacy.ranks import Sums, Units
from imgsynth.schema import TrainerConfig
from imgsynth.training.device import choose_device
from imgsynth.training.team import SOLO, RankFailed, Team
from imgsynth.types import CheckFailed, Fault, ImgsynthError, InputError, PatientBatch

T = TypeVar("T")

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
GO_ON = "run the same command again, on as many ranks as you like: it goes on from the last checkpoint"
WORD = "imgsynth/has the word"


class Torchrun(Team):
    """The ranks of one torchrun, after ``joined``.

    Sums are added in double precision. A single-precision sum over ranks would depend on the order of addition and
    could pass the clipping bound by its rounding; in double, W single-precision shares add up exactly for all purposes,
    and the noised total, which lies on a grid of 2⁻²⁰ of the noise, is broadcast as it is.
    """

    def __init__(self, rank: int, size: int, local_rank: int, store: dist.Store):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store = store
        self._gradients: dist.ProcessGroup | None = None  # None: the default group, gloo
        self._over = False  # an error has been agreed on; nothing is exchanged any more

    def device(self, trainer: TrainerConfig) -> torch.device:
        device = choose_device(trainer, self.local_rank)
        kinds = self.gather(device.type)
        if len(set(kinds)) > 1:
            raise InputError(
                Fault("trainer.device", ", ".join(f"{kind} on rank {r}" for r, kind in enumerate(kinds)),
                      "one kind of device on all ranks", "trainer.device=cpu, or a CUDA device for every rank")
            )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.set_device(device)
            with _connected():
                self._gradients = dist.new_group(backend="nccl", timeout=timedelta(seconds=trainer.rank_timeout))
        return device

    def combine(self, groups: Sequence[Sums], finish: Callable[..., Sums]) -> Sums:
        named = [(at, name) for at, group in enumerate(groups) for name in sorted(group)]  # the same on all ranks
        tensors = [groups[at][name] for at, name in named]
        flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
        self._agree()
        with _connected():
            dist.all_reduce(flat, group=self._gradients)
        totals = dict(zip(named, _like(flat, tensors), strict=True))
        added = [{name: totals[at, name] for name in group} for at, group in enumerate(groups)]
        finished = finish(*added) if self.first else added[0]
        names = sorted(groups[0])
        return dict(zip(names, self.same([finished[name] for name in names]), strict=True))

    def share(self, units: Units) -> Units:
        batch, aux = units
        mine, images = slice(self.rank, None, self.size), batch.w_PK.shape[1]
        own = PatientBatch(batch.x_PKC[mine], batch.y_PK[mine], batch.w_PK[mine])
        return own, tuple(a.unflatten(0, (-1, images))[mine].flatten(0, 1) for a in aux)

    def tell(self, make: Callable[[], T]) -> T:
        made = [make()] if self.first else [None]
        self._agree()
        with _connected():
            dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        self._agree()
        return self._gathered(value)

    def same(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._agree()
        with _connected():
            dist.broadcast(flat, src=0, group=self._gradients)
        return _like(flat, tensors)

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._over or isinstance(error, RankFailed):
                raise
            agreed = self._agree(error)
            if isinstance(error, ImgsynthError):
                raise agreed from None
            raise

    def has_the_word(self) -> bool:
        """Whether this rank says what went wrong: the first one where all know it, else the first that asks."""
        if self._over:
            if not self.first:
                time.sleep(0.5)  # for the first one to say it, before torchrun ends everybody because one has ended
            return self.first
        try:
            return self._store.add(WORD, 1) == 1
        except RuntimeError:  # the store lived in a rank that is gone
            return True

    def _agree(self, error: Exception | None = None) -> ImgsynthError:
        """Find out whether all ranks are well, and raise the others' error if this one is. Returns the common error."""
        ill = torch.tensor([error is not None], dtype=torch.int)
        try:
            with _connected():
                dist.all_reduce(ill)
        except RankFailed as lost:
            if isinstance(error, ImgsynthError):
                return error
            raise lost from error
        if not ill.item():
            return _united([])
        self._over = True
        common = _united([e for r, e in enumerate(self._gathered(_plain(error, self.rank))) if e is not None])
        if error is None:
            raise common
        return common

    def _gathered(self, value: T) -> list[T]:
        values: list[T | None] = [None] * self.size
        with _connected():
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that torchrun, or something like it, has started."""
    return environment.get("WORLD_SIZE", "1") not in ("", "1") and "RANK" in environment


@contextmanager
def joined(trainer: TrainerConfig) -> Iterator[Team]:
    """This process among those that torchrun started; alone where it was started by hand. Raises InputError."""
    if not launched():
        yield SOLO
        return
    team = _join(trainer)
    with _told_to_stop(), team.together():
        yield team
    # Only now: after an error NCCL could wait for the dead, and the connections end with the process anyway.
    dist.destroy_process_group()
    _Joined.team = None


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGTERM, which torchrun sends to all when one rank has ended, and a cluster to a job whose time is up, ends this
    rank with a word on what to do. Once, so that it can be said: after an error further ones are ignored."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RankFailed(Fault("torchrun", "the signal to stop", "all ranks until the end", GO_ON))

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)


class _Joined:
    team: Torchrun | None = None  # this process' own, for whoever reports its errors


def has_the_word() -> bool:
    """Whether this process is to report what ended it; exactly one of a torchrun's is."""
    if not launched():
        return True
    if _Joined.team is not None:
        return _Joined.team.has_the_word()
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=20)))
        return store.add(WORD, 1) == 1
    except (RuntimeError, ValueError):
        return True


def refuse_several(verb: str) -> None:
    """Raises InputError where several processes were started for a verb that is done by one."""
    if launched():
        raise InputError(
            Fault("torchrun", f"{os.environ['WORLD_SIZE']} processes for imgsynth {verb}", "one process",
                  f"torchrun for train alone; then imgsynth {verb} output=DIR without it")
        )  # fmt: skip


def _join(trainer: TrainerConfig) -> Torchrun:
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        raise InputError(
            Fault("environment", f"WORLD_SIZE and RANK without {', '.join(missing)}", "what torchrun sets",
                  "torchrun --nproc_per_node N scripts/train.py …, or unset WORLD_SIZE and RANK for one process")
        )  # fmt: skip
    patience = timedelta(seconds=trainer.rank_timeout)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=patience))
        dist.init_process_group("gloo", store=dist.PrefixStore("gloo", store), rank=rank, world_size=size,
                                timeout=patience)  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise RankFailed(_lost(f"no connection ({_line(error)})")) from error
    if rank > 0:
        console.out.quiet = console.err.quiet = True
    team = Torchrun(rank, size, int(os.environ["LOCAL_RANK"]), store)
    _Joined.team = team
    with _connected():  # a rank with little to do could end, and close its connections, before others have made theirs
        dist.barrier()
    return team


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own errors are RuntimeErrors, and gloo's are nothing else
        raise RankFailed(_lost(_reason(error))) from error


def _lost(got: str) -> Fault:
    return Fault("torchrun", f"a rank that does not answer: {got}", "all ranks until the end", GO_ON)


def _reason(error: Exception) -> str:
    """What gloo or NCCL says, without their source files and guesses."""
    return re.sub(r"^\[\S+\] ", "", _line(error)).split(". ")[0]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _plain(error: Exception | None, rank: int) -> ImgsynthError | None:
    """What is told of an error: faults as they are, of anything else its first line."""
    if error is None or type(error) in (InputError, CheckFailed, RankFailed):
        return error  # type: ignore[return-value]
    fault = Fault(f"rank {rank}", f"{type(error).__name__}: {_line(error)}", "a rank without errors", GO_ON)
    return RankFailed(fault)


def _united(errors: list[ImgsynthError]) -> ImgsynthError:
    """One error with the faults of all that are of its kind, each once."""
    kind = next((k for k in (CheckFailed, InputError) if any(type(e) is k for e in errors)), RankFailed)
    return kind(*dict.fromkeys(fault for e in errors if type(e) is kind for fault in e.faults))
