"""Teachers that see patients and are never released: who belongs to which, how they learn, what they say.

All teachers are kept as one stack, their weights along a first axis; every operation treats each teacher by itself.
What one teacher's weights are follows from its own patients, from generated images that all of them are shown, and from
random numbers of which as many are drawn whoever the patients are.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from imgsynth.cohort.dataset import PatientDataset
from imgsynth.models.base import Votes
from imgsynth.privacy.noise import seed_for
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.votes import teacher_of
from imgsynth.training.checkpoint import load_checkpoint, save_checkpoint
from imgsynth.training.disk import writing
from imgsynth.training.feed import Patients
from imgsynth.training.state import TrainingState
from imgsynth.types import Fault, InputError

PER_TEACHER, AT_MOST = 20, 200


def how_many(votes: Votes, n: int) -> int:
    """Teachers for a cohort of ``n`` patients, a declared, public number."""
    return min(AT_MOST, max(2, n // PER_TEACHER)) if votes.teachers is None else votes.teachers


class Teachers:
    """``count`` teachers of the patients ``rows`` of ``patients``, of which row r has the id ``ids[r]``.

    A teacher without patients keeps its first weights. ``seed`` makes who belongs to whom and all that is drawn
    repeatable; None takes the system's entropy. Neither is what privacy rests on, which is the noise alone: the bound
    on what one patient changes holds for every outcome of these draws.
    """

    def __init__(
        self, votes: Votes, count: int, patients: Patients, ids: Sequence[str], rows: Sequence[int],
        device: torch.device, seed: int | None,
    ):  # fmt: skip
        self._votes, self._count, self._patients = votes, count, patients
        self._ids, self._rows = ids, rows
        self._seeded = seed is not None
        start = secrets.randbits(63) if seed is None else seed_for("teachers", seed) % 2**63
        self._random = torch.Generator().manual_seed(start)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(start)
            networks = [votes.teacher().to(device) for _ in range(count)]
        self._one = networks[0]
        self._weights, buffers = stack_module_state(networks)
        assert not buffers, "a teacher has weights and nothing else"
        self._optimizer = torch.optim.Adam(self._weights.values(), votes.learning_rate)
        self._deal(secrets.token_bytes(16) if seed is None else start.to_bytes(16, "big"))

    def _deal(self, key: bytes) -> None:
        """Give every patient its teacher."""
        self._key = key
        own: list[list[int]] = [[] for _ in range(self._count)]
        for row in self._rows:
            own[teacher_of(self._ids[row], key, self._count)].append(row)
        self.rows_K = [np.array(rows, dtype=np.int64) for rows in own]

    @classmethod
    def of(
        cls, state: TrainingState, plan: PrivacyPlan, dataset: PatientDataset, rows: Sequence[int], seed: int | None
    ) -> Teachers:
        """Teachers as ``plan`` has them, of the patients ``rows`` of ``dataset``."""
        assert state.private.votes is not None and plan.teachers is not None
        ids = [dataset.patient(row) for row in range(len(dataset))]
        return cls(state.private.votes, plan.teachers, dataset, ids, rows, state.random.device, seed)

    @property
    def without_patients(self) -> int:
        """How many teachers nobody belongs to. Private."""
        return sum(len(rows) == 0 for rows in self.rows_K)

    def learn(self, x_FC: Tensor, y_F: Tensor) -> None:
        """One step of every teacher: on a batch of its own patients, and on the generated images ``x_FC`` [F, …]."""
        x_KBC, y_KB, w_KB = self._own_batches(x_FC.device)

        def loss(weights: dict[str, Tensor], x_BC: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
            real_B = functional_call(self._one, weights, (x_BC, y_B, torch.ones_like(w_B)))
            fake_F = functional_call(self._one, weights, (x_FC, y_F, torch.zeros_like(x_FC[:, 0].flatten(1)[:, 0])))
            return (w_B * real_B).sum() / self._votes.batch + fake_F.mean()

        loss_K = vmap(loss)(self._weights, x_KBC, y_KB, w_KB)
        has_K = torch.tensor([len(rows) > 0 for rows in self.rows_K], device=loss_K.device)
        gradients = torch.autograd.grad(loss_K.sum(), list(self._weights.values()))
        for weight, gradient in zip(self._weights.values(), gradients, strict=True):
            weight.grad = gradient * has_K.view(-1, *[1] * (gradient.dim() - 1))
        self._optimizer.step()

    @torch.no_grad()
    def vote(self, x_MC: Tensor, y_M: Tensor) -> Tensor:
        """[K, M] bool: what every teacher says of the images [M, …]."""

        def logits(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(_Logits(self._one), {f"network.{k}": w for k, w in weights.items()}, (x_MC, y_M))

        return self._votes.choose(vmap(logits)(self._weights))

    def _own_batches(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """x [K, B, …], y and w [K, B] of each teacher's ``batch`` patients, drawn with replacement from its own.

        As many numbers are drawn for a teacher without patients, who gets empty images of no weight.
        """
        batch = self._votes.batch
        uniform_KB = torch.rand(self._count, batch, generator=self._random, dtype=torch.float64).numpy()
        rows = [own[(u_B * len(own)).astype(np.int64)] for own, u_B in zip(self.rows_K, uniform_KB, strict=True)
                if len(own)]  # fmt: skip
        drawn = self._patients.batch(np.concatenate(rows).tolist() if rows else [])
        images = drawn.w_PK.shape[1]
        shape = self._count, batch * images
        has_K = torch.tensor([len(own) > 0 for own in self.rows_K])
        x_KBC = torch.zeros(*shape, *drawn.x_PKC.shape[2:])
        y_KB, w_KB = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
        x_KBC[has_K] = drawn.x_PKC.reshape(-1, *x_KBC.shape[1:])
        y_KB[has_K], w_KB[has_K] = drawn.y_PK.reshape(-1, shape[1]), drawn.w_PK.reshape(-1, shape[1])
        return x_KBC.to(device), y_KB.to(device), w_KB.to(device)

    def save(self, folder: Path, step: int) -> None:
        """Keep the teachers as they are at ``step``, before the checkpoint of that step is published.

        They belong to that checkpoint and to no other: teachers that had gone on, on images of steps that were lost,
        would carry a release that nobody accounted for into the next vote. A killed run leaves the file of its last
        checkpoint, and perhaps one of a step that is going to be taken again, which then writes it anew.
        """
        content = {
            "step": step,
            "key": self._key.hex(),
            "weights": {name: weight.detach() for name, weight in self._weights.items()},
            "optimizer": self._optimizer.state_dict(),
            "random": self._random.get_state() if self._seeded else None,
        }
        with writing(folder):
            save_checkpoint(_file(folder, step), content)

    def restore(self, folder: Path, step: int) -> None:
        """The teachers of ``step``. Raises InputError where they are gone."""
        path = _file(folder, step)
        if not path.is_file():
            raise InputError(
                Fault(str(path), "no such file", f"the teachers of the checkpoint of step {step}, which made its votes",
                      "restore local/, or train into a new output=DIR (a new entry in the ledger)")
            )  # fmt: skip
        content = load_checkpoint(path)
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(content["weights"][name])
        self._optimizer.load_state_dict(content["optimizer"])
        self._deal(bytes.fromhex(content["key"]))
        if self._seeded:
            self._random.set_state(content["random"])

    def forget(self, folder: Path, but: int | None = None) -> None:
        """Remove the teachers' files, but for those of step ``but``."""
        with writing(folder):
            for path in folder.glob("teachers-*.pt"):
                if but is None or path != _file(folder, but):
                    path.unlink()


class _Logits(torch.nn.Module):
    """A teacher's ``logits`` as a forward pass, which ``functional_call`` needs."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network: Any = network

    def forward(self, x_MC: Tensor, y_M: Tensor) -> Tensor:
        logits: Tensor = self.network.logits(x_MC, y_M)
        return logits


def _file(folder: Path, step: int) -> Path:
    return folder / f"teachers-{step:06d}.pt"
