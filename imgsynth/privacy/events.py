"""Mechanisms as data: the ``DpEvent`` of everything that imgsynth runs on a cohort, and its JSON form.

An event says all that accounting needs to know. Events that this file does not list are refused, on the way in and on
the way out: an accountant that guesses is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dp_accounting import dp_event as dp

from imgsynth.types import Fault, InputError

# class name -> its fields, which are numbers unless they are named "event" or "events"
_FIELDS: dict[str, tuple[str, ...]] = {
    "NoOpDpEvent": (),
    "NonPrivateDpEvent": (),
    "GaussianDpEvent": ("noise_multiplier",),
    "LaplaceDpEvent": ("noise_multiplier",),
    "DiscreteLaplaceDpEvent": ("noise_parameter", "sensitivity"),
    "PoissonSampledDpEvent": ("sampling_probability", "event"),
    "SelfComposedDpEvent": ("event", "count"),
    "ComposedDpEvent": ("events",),
}


def training_event(sampling_rate: float, noise_multiplier: float, steps: int) -> dp.DpEvent:
    """T steps of the Poisson-subsampled Gaussian mechanism (Abadi et al. 2016, arXiv 1607.00133, Algorithm 1)."""
    if noise_multiplier == 0:
        return dp.NonPrivateDpEvent()
    step = dp.PoissonSampledDpEvent(sampling_rate, dp.GaussianDpEvent(noise_multiplier))
    return dp.SelfComposedDpEvent(step, steps)


def joint_training_event(sampling_rate: float, noise_multipliers: Sequence[float], steps: int) -> dp.DpEvent:
    """T steps in each of which several Gaussian mechanisms read *the same* Poisson sample of patients.

    ``noise_multipliers`` are each mechanism's noise in units of its own sensitivity. Rescaled to sensitivity 1 and laid
    side by side, they are one Gaussian mechanism whose shift for one patient has length (Σ 1/σᵢ²)^½ in units of the
    noise, hence its multiplier 1/σ² = Σ 1/σᵢ²; this one is subsampled. Composing the mechanisms one by one would claim
    too little: it has each throw a coin of its own, where one coin decides for all of them.
    """
    if min(noise_multipliers) == 0:
        return dp.NonPrivateDpEvent()
    return training_event(sampling_rate, sum(sigma**-2 for sigma in noise_multipliers) ** -0.5, steps)


def histogram_event(epsilon: float) -> dp.DpEvent:
    """Counts of patients by class with discrete Laplace noise of parameter ε; one patient moves one count by one.

    The *discrete* event on purpose: with sensitivity 1 the privacy loss is ε or -ε and nothing between, which is worse
    than that of continuous Laplace noise of scale 1/ε.
    """
    return dp.DiscreteLaplaceDpEvent(noise_parameter=epsilon, sensitivity=1)


def pure_event(epsilon: float) -> dp.DpEvent:
    """Any ε-differentially private mechanism, as a choice among candidates (``choose.py``).

    None loses more than randomised response, whose loss is ε with probability e^ε/(1 + e^ε) and else -ε (Kairouz, Oh &
    Viswanath 2015, arXiv 1311.0776). Discrete Laplace noise at sensitivity 1 has just these losses.
    """
    return dp.DiscreteLaplaceDpEvent(noise_parameter=epsilon, sensitivity=1)


def compose(events: list[dp.DpEvent]) -> dp.DpEvent:
    """All of these mechanisms on one cohort, each free to depend on what the earlier ones released."""
    return events[0] if len(events) == 1 else dp.ComposedDpEvent(events)


def compose_counted(events: Sequence[dp.DpEvent]) -> dp.DpEvent:
    """``compose``, with equal mechanisms counted: a hundred equal runs cost the accountant hardly more than one."""
    counts: list[tuple[dp.DpEvent, int]] = []
    for event in events:
        one, count = (event.event, event.count) if isinstance(event, dp.SelfComposedDpEvent) else (event, 1)
        at = next((i for i, (known, _) in enumerate(counts) if known == one), len(counts))
        counts[at:] = [(one, count + (counts[at][1] if at < len(counts) else 0)), *counts[at + 1 :]]
    return compose([dp.SelfComposedDpEvent(one, count) for one, count in counts])


def event_to_json(event: dp.DpEvent) -> dict[str, Any]:
    name = type(event).__name__
    if name not in _FIELDS:
        raise _unknown(name)
    out: dict[str, Any] = {"type": name}
    for field in _FIELDS[name]:
        value = getattr(event, field)
        if field == "event":
            value = event_to_json(value)
        elif field == "events":
            value = [event_to_json(part) for part in value]
        out[field] = value
    return out


def event_from_json(value: Any) -> dp.DpEvent:
    """The inverse of ``event_to_json``; InputError for an unknown type, a missing, a surplus or a non-numeric field."""
    name = value.get("type") if isinstance(value, dict) else None
    if name not in _FIELDS or set(value) != {"type", *_FIELDS[name]}:
        raise _unknown(repr(value))
    fields: dict[str, Any] = {}
    for field in _FIELDS[name]:
        got = value[field]
        if field == "event":
            fields[field] = event_from_json(got)
        elif field == "events" and isinstance(got, list):
            fields[field] = [event_from_json(part) for part in got]
        elif isinstance(got, (int, float)) and not isinstance(got, bool):
            fields[field] = got
        else:
            raise _unknown(repr(value))
    return getattr(dp, name)(**fields)


def _unknown(got: str) -> InputError:
    return InputError(
        Fault(
            where="privacy event",
            got=got,
            expected=f"one of {', '.join(_FIELDS)} with exactly its fields",
            remedy="use the version of imgsynth that wrote it; an unknown mechanism cannot be accounted for",
        )
    )
