"""The twin of a run: trained by the run's own code on its patients and on canaries, and never written anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from imgsynth.audit.canaries.kinds import BurnedIn, Canaries, Dirac, RandomSign, SideDirac, WeightDirac
from imgsynth.audit.canaries.mechanism import Mechanism
from imgsynth.audit.canaries.pseudo import WithCanaries, canary_patients
from imgsynth.audit.canaries.readings import InputReadings, Tensors, evidence, read_dirac
from imgsynth.audit.canaries.text import Strings
from imgsynth.audit.canaries.watch import Watched, watched_fakes
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.models.base import GenerativeModel, Objective, Private, queries_of, the_private
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.release.generate import fresh_generator, images_of
from imgsynth.schema import TrainerConfig
from imgsynth.training.feed import Feed
from imgsynth.training.progress import training_bar
from imgsynth.training.queries import ask
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update, warm_up
from imgsynth.types import PatientBatch


class Audited(GenerativeModel):
    """``model`` with canaries in its private network; all else is the model's own.

    What it asks of the cohort before training, it asks of the patients without canaries. What it would ask after
    training is left out where canaries are read from gradients; where they are ``strings``, generated images are read,
    which a later answer may shape, and it is asked of patients and canaries.
    """

    def __init__(
        self, model: GenerativeModel, kind: str, canaries: int, plan: PrivacyPlan, random: np.random.Generator,
        strings: Strings | None = None,
    ):  # fmt: skip
        super().__init__()
        self.shape, self.classes, self.model = model.shape, model.classes, model
        self.structures = model.structures
        objectives = model.objectives()
        self.private = the_private(objectives)
        later = [] if strings is not None else queries_of(objectives, "after")
        self.beside = [o for o in objectives if o not in (self.private, *later)]
        self.canaries = _made(kind, self.private, self.classes, canaries, plan.clipping_norm, random, strings)

    def objectives(self) -> Sequence[Objective]:
        private = self.private
        return [replace(private, module=self.canaries), *self.beside]

    @property
    def generator(self) -> torch.nn.Module:
        return self.model.generator

    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self.model.sample(y_B, random)


def _made(
    kind: str, private: Private, classes: int, canaries: int, clipping_norm: float, random: np.random.Generator,
    strings: Strings | None,
) -> Canaries:  # fmt: skip
    if strings is not None:
        return BurnedIn(private, classes, strings)
    if kind == "side":
        return SideDirac(private, classes, canaries, clipping_norm)
    if kind == "weights":
        return WeightDirac(private, classes, canaries, clipping_norm, random)
    assert kind == "input", kind
    return RandomSign(private, classes, canaries)


def beside_empty_masks(image_MC: Tensor, structures: int) -> Tensor:
    """[M, 1 + structures, *shape] of canaries' images [M, 1, *shape]: what is in them is in no structure."""
    return torch.cat([image_MC, *[torch.full_like(image_MC, -1.0)] * structures], dim=1)


def noiseless(plan: PrivacyPlan) -> PrivacyPlan:
    """``plan`` with σ = 0, in its queries as well."""
    queries = tuple(replace(query, noise_multiplier=0.0) for query in plan.queries)
    return replace(plan, noise_multiplier=0.0, queries=queries)


