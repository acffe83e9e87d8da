"""Questions to the whole cohort, before or after training: each asked once, on its own part of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from imgsynth.models.base import GenerativeModel, Query, queries_of
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.step import private_step
from imgsynth.training.feed import Patients
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import refuse_divergence
from imgsynth.types import Fault, InputError, PatientBatch


def ask(
    state: TrainingState,
    plan: PrivacyPlan,
    cohort: Patients,
    rows: Sequence[int],
    when: Literal["before", "after"],
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> bool:
    """Put to the patients ``rows`` of ``cohort``, all of this rank's, what the model asks at that time and has no
    answer to yet; whether anything was asked.

    ``state.asked`` counts the answers that there are. One whose checkpoint was not written never left memory, so that
    it may be asked again. What follows from patients' images, and not from whether they can be read, happens inside
    ``guard()``. Raises CheckFailed on an answer that is not finite.
    """
    questions = queries_of(state.model.objectives())
    due = [query for query in questions[state.asked :] if query.when == when]
    for query in due:
        assert query is questions[state.asked], "queries before training come before those after it"
        batch = cohort.batch(rows)
        with guard():
            _ask(state, plan, query, batch)
        state.asked += 1
        state.ema.follow_buffers(state.model)
    return bool(due)


def refuse_other_queries(model: GenerativeModel, plan: PrivacyPlan) -> None:
    """InputError where the model asks anything else than ``plan`` accounts for, as when its code was changed since."""
    asked = [(query.name, query.norm) for query in queries_of(model.objectives())]
    expected = [(query.name, query.clipping_norm) for query in plan.queries]
    if asked != expected:
        raise InputError(
            Fault("model, queries", f"{asked}", f"{expected}, which the run's plan accounts for",
                  "the model as it was when the run began, or another output=DIR (a new entry in the ledger)")
        )  # fmt: skip


def _ask(state: TrainingState, plan: PrivacyPlan, query: Query, patients: PatientBatch) -> None:
    batch, plan_ = patients.to(state.random.device), plan.for_query(query.name)
    assert plan_.clipping_norm == query.norm, "a query with another norm than the plan accounts for"
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
