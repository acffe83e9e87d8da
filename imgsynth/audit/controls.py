"""Controls: is the audit able to find a leak, and silent where there is none?

Positive: synthesizers that copy members on purpose must be caught. Negative: one that cannot know the members, members
and non-members with their labels swapped, and two groups of patients that were not trained on must not be.

A positive control is *required* where an attack that recognised every copied member, and knew nothing of the others,
would be caught with probability SURE. A fifth of copies, exact and noisy, is required whatever the cohort's size: with
so few patients that even this cannot be seen, the audit is inconclusive. One and five per cent are required of exact
copies where the cohort is large enough for it; otherwise they are reported with that attack's power.

A false alarm of a negative control would throw away a sound audit, so these are judged at NEGATIVE_LEVEL. Those
that take nothing but the attack's scores are in ``negative.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, full_name
from imgsynth.audit.roc import auc, auc_interval, tpr_at
from imgsynth.audit.synthesizers import innocent, leaky
from imgsynth.console import each
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import LEVEL

NOISE = 0.1  # standard deviation added to noisy copies; images span [-1, 1]
ALWAYS_REQUIRED = 0.2  # copy rate
SURE = 0.99
NEGATIVE_LEVEL = 0.99
SAMPLE_ATTACKS = ("samples", "samples+reference")  # accesses of the attacks that a leaking synthesizer can deceive


@dataclass(frozen=True)
class Control:
    """``passed`` is None where there are too few patients to tell; ``detail`` says what was seen.

    The verdict rests on the required ones.
    """

    name: str
    kind: str  # positive | negative | blind
    passed: bool | None
    value: float | None
    low: float | None
    high: float | None
    detail: str
    required: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


NOT_RUN = Control("controls", "positive", None, None, None, None, "switched off by audit.controls=false")


@dataclass(frozen=True)
class Dose:
    """A synthesizer of which a share ``rate`` is copies with noise of standard deviation ``noise``."""

    rate: float
    noise: float = 0.0

    def __str__(self) -> str:
        if not self.rate:
            return "innocent synthesizer"
        return f"leaky synthesizer, {self.rate:.0%} {f'noisy (sd {self.noise:g})' if self.noise else 'exact'} copies"


DOSES = (Dose(0.0), Dose(0.01), Dose(0.05), Dose(0.2), Dose(0.2, NOISE))


@dataclass(frozen=True)
class Response:
    """What an attack made of a dose. ``copied``: share of the members of whom there is a copy; ``power``: see above."""

    attack: str
    dose: Dose
    copied: float
    auc: float
    low: float
    high: float
    tpr_at_1_percent: dict[str, Any]
    power: float

    @property
    def caught(self) -> bool:
        return self.low > 0.5

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"caught": self.caught}


def responses(
    attacks: Sequence[Attack], members: Images, nonmembers: Images, released: Released, random: np.random.Generator,
    doses: Sequence[Dose] = DOSES,
) -> list[Response]:  # fmt: skip
    """Every attack on every dose, by the attack's own code. Leaves the attacks prepared for the last dose.

    The innocent synthesizer blends one half of the reference patients; the other half is the attacker's. Without four
    of them the released samples take its place, and there is no response to a rate of 0. Nor is there one of an attack
    for which the attacker's half is too small.
    """
    base = released.samples
    if released.reference is not None and released.reference.n_patients >= 4:
        source, kept = halves(released.reference, random)
        base, released = innocent(source, len(base), random), replace(released, reference=kept)
    found = []
    given = doses if base is not released.samples else [dose for dose in doses if dose.rate]
    for dose in each(given, "controls"):
        samples, copied = leaky(base, members, dose.rate, dose.noise, random)
        for attack in attacks:
            try:
                attack.prepare(replace(released, samples=samples))
            except NotApplicable:  # half of the reference patients may be too few for it
                continue
            in_P, out_Q = attack.scores(members), attack.scores(nonmembers)
            area, level = auc(in_P, out_Q), LEVEL if dose.rate else NEGATIVE_LEVEL
            low, high = auc_interval(area, len(in_P), len(out_Q), level)
            found.append(
                Response(
                    full_name(attack), dose, copied, area, low, high, tpr_at(in_P, out_Q, 0.01),
                    power(copied, len(in_P), len(out_Q)),
                )
            )  # fmt: skip
    return found


def halves(patients: Images, random: np.random.Generator) -> tuple[Images, Images]:
    """The patients in two random halves, to be held by two who must not know each other's."""
    first, second = np.array_split(random.permutation(patients.names_P), 2)
    return patients.of_patients(first), patients.of_patients(second)


def power(copied: float, n_in: int, n_out: int) -> float:
    """Chance to catch an attack that ranks a share ``copied`` of the members above everybody, and the others at random.

    Its AUC is ½ + copied/2; normal approximation of the Mann-Whitney statistic, with the variance of this mixture.
    """
    area = (1 + copied) / 2
    # Given a member, P(above a random non-member) is 1 if copied, otherwise uniform; given a non-member, the chance
    # to be below a random member is copied + (1 − copied) U.
    by_member = copied + (1 - copied) / 3 - area**2
    by_nonmember = (1 - copied) ** 2 / 12
    spread = np.sqrt((by_member * (n_out - 1) + by_nonmember * (n_in - 1) + area * (1 - area)) / (n_in * n_out))
    return float(norm.cdf((area - detectable(n_in, n_out)) / spread)) if spread else float(copied > 0)


def detectable(n_in: int, n_out: int, level: float = LEVEL) -> float:
    """The smallest AUC whose interval lies above one half: ½ + z √V(½) with the variance of ``auc_interval``."""
    variance = 0.25 * (1 + 2 / 3 * ((n_in + n_out) / 2 - 1)) / (n_in * n_out)
    return float(0.5 + norm.ppf((1 + level) / 2) * np.sqrt(variance))


def dose_controls(found: Sequence[Response]) -> list[Control]:
    """The controls that the responses of one attack amount to."""
    return [_innocent(one) if not one.dose.rate else _leaky(one) for one in found]


def _innocent(one: Response) -> Control:
    told = "told members from non-members" if one.caught else "could not tell members from non-members"
    detail = f"on a synthesizer that cannot know them the attack {told}"
    return Control(f"{one.dose}, {one.attack}", "negative", not one.caught, one.auc, one.low, one.high, detail)


def _leaky(one: Response) -> Control:
    required = one.dose.rate >= ALWAYS_REQUIRED or (not one.dose.noise and one.power >= SURE)
    detail = (
        f"{one.copied:.0%} of the members were copied and the synthesizer {'was' if one.caught else 'was not'} caught; "
        f"power against so many copies {one.power:.0%}"
    )
    name = f"{one.dose}, {one.attack}"
    return Control(name, "positive", one.caught, one.auc, one.low, one.high, detail, required)


def missing(controls: Sequence[Control]) -> list[Control]:
    """A control that says so where no positive one was run: silence of such an attack means nothing."""
    if any(control.kind == "positive" for control in controls):
        return []
    detail = "the primary attack does not look at the samples, and no model that leaks was trained for it"
    return [Control("positive control", "positive", None, None, None, None, detail)]
