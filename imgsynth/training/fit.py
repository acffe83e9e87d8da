"""Whether a model's objectives and the settings of its training fit each other, before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from imgsynth.models.base import Objective, PostProcessing, queries_of, the_private
from imgsynth.schema import PrivacyConfig, SelectionConfig, TrainerConfig
from imgsynth.types import Fault, InputError


def refuse_misfit(
    objectives: Sequence[Objective], privacy: PrivacyConfig, trainer: TrainerConfig, selection: SelectionConfig
) -> None:
    """InputError with every setting that does not belong to such a model.

    A summary (``Private.rounds``) is the noised mean over *all* patients of vectors of length at most 1, as it is:
    another rate, clipping norm or optimizer would give some other vector and call it that mean. Votes
    (``Private.votes``) are of all patients' teachers, and have no gradients to be clipped.
    """
    private = the_private(objectives)
    if private.votes is not None:
        faults = list(_of_votes(privacy, trainer))
    elif private.rounds is not None:
        faults = list(_of_a_summary(private.rounds, privacy, trainer))
    else:
        faults = list(_of_a_network(trainer))
    post = [o for o in objectives if isinstance(o, PostProcessing)]
    if trainer.steps_after and all(o.before for o in post):
        faults.append(
            Fault("trainer.steps_after", str(trainer.steps_after), "0, as this model has no network that sees no data",
                  "trainer.steps_after=0")
        )  # fmt: skip
    if trainer.steps_before and not any(o.before for o in post):
        faults.append(
            Fault("trainer.steps_before", str(trainer.steps_before), "0, as nothing in this model is trained before "
                  "patients are seen", "trainer.steps_before=0, or model.warm_up=[moments]")
        )  # fmt: skip
    if not trainer.steps_before and (names := ", ".join(o.name for o in post if o.before)):
        faults.append(
            Fault("trainer.steps_before", "0", f"1 or more for {names}: the query for it would be spent for nothing",
                  "trainer.steps_before=500, or model.warm_up=[]")
        )  # fmt: skip
    queries = queries_of(objectives)
    if [query.when for query in queries] != sorted((query.when for query in queries), reverse=True):
        names = ", ".join(f"{query.name} ({query.when})" for query in queries)
        faults.append(
            Fault("model, queries", names, "those before training first", "list them in that order in objectives()")
        )
    if selection.rule != "last" and queries_of(objectives, "after"):
        names = ", ".join(query.name for query in queries_of(objectives, "after"))
        faults.append(
            Fault("selection.rule", f"{selection.rule}, with a model that asks {names} after training", "last: what is "
                  "asked then is about the weights of the last step, and would not fit others", "selection.rule=last")
        )  # fmt: skip
    if faults:
        raise InputError(*faults)


def _of_a_network(trainer: TrainerConfig) -> Iterator[Fault]:
    if trainer.optimizer == "summary":
        yield Fault(
            "trainer.optimizer",
            "summary, for a model whose private part is a network",
            "adam, adam_bc or sgd",
            "trainer.optimizer=adam; summary is for models like model=merf",
        )


def _of_votes(privacy: PrivacyConfig, trainer: TrainerConfig) -> Iterator[Fault]:
    if trainer.optimizer not in ("adam", "sgd"):
        yield Fault("trainer.optimizer", trainer.optimizer,
                    "adam or sgd: the noise is in the labels, not in a gradient", "trainer.optimizer=adam")  # fmt: skip
    yield from _others(
        [
            ("privacy.sampling_rate", privacy.sampling_rate, 1.0, "every patient's teacher votes in every step"),
            ("privacy.clipping_norm", privacy.clipping_norm, 1.0, "votes are bounded by themselves; the noise is σ√M"),
            ("privacy.clipping_quantile", privacy.clipping_quantile, None, "votes are bounded by themselves"),
        ]
    )


def _of_a_summary(rounds: int, privacy: PrivacyConfig, trainer: TrainerConfig) -> Iterator[Fault]:
    needed: list[tuple[str, Any, Any, str]] = [
        ("trainer.optimizer", trainer.optimizer, "summary", "which takes the noised mean as it is"),
        ("trainer.learning_rate", trainer.learning_rate, 1.0, "which takes the noised mean as it is"),
        ("trainer.steps", trainer.steps, rounds, "as often as this model asks (more, and more noise)"),
        ("privacy.sampling_rate", privacy.sampling_rate, 1.0, "every patient in every round"),
        ("privacy.clipping_norm", privacy.clipping_norm, 1.0, "the length that no image's vector exceeds"),
        ("privacy.clipping_quantile", privacy.clipping_quantile, None, "a norm that stays"),
    ]
    yield from _others(needed)


def _others(needed: list[tuple[str, Any, Any, str]]) -> Iterator[Fault]:
    """Of (key, what it is, what it must be, why) those that are not."""
    for where, got, value, why in needed:
        if got != value:
            said = "null" if value is None else f"{value:g}" if isinstance(value, (int, float)) else value
            yield Fault(where, str(got), f"{said}: {why}", f"{where}={said}")
