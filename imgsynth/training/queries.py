"""Questions to the whole cohort, before or after training: each asked once, on its own part of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from imgsynth.cohort.dataset import PatientDataset
from imgsynth.models.base import Query, queries_of
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.step import private_step
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import refuse_divergence
from imgsynth.types import PatientBatch


def ask(
    state: TrainingState,
    plan: PrivacyPlan,
    cohort: PatientDataset,
    rows: Sequence[int],
    when: Literal["before", "after"],
) -> bool:
    """Put to the patients ``rows`` of ``cohort``, all of this rank's, what the model asks at that time and has no
    answer to yet; whether anything was asked.

    ``state.asked`` counts the answers that there are. One whose checkpoint was not written never left memory, so that
    it may be asked again. Raises CheckFailed on an answer that is not finite.
    """
    questions = queries_of(state.model.objectives())
    due = [query for query in questions[state.asked :] if query.when == when]
    for query in due:
        assert query is questions[state.asked], "queries before training come before those after it"
        _ask(state, plan, query, cohort.batch(rows))
        state.asked += 1
        state.ema.follow_buffers(state.model)
    return bool(due)


def _ask(state: TrainingState, plan: PrivacyPlan, query: Query, patients: PatientBatch) -> None:
    batch, plan_ = patients.to(state.random.device), plan.for_query(query.name)
    with _answering(query):
        info = private_step(plan_, state.engine, query.module, batch, (), None, state.noise, state.team)
    refuse_divergence(info.public["noisy_gradient_norm"], f"answer to {query.name}", state.step)
    with torch.no_grad():
        for answer in query.answers:
            assert answer.grad is not None
            answer.copy_(answer.grad.neg())
            answer.grad = None
    query.done(info.noise_std)


@contextmanager
def _answering(query: Query) -> Iterator[None]:
    """Only the answers have gradients, and are 0; what else the module has is as it was trained."""
    trained = [p for p in query.module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    for answer in query.answers:
        answer.data.zero_()
        answer.requires_grad_(True)
    try:
        yield
    finally:
        for answer in query.answers:
            answer.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
