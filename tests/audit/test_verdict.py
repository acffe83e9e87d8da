"""Verdicts: the gravest word wins, deciding attacks were fixed before, and nothing is ever called private."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from imgsynth.audit.epsilon import epsilon_at_threshold, epsilon_lower_bound
from imgsynth.audit.one_run import epsilon_one_run
from imgsynth.audit.power import power_of
from imgsynth.audit.risk import worst_patients
from imgsynth.audit.roc import auc
from imgsynth.audit.verdict import INCONCLUSIVE, LEAK_FOUND, NO_LEAK_FOUND, STRINGS_FOUND, WORDS, bound_at, judge
from imgsynth.release.canary_record import BROKEN, REJECTED, VIOLATION

GOOD = {"kind": "positive", "passed": True, "detail": "copies were caught", "required": True}
MISSED = GOOD | {"passed": False, "detail": "copies were not caught"}
TOO_FEW = GOOD | {"kind": "blind", "passed": None, "detail": "9 patients are too few"}
EXTRA = MISSED | {"required": False}
CLEAN = {"clean": True, "n_findings": 0, "not_read": [], "release_searched": True, "pixels": {}}


def attack(in_P: Any, out_Q: Any, role: str = "primary", name: str = "nearest_neighbour") -> dict[str, Any]:
    in_P, out_Q = np.asarray(in_P, dtype=float), np.asarray(out_Q, dtype=float)
    return {
        "name": name, "space": "raw", "role": role, "auc": auc(in_P, out_Q),
        "n_members": len(in_P), "n_nonmembers": len(out_Q),
        "bound": asdict(epsilon_at_threshold(in_P, out_Q, 0.5, 0.05, 1e-5)), "worst": worst_patients(in_P, out_Q),
    }  # fmt: skip


def told(right_in: int, right_out: int, role: str = "primary", n: int = 100, name: str = "told") -> dict[str, Any]:
    """An attack that calls so many of n members and of n non-members what they are."""
    return attack(np.arange(n) < right_in, np.arange(n) >= right_out, role, name)


def audit(*attacks: dict[str, Any], controls: Any = (GOOD,), proven: float | None = 8.0, n: int = 100) -> Any:
    power = power_of(n, n, 0.05, 1e-5).to_json()
    return {
        "attacks": list(attacks), "controls": list(controls), "power": power, "proven_epsilon": proven,
        "alpha": 0.05, "delta": 1e-5, "not_done": [], "leakage": CLEAN,
    }  # fmt: skip


BLIND, SHARP = told(50, 50), told(100, 100)


@pytest.mark.parametrize(
    ("found", "word", "says"),
    [
        (audit(BLIND), NO_LEAK_FOUND, "tested: told/raw"),
        (audit(SHARP), LEAK_FOUND, "AUC 1.000"),
        (audit(SHARP, proven=None), LEAK_FOUND, "told/raw"),
        (audit(SHARP, proven=1.0), VIOLATION, "above the proven ε = 1; the proof, the code or the data flow is broken"),
        (audit(SHARP, proven=1.0, controls=(MISSED,)), VIOLATION, "but positive control: copies were not caught"),
        (audit(SHARP, controls=(MISSED,)), INCONCLUSIVE, "positive control: copies were not caught"),
        (audit(BLIND, controls=(GOOD, TOO_FEW)), INCONCLUSIVE, "blind control: 9 patients are too few"),
        (audit(BLIND, controls=(GOOD, EXTRA)), NO_LEAK_FOUND, "told"),
        (audit(), INCONCLUSIVE, "no attack that decides was run"),
        (audit(told(50, 50, "exploratory")), INCONCLUSIVE, "no attack that decides was run"),
        (audit(told(2, 2, n=3), n=3), INCONCLUSIVE, "so few patients"),
    ],
)
def test_words(found: dict[str, Any], word: str, says: str) -> None:
    verdict = judge(found)
    assert verdict.word == word in WORDS
    assert str(verdict).startswith(word)
    assert says in str(verdict)
    assert "private" not in str(verdict)


@pytest.mark.parametrize(
    ("copied", "says"), [(20, "ε ≥"), (6, ": 6 members above every non-member where 1.0")], ids=["20", "6"]
)
def test_a_few_patients_that_leak_much_show_though_not_in_the_auc(copied: int, says: str) -> None:
    """Of four hundred members a few are recognised without any false alarm."""
    random = np.random.default_rng(0)
    in_P, out_Q = random.random(400) * 0.4, random.random(400) * 0.4
    in_P[:copied] = 0.9
    verdict = judge(audit(attack(in_P, out_Q), n=400))
    assert verdict.word == LEAK_FOUND
    assert says in verdict.because[0]


def test_an_exploratory_attack_is_a_hint_and_decides_nothing() -> None:
    verdict = judge(audit(BLIND, told(100, 100, "exploratory", name="other")))
    assert verdict.word == NO_LEAK_FOUND
    assert verdict.hints[0].startswith("other/raw: AUC 1.000")
    assert verdict.tested == ("told/raw", "other/raw")


def test_without_a_primary_attack_all_decide_and_each_pays() -> None:
    """60 % of a hundred right is a leak for one attack at α, and none for one of twenty at α/20."""
    alone = judge(audit(told(60, 60)))
    assert alone.word == LEAK_FOUND
    crowd = [told(60, 60, "one of 20"), *(told(50, 50, "one of 20", name=f"blind{i}") for i in range(19))]
    assert judge(audit(*crowd)).word == NO_LEAK_FOUND
    crowd[0] = told(80, 80, "one of 20")
    assert judge(audit(*crowd)).word == LEAK_FOUND
    assert judge(audit(told(90, 90), proven=1.5)).word == VIOLATION
    assert judge(audit(told(90, 90, "one of 2"), told(50, 50, "one of 2"), proven=1.5)).word == LEAK_FOUND


def test_strings_of_the_source_in_a_file_need_no_statistics() -> None:
    found = CLEAN | {"clean": False, "n_findings": 3}
    assert judge(audit(BLIND)).word == NO_LEAK_FOUND
    for controls in ((GOOD,), (MISSED,)):
        verdict = judge(audit(BLIND, controls=controls) | {"leakage": found})
        assert verdict.word == STRINGS_FOUND
        assert verdict.because[0].startswith("3 strings of the source")
    both = judge(audit(told(90, 90), proven=1.5) | {"leakage": found})
    assert both.word == VIOLATION and any(text.startswith("3 strings of the source") for text in both.because)


def test_strings_of_the_source_that_are_read_in_the_samples_are_leaking_strings() -> None:
    pixels = {"source": {}, "samples": {"pictures": 9, "with_text": 3, "recovered": 2}}
    verdict = judge(audit(BLIND) | {"leakage": CLEAN | {"pixels": pixels}})
    assert verdict.word == STRINGS_FOUND
    assert verdict.because[0].startswith("2 strings of the source can be read in the samples' pixels")
    pixels["samples"]["recovered"] = 0
    assert judge(audit(BLIND) | {"leakage": CLEAN | {"pixels": pixels}}).word == NO_LEAK_FOUND


def test_files_that_could_not_be_searched_leave_it_open() -> None:
    unread = ["3 of 90 source files could not be read", *(f"release/{i}.nii.gz: broken" for i in range(4))]
    verdict = judge(audit(BLIND) | {"leakage": CLEAN | {"not_read": unread}})
    assert verdict.word == INCONCLUSIVE
    assert "3 of 90 source files could not be read; release/0.nii.gz: broken" in str(verdict)
    assert str(verdict).endswith("and 2 more")
    above = judge(audit(SHARP, proven=1.0) | {"leakage": CLEAN | {"not_read": unread}})
    assert above.word == VIOLATION and "but the search" in str(above)


def test_the_words_say_what_was_not_tested() -> None:
    assert str(judge(audit(BLIND))) == "NO LEAK FOUND (tested: told/raw)"
    without = judge(audit(BLIND) | {"leakage": CLEAN | {"release_searched": False}})
    assert str(without).endswith("not tested: strings of the source in a release (there was none))")
    assert "not tested: strings of the source in files" in str(judge(audit(BLIND) | {"leakage": None}))
    skipped = audit(BLIND) | {"not_done": [{"what": "attack logan", "why": "no discriminator"}]}
    assert judge(skipped).not_tested == ("attack logan",)
    empty = judge(audit(BLIND), canaries(60) | {"twins": []})
    assert empty.tested == ("told/raw",) and empty.not_tested == ("canaries (a record without twins)",)


def test_extraction_and_re_identification_are_hints() -> None:
    extracted = {"train": 9, "holdout": 1, "p_value": 0.01}
    again = {"train": 0.2, "holdout": 0.05, "low": 0.03}
    hints = judge(audit(BLIND) | {"copies": {"extraction": {"extracted": extracted}}, "reidentification": again}).hints
    assert [hint.split(":")[0] for hint in hints] == ["extraction", "re-identification"]
    copies = {"extraction": {"extracted": extracted | {"p_value": 0.06}}}
    assert judge(audit(BLIND) | {"copies": copies, "reidentification": again | {"low": 0.0}}).hints == ()


def test_any_attack_above_the_proof_is_a_violation_and_pays_for_all_that_ran() -> None:
    """90 of 100 right is above ε = 1.6 alone and by two attacks at α/2, and not where twenty were tried."""
    sharp, blind = told(90, 90, "exploratory", name="sharp"), told(50, 50, "exploratory", name="blind")
    caught = judge(audit(BLIND, sharp, proven=1.3))
    assert caught.word == VIOLATION
    assert "sharp/raw shows ε ≥ " in str(caught) and "at confidence 97.5 %" in str(caught)
    edge = (bound_at(sharp, 0.05 / 2) + bound_at(sharp, 0.05 / 20)) / 2
    assert judge(audit(BLIND, sharp, proven=edge)).word == VIOLATION
    assert judge(audit(BLIND, sharp, *([blind] * 18), proven=edge)).word == NO_LEAK_FOUND


def test_of_twenty_attacks_at_the_proven_epsilon_one_is_above_it_in_at_most_alpha_of_audits() -> None:
    """Randomised response that leaks all of ε = 1, asked about by twenty independent exploratory attacks."""
    random, trials, wrong, alone = np.random.default_rng(3), 400, 0, 0
    right = np.exp(1) / (1 + np.exp(1))
    for _ in range(trials):
        pairs = random.binomial(100, right, (20, 2))
        shown = [told(*pair, "exploratory", name="guess") for pair in pairs.tolist()]
        wrong += judge(audit(*shown, proven=1.0)).word == VIOLATION
        alone += any(bound_at(one, 0.05) > 1.0 for one in shown)
    assert binom.sf(wrong - 1, trials, 0.05) > 1e-3
    assert binom.sf(alone - 1, trials, 0.05) < 1e-3, "uncorrected, twenty looks show too much"


def test_copies_are_a_hint() -> None:
    copies = {"caught": True, "share": 0.7, "invariant": {"caught": False}}
    verdict = judge(audit(BLIND) | {"copies": copies})
    assert (verdict.word, verdict.hints) == (
        NO_LEAK_FOUND, ("copies: 70.0% of samples are nearer to training than to holdout patients",)
    )  # fmt: skip


def canaries(*correct: int, proven: float = 2.0, p: float = 1.0, mechanism: Any = ()) -> dict[str, Any]:
    each = 0.05 / len(correct) / 2
    bounds = [epsilon_one_run(500, 100, c, each, 1e-5) for c in correct]
    twins = [
        {"kind": f"kind{i}", "epsilon_lower_bound": bound, "p_value_of_claimed_curve": p, "mechanism": mechanism}
        for i, bound in enumerate(bounds)
    ]
    return {"alpha_of_each_test": each, "proven_epsilon": proven, "twins": twins, "controls": [GOOD]}


def test_canaries_above_the_proof_are_a_violation_whatever_the_attacks_say() -> None:
    assert judge(audit(BLIND), canaries(60)).word == NO_LEAK_FOUND
    assert judge(audit(BLIND), canaries(60)).tested[-1] == "canaries (kind0)"
    caught = judge(audit(BLIND), canaries(100))
    assert caught.word == VIOLATION
    assert "canaries (kind0) show ε ≥ 3.26" in str(caught)
    assert judge(audit(controls=()), canaries(60, 100)).word == VIOLATION


def test_canaries_that_refute_the_claimed_curve_pay_for_the_bound_and_for_every_twin() -> None:
    assert judge(audit(BLIND), canaries(60, p=0.024)).word == REJECTED
    assert "refute the trade-off curve" in str(judge(audit(BLIND), canaries(60, p=0.024)))
    assert judge(audit(BLIND), canaries(60, p=0.026)).word == NO_LEAK_FOUND
    assert judge(audit(BLIND), canaries(60, 60, p=0.013)).word == NO_LEAK_FOUND
    assert judge(audit(BLIND), canaries(60, 60, p=0.012)).word == REJECTED


NOISE = {"name": "noise", "value": 0.9, "expected": 1.8, "p": 1e-9, "passed": False}


@pytest.mark.parametrize("found", [audit(BLIND), audit(), audit(SHARP), audit(BLIND, controls=(MISSED,))])
def test_a_mechanism_that_is_not_the_plans_outweighs_what_attacks_say(found: Any) -> None:
    assert judge(found, canaries(60, mechanism=[NOISE | {"passed": True}])).word != BROKEN
    verdict = judge(found, canaries(60, 60, mechanism=[NOISE]))
    assert verdict.word == BROKEN and str(verdict).startswith("MECHANISM BROKEN: canaries (kind0) met a mechanism")
    assert "noise 0.9 for 1.8 (p = 1e-09)" in verdict.because[0] and "canaries (kind1)" in verdict.because[1]


def test_of_all_that_stands_against_a_release_the_gravest_is_the_word_and_nothing_is_left_out() -> None:
    all_three = judge(audit(BLIND), canaries(100, p=0.01, mechanism=[NOISE]))
    assert all_three.word == VIOLATION
    said = "; ".join(all_three.because)
    assert all(what in said for what in ("above the proven ε", "refute the trade-off curve", "met a mechanism"))
    assert judge(audit(BLIND), canaries(60, p=0.01, mechanism=[NOISE])).word == REJECTED
    assert judge(audit(SHARP, proven=1.0), canaries(60, mechanism=[NOISE])).word == VIOLATION


def test_canaries_without_a_control_that_was_caught_leave_it_open() -> None:
    assert judge(audit(BLIND), canaries(60) | {"controls": [MISSED]}).word == INCONCLUSIVE


def test_where_nothing_leaks_a_leak_is_found_in_at_most_alpha_of_audits() -> None:
    random, trials, found = np.random.default_rng(1), 500, 0
    power = power_of(60, 40, 0.05, 1e-5, split=True).to_json()
    for _ in range(trials):
        in_P, out_Q = random.standard_normal(60), random.standard_normal(40)
        one = attack(in_P, out_Q) | {"bound": asdict(epsilon_lower_bound(in_P, out_Q, 0.05, 1e-5, random))}
        found += judge(audit(one) | {"power": power}).word == LEAK_FOUND
    assert binom.sf(found - 1, trials, 0.05) > 1e-3
    assert found > 5  # and the test is not blind
