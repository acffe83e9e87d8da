"""Poisson batches of patients: each is in with probability q, independently of the others and of other steps."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from imgsynth.privacy.noise import seed_for
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.types import Fault, InputError


class PoissonPatients:
    """Draws the T batches that ``plan`` accounts for, and no more.

    ``population`` is the number of patients that there are (``plan.n`` when left out; the two differ where n was
    declared), or that this one of several processes has: each tosses for its own, and the union is as if one had
    tossed for all. Coins come from the operating system's entropy, or from ``seed`` in a run that is not releasable.

    Formal guarantee: inclusion probabilities are q rounded down to a multiple of 2⁻⁶³ (never up), independent over
    patients and steps. A batch may be empty; its size is private.
    """

    def __init__(self, plan: PrivacyPlan, seed: int | None = None, *, population: int | None = None):
        assert plan.seeded == (seed is not None), "a seeded sampler belongs to a plan marked as seeded, and vice versa"
        self._steps = plan.steps
        self._population = plan.n if population is None else population
        self._threshold = int(plan.sampling_rate * 2**63)
        self._random = None if seed is None else np.random.Generator(np.random.PCG64(seed_for("sampling", seed)))
        self.drawn = 0

    def draw(self) -> list[int]:
        """Indices of the next batch's patients, ascending. InputError after the plan's last step."""
        if self.drawn >= self._steps:
            raise InputError(
                Fault(
                    where="trainer.steps",
                    got=f"a batch beyond step {self._steps}",
                    expected=f"the {self._steps} steps that this run's ε accounts for",
                    remedy="start a new run (a new output folder) with more steps",
                )
            )
        self.drawn += 1
        return np.flatnonzero(self._coins() < self._threshold).tolist()

    def _coins(self) -> np.ndarray:
        """Uniform integers in [0, 2⁶³), one for each patient."""
        if self._random is not None:
            return self._random.integers(0, 2**63, size=self._population, dtype=np.uint64)
        return np.frombuffer(os.urandom(8 * self._population), dtype=np.uint64) >> np.uint64(1)

    def state_dict(self) -> dict[str, Any]:
        """How many batches were drawn, and the state of a seeded run; of an unseeded one there is nothing to know."""
        return {"drawn": self.drawn, "random": None if self._random is None else self._random.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert (state["random"] is None) == (self._random is None), "a checkpoint of a seeded run for an unseeded one"
        self.drawn = state["drawn"]
        if self._random is not None:
            self._random.bit_generator.state = state["random"]
