"""Could an audit of this size refute the claim? Known before any twin is trained, and tried on one without noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imgsynth.audit.canaries.coins import GuessCounts
from imgsynth.audit.controls import Control
from imgsynth.audit.fdp import fdp_p_value
from imgsynth.audit.one_run import Guesses, epsilon_one_run
from imgsynth.audit.power import smallest_epsilon_of_canaries
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.tradeoff import trade_off
from imgsynth.release.rounding import at_least, at_most
from imgsynth.types import Fault, InputError

DIRAC = ("weights", "side")  # kinds whose readings show the noise itself, whatever ε is


@dataclass(frozen=True)
class CouldShow:
    """What guesses show where every one is right. ``ceiling``: the bound; ``p_value``: of the claimed curve;
    ``smallest_epsilon``: leaked in full, it gives a bound above 0 in 80 % of audits (None: none does)."""

    ceiling: float
    p_value: float
    smallest_epsilon: float | None
    claimed: float
    alpha: float

    @staticmethod
    def of(canaries: int, counts: GuessCounts, plan: PrivacyPlan, alpha: float) -> CouldShow:
        """``plan``: what canaries go through. Raises InputError where guesses show nothing even if all are right."""
        ceiling = epsilon_one_run(canaries, counts.total, counts.total, alpha, plan.delta)
        if ceiling <= 0:
            raise InputError(
                Fault("audit.canaries.m", f"{counts.total} guesses at {canaries} coins, α = {alpha:.3g} for a bound",
                      "so many guesses that a bound is above 0 if all are right",
                      "audit.canaries.kinds=[weights], other audit.canaries.m and guesses, or a larger audit.alpha")
            )  # fmt: skip
        perfect = Guesses(canaries, counts.total, counts.total)
        smallest = smallest_epsilon_of_canaries(canaries, counts.total, alpha, plan.delta)
        return CouldShow(ceiling, fdp_p_value(perfect, trade_off(plan)), smallest, plan.epsilon, alpha)

    @property
    def refutes(self) -> bool:
        """Whether guesses can refute the claim, by the bound or by the curve."""
        return self.ceiling > self.claimed or self.p_value <= self.alpha

    def by(self, kind: str) -> bool:
        """Whether a twin of this kind can, by guesses or by the noise that it reads."""
        return kind in DIRAC or self.refutes

    def sentence(self) -> str:
        """For the terminal and the record."""
        least = "no ε" if self.smallest_epsilon is None else f"ε = {at_most(self.smallest_epsilon, 2)}"
        return (
            f"guesses that are all right give ε ≥ {at_least(self.ceiling)} and p = {self.p_value:.2g} of the claimed "
            f"curve, which {'could' if self.refutes else 'could not'} refute ε = {at_most(self.claimed)}; "
            f"{least} leaked in full shows as ε > 0 in 80 % of audits"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sentence": self.sentence()}


def control_steps(plan: PrivacyPlan, kind: str, share: float) -> int:
    """Dirac canaries are read exactly: as many steps as draw, of canaries half of which are put in, one and a half
    times the ``share`` that is guessed at. Others take all of the plan's."""
    if kind not in DIRAC:
        return plan.steps
    rate = plan.sampling_rate
    drawn = 1 if rate >= 1 else max(1, math.ceil(math.log(1 - 3 * share) / math.log(1 - rate)))
    return min(plan.steps, drawn)


def of_noiseless(kind: str, steps: int, seen: Sequence[tuple[str, str]], found: dict[str, Any], read: bool) -> Control:
    """``seen``: what the verdict's own rules find against a twin without noise, which must be something. ``read``:
    whether the canaries called in were in, all of them, where nothing blurs the readings."""
    caught = bool(seen) and read
    why = seen[0] if seen else ("nothing", "no rule of the verdict speaks against it")
    detail = (
        f"a twin without noise, not private, {steps} steps, {'was' if caught else 'was not'} caught "
        f"({why[0]}: {why[1]}; {found['correct']} of {found['guesses']} guesses right"
        f"{'' if read else ', some called in were not'})"
    )
    bound = found["epsilon_lower_bound"]
    return Control(f"canaries without noise, {kind}", "positive", caught, bound, None, None, detail)


def not_run(kind: str, could: CouldShow, required: bool) -> Control:
    """No control is needed to know that this kind cannot refute the claim; ``required`` where no other kind can."""
    detail = f"canaries ({kind}) cannot refute the claim: {could.sentence()}"
    return Control(f"canaries without noise, {kind}", "positive", None, None, None, None, detail, required)
