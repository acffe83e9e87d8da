"""One batch ahead: the same batches in the same order, and nothing drawn that is not taken where a state is stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.schema import Config
from imgsynth.training import loop
from imgsynth.training.feed import Feed
from imgsynth.types import Fault, Grid, InputError, PatientBatch

CPU = torch.device("cpu")
PLAN = PrivacyPlan(
    mode="dp", unit="patient", n=30, sampling_rate=0.3, steps=40, clipping_norm=1.0, noise_multiplier=1.0,
    images_per_patient=2, delta=1e-3, seeded=True,
)  # fmt: skip


class Numbered:
    """A dataset of 30 patients with two images each, every pixel of which is the patient's number."""

    grid = Grid((8, 8), (1.0, 1.0), "RAS", "DX", "a.u.", 0, 1)

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.hold = threading.Event()
        self.hold.set()

    def rows(self, patients: int) -> int:
        return 2 * patients

    def batch(self, indices: list[int], buffer: torch.Tensor) -> PatientBatch:
        self.threads.append(threading.current_thread().name)
        self.hold.wait(20)
        if 29 in indices and len(indices) > 14:
            raise InputError(Fault("image 29", "nothing", "an image", "put it back"))
        x = buffer[: 2 * len(indices)].view(len(indices), 2, 1, 8, 8)
        x.copy_(torch.tensor(indices).view(-1, 1, 1, 1, 1).expand(x.shape))
        return PatientBatch(x, torch.zeros(len(indices), 2), torch.zeros(len(indices), 2))


def drawn(batch: PatientBatch) -> list[int]:
    return [int(x) for x in batch.x_PKC[:, 0, 0, 0, 0]]


def test_batches_that_were_made_ahead_are_those_that_are_made_when_wanted() -> None:
    ahead, behind = PoissonPatients(PLAN, 3), PoissonPatients(PLAN, 3)
    data = Numbered()
    feed = Feed(data, ahead, CPU)
    for step in range(1, PLAN.steps + 1):
        batch = feed.take()
        if step % 7 and step < PLAN.steps:
            feed.prepare()
            feed._prepared.result()  # made, and this batch is still what it was
        else:
            assert ahead.drawn == step  # as a checkpoint would have it
        assert drawn(batch) == behind.draw()
    assert {name.split("_")[0] for name in data.threads} == {"imgsynth-feed", "MainThread"}
    with pytest.raises(InputError, match="beyond step 40"):
        feed.take()
    feed.close()


def test_the_next_batch_is_made_while_this_one_is_worked_on() -> None:
    data = Numbered()
    feed = Feed(data, PoissonPatients(PLAN, 3), CPU)
    feed.take()
    data.hold.clear()
    feed.prepare()  # returns, although the batch cannot be made yet
    began = time.perf_counter()
    waiting = threading.Timer(1.5, data.hold.set)
    waiting.start()
    feed.take()
    assert data.hold.is_set()  # not before it was made
    first = feed.waited
    assert 0.5 < first <= time.perf_counter() - began
    feed.prepare()
    while not feed._prepared.done():
        pass
    feed.take()
    assert feed.waited < first
    feed.close()


def test_what_went_wrong_ahead_is_raised_when_the_batch_is_taken() -> None:
    sampler = PoissonPatients(PLAN, 3)
    sampler.draw = lambda: list(range(10, 30))
    feed = Feed(Numbered(), sampler, CPU)
    feed.prepare()
    with pytest.raises(InputError, match="image 29"):
        feed.take()
    feed.close()


def test_buffers_are_used_again() -> None:
    sampler = PoissonPatients(PLAN, 3)
    sampler.draw = lambda: [1, 2, 3]
    feed = Feed(Numbered(), sampler, CPU)
    places = [feed.take().x_PKC.data_ptr() for _ in range(6)]
    assert places[:2] * 3 == places and places[0] != places[1]
    feed.close()


def test_a_run_takes_what_it_draws(
    configure: Callable[..., Config], train_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch is drawn that is not stepped, and the drawn ones are stepped in their order, on their patients."""
    sizes: list[int] = []
    stepped: list[int] = []
    coins, update = PoissonPatients.draw, loop.private_update

    def draw(self: PoissonPatients) -> list[int]:
        sizes.append(len(patients := coins(self)))
        return patients

    def step(state: Any, plan: Any, batch: PatientBatch) -> Any:
        stepped.append(len(batch))
        assert state.sampler.drawn - state.step == (0 if state.step in (4, 6, 8, 9) else 1)
        return update(state, plan, batch)

    monkeypatch.setattr(PoissonPatients, "draw", draw)
    monkeypatch.setattr(loop, "private_update", step)
    train_run(configure("vae"))
    assert len(stepped) == 9 and stepped == sizes
    assert np.std(sizes) > 0
