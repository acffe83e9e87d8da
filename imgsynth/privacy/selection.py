"""Which of several candidates is released: a rule that is fixed beforehand, and what the choice costs.

A candidate is what a run had after one of its steps (or, for ``imgsynth select``, a run). All of them are covered by
the ε of what trained them, so that only looking at patients once more, to choose, costs anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from imgsynth.privacy.public import PublicImages
from imgsynth.schema import PrivacyConfig, SelectionConfig
from imgsynth.types import Fault, InputError

Rule = Literal["fixed", "public", "noisy_max", "exponential"]
RULES = ("fixed", "public", "noisy_max", "exponential")
CHARGED = ("noisy_max", "exponential")


@dataclass(frozen=True)
class Selection:
    """Formal guarantee: the choice is (``epsilon``, 0)-differentially private for adding or removing one unit, given
    what was released before, when it is made by ``choose.choose`` on votes of which each unit has one (``rule``
    noisy_max or exponential), or without looking at private data (fixed, public: ``epsilon`` 0)."""

    rule: Rule
    candidates: tuple[int, ...]  # steps, ascending; their number and order are public
    epsilon: float = 0.0
    public: PublicImages | None = None  # on which the rule "public" chooses

    @property
    def charged(self) -> bool:
        """Whether patients are asked."""
        return self.rule in CHARGED

    def faults(self, mode: str) -> list[tuple[bool, str, str, str, str]]:
        """(good, where, got, expected, remedy), as ``plan_faults`` lists them."""
        ascending = list(self.candidates) == sorted(set(self.candidates)) and bool(self.candidates)
        paid = 0 < self.epsilon < math.inf if self.charged and mode == "dp" else self.epsilon == 0
        checks = [
            (self.rule in RULES, "selection.rule", self.rule, f"last, {', '.join(RULES)}", "selection.rule=last"),
            (ascending and self.candidates[0] >= 1, "selection.every", str(self.candidates),
             "steps from 1 on, ascending", "selection.every=<steps>"),
            (paid, "selection.epsilon", f"{self.epsilon:g}",
             "a finite number above 0 where patients are asked with noise, else 0", "selection.epsilon=null"),
            ((self.public is not None) == (self.rule == "public"), "selection.public", str(self.public),
             "public images with selection.rule=public, and none otherwise", "restore plan.json"),
        ]  # fmt: skip
        return checks + ([] if self.public is None else self.public.faults())


def declared(
    selection: SelectionConfig, privacy: PrivacyConfig, steps: int, public: PublicImages | None = None
) -> Selection | None:
    """What ``selection`` asks of a run of ``steps`` steps in all; None where it is the last one, the default.

    Candidates are the averages after every ``selection.every`` steps and after the last. Of ε the choice has
    ``selection.epsilon``, or ``selection.share`` of ``privacy.epsilon``. InputError with all that is wrong.
    """
    if selection.rule == "last":
        return None
    faults = setting_faults(selection, privacy, steps)
    if faults:
        raise InputError(*faults)
    rule = cast(Rule, selection.rule)
    if rule == "fixed":
        assert selection.step is not None
        return Selection(rule, (selection.step,))
    assert selection.every is not None
    candidates = tuple(sorted({*range(selection.every, steps + 1, selection.every), steps}))
    return Selection(rule, candidates, epsilon_of(selection, privacy), public)


def epsilon_of(selection: SelectionConfig, privacy: PrivacyConfig) -> float:
    """ε of the choice alone; 0 where it costs nothing, or nothing is private."""
    if selection.rule not in CHARGED or privacy.mode == "none":
        return 0.0
    if selection.epsilon is not None:
        return selection.epsilon
    assert privacy.epsilon is not None
    return selection.share * privacy.epsilon


def setting_faults(selection: SelectionConfig, privacy: PrivacyConfig, steps: int) -> list[Fault]:
    """What is wrong with the settings of a choice among ``steps`` steps."""
    faults = []
    if selection.rule == "fixed":
        if selection.step is None or not 1 <= selection.step <= steps:
            faults.append(Fault("selection.step", str(selection.step), f"a step from 1 to {steps}, said beforehand",
                                f"selection.step={steps}"))  # fmt: skip
        return faults
    if selection.every is None or not 1 <= selection.every < steps:
        faults.append(Fault("selection.every", str(selection.every),
                            f"a number of steps from 1 to {steps - 1}, so that there are two candidates or more",
                            f"selection.every={max(1, steps // 8)}"))  # fmt: skip
    if selection.rule in CHARGED and privacy.mode == "dp":
        if selection.epsilon is None and privacy.epsilon is None:
            faults.append(Fault("selection.epsilon", "null", "the ε of the choice, as there is no privacy.epsilon to "
                                "take a share of", "selection.epsilon=0.5"))  # fmt: skip
        elif selection.epsilon is not None and privacy.epsilon is not None and selection.epsilon >= privacy.epsilon:
            faults.append(Fault("selection.epsilon", f"{selection.epsilon:g}",
                                f"less than the run's whole ε of {privacy.epsilon:g}, of which it is a part",
                                "selection.epsilon=null takes selection.share of it"))  # fmt: skip
    return faults