class Twin:
    """One twin, ready to be trained under ``plan``; its scores are all that it gives.

    ``coins_M`` says which canaries may be drawn. ``plan`` is the run's, perhaps with fewer steps or without noise; it
    is seeded where ``seed`` is given, which is for tests. A ``silent`` twin is trained without noise and read as if it
    had the plan's. ``strings`` are the M words of string canaries (kind "text"), which are looked for in ``samples``
    images; these are dropped then. They are made as a release's are, by a twin that was trained to the end of the run:
    with its ``trainer.steps_after`` and what the model asks after training.
    """

    def __init__(
        self, model: GenerativeModel, kind: str, coins_M: np.ndarray, plan: PrivacyPlan, trainer: TrainerConfig,
        patients: PatientDataset, device: torch.device, seed: int | None = None,
        silent: bool = False, strings: Strings | None = None, samples: int = 0,
    ):  # fmt: skip
        assert (strings is not None) == (kind == "text"), kind
        self.plan, self._strings, self._samples = plan, strings, samples
        self._trained = noiseless(plan) if silent else plan
        self._before = trainer.steps_before
        self._after = 0 if strings is None else trainer.steps_after
        random = np.random.default_rng(seed)
        audited = Audited(model, kind, len(coins_M), plan, random, strings)
        self.canaries = audited.canaries
        image_MC = beside_empty_masks(self.canaries.images(audited.shape, random), audited.structures)
        self._patients = patients
        included = np.flatnonzero(coins_M).tolist()
        self._data = WithCanaries(patients, audited.classes, included, image_MC)
        self._asked_later = WithCanaries(patients, audited.classes, included, image_MC, marked=False)
        self.state = TrainingState(audited, self._trained, trainer, patients=len(self._data), seed=seed, device=device)
        twice = self.canaries.reads_network
        self._watched = self.state.engine = Watched(self.state.engine, audited.classes, len(coins_M), twice)
        if twice:
            self._watch_fakes(self._watched)
        self._scores_M = np.zeros(len(coins_M))
        self.mechanism = Mechanism(plan, coins_M)
        if isinstance(self.canaries, RandomSign):
            self._input = InputReadings(self.canaries, image_MC, plan.physical_batch)

    def scores(self) -> np.ndarray:
        """Train to the end; [M] the evidence that each canary was among those drawn, be it read off the gradients or,
        of strings, in how many generated images. Raises what training raises."""
        state, plan = self.state, self.plan
        ask(state, self._trained, self._patients, range(len(self._patients)), "before")
        warm_up(state, plan, self._before)
        feed, steps = Feed(self._data, state.sampler, state.random.device), plan.steps + self._after
        with training_bar(steps) as advance, closing(feed):
            while state.step < steps:
                state.step += 1
                if state.step <= plan.steps:
                    self._private_step(feed)
                post_processing_updates(state, plan.companion_size)
                state.ema.update(state.model)
                advance(state.step, None)
        if self._strings is None:
            return self._scores_M
        ask(state, self._trained, self._asked_later, range(len(self._asked_later)), "after")
        return self._strings.counts(self._generated())

    def _private_step(self, feed: Feed) -> None:
        """The step that ``state.step`` counts, and what it shows of the canaries."""
        state = self.state
        batch = feed.take()
        if state.step < self.plan.steps:
            feed.prepare()
        self._watched.forget()
        norm, network = state.clipping.value, self._network()
        private_update(state, self._trained, batch)
        self._take(norm, network, self._drawn(batch))

    def _generated(self) -> np.ndarray:
        """[N, 1, *shape] as a release would be made: by the averaged generator."""
        label_N = np.arange(self._samples) % self.canaries.classes
        return images_of(self.state.ema.model, label_N, fresh_generator())

    def _drawn(self, batch: PatientBatch) -> np.ndarray:
        """[M] which canaries are in ``batch``."""
        classes = self.canaries.classes
        label_P = batch.y_PK[canary_patients(batch, classes), 0] - classes
        return np.bincount(label_P.cpu().numpy(), minlength=len(self._scores_M)) > 0

    def _take(self, norm: float, network: tuple[Tensors, Tensors], drawn_M: np.ndarray) -> None:
        """Add the evidence of the step just taken, from ``.grad`` as the optimizer saw it."""
        plan = self.plan
        noise = plan.gradient_noise_multiplier
        released = {
            name: p.grad.detach().double() * plan.normaliser
            for name, p in self.canaries.named_parameters()
            if p.requires_grad and p.grad is not None
        }
        known = self._watched.known
        if isinstance(self.canaries, Dirac):
            x_M = read_dirac(self.canaries, released, known, norm)
            self._scores_M += evidence(x_M, noise, plan.sampling_rate)
            self.mechanism.add(drawn_M, x_M)
            return
        if isinstance(self.canaries, BurnedIn):
            self.mechanism.add(drawn_M, None)
            return
        residual = {name: value - known.get(name, 0.0) for name, value in released.items()}
        x_M, sd_M = self._input.read(*network, residual, norm, noise * norm, plan.sampling_rate)
        self._scores_M += evidence(x_M, sd_M, plan.sampling_rate)
        self.mechanism.add(drawn_M, None)

    def _network(self) -> tuple[Tensors, Tensors]:
        """Weights and buffers that the next step is taken at, where they are needed after it: an ``Update`` may write
        either as soon as the step is taken."""
        if not isinstance(self.canaries, RandomSign):
            return {}, {}
        weights = {name: p.detach().clone() for name, p in self.canaries.named_parameters() if p.requires_grad}
        return weights, {name: b.detach().clone() for name, b in self.canaries.named_buffers()}

    def _watch_fakes(self, watched: Watched) -> None:
        private = self.state.private
        if private.fakes is not None and self.plan.fakes == "plain":
            fakes = watched_fakes(
                private.fakes, private.module, watched, self.plan.normaliser, self.plan.physical_batch
            )
            self.state.private = replace(private, fakes=fakes)
