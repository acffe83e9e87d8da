"""Negative controls: silent on the truth, at any size and with ties; not where the rule or the holdout is off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from imgsynth.audit import epsilon, negative, roc, verdict
from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools
from imgsynth.audit.attacks.nearest_neighbour import CalibratedNearestNeighbour, NearestNeighbour
from imgsynth.audit.epsilon import choose_threshold, epsilon_at_threshold
from imgsynth.audit.negative import SWAPS, label_swap, of_two_holdouts, two_holdouts
from imgsynth.audit.power import false_alarms
from imgsynth.audit.risk import worst_patients
from imgsynth.audit.run import audit
from imgsynth.audit.verdict import bound_at
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images
from imgsynth.schema import AuditConfig

ALPHA, DELTA = 0.05, 1e-5
TOOLS = Tools(get_encoder("random_conv", 2, 0), AuditConfig())

Scores = Callable[[np.random.Generator, int], np.ndarray]
SCORES: dict[str, Scores] = {
    "normal": lambda random, n: random.standard_normal(n),
    "four values": lambda random, n: random.integers(0, 4, n).astype(float),
    "a tenth seen": lambda random, n: np.where(random.random(n) < 0.9, 0.0, random.random(n)),
    "one value": lambda random, n: np.zeros(n),
}


def swapped(n_in: int, n_out: int, scores: str = "normal", each: float = ALPHA, shift: float = 0.0, seed: int = 0):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    in_P, out_Q = SCORES[scores](random, n_in) + shift, SCORES[scores](random, n_out)
    return label_swap(in_P, out_Q, ALPHA, each, DELTA, random)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(("n_in", "n_out"), [(4, 4), (12, 9), (60, 80), (25, 150), (300, 40)])
def test_the_verdicts_rule_passes_at_any_size_and_with_ties(n_in: int, n_out: int, scores: str) -> None:
    found = swapped(n_in, n_out, scores)
    assert found.passed, found.detail
    assert found.value is not None and found.low <= found.value <= found.high < 0.09


def test_swaps_forget_who_was_a_member_and_hold_each_attack_to_its_share() -> None:
    leaking = swapped(50, 80, shift=3)
    assert leaking.passed and 0 < leaking.value < 0.07, "the rule is not silent either"
    shared = swapped(50, 80, each=ALPHA / 20)
    assert shared.passed and shared.value <= 0.01
    assert f"{SWAPS * ALPHA / 20:.3g} at most" in shared.detail


def test_a_rule_that_forgets_that_many_attacks_decide_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verdict.leak
    monkeypatch.setattr(negative, "leak", lambda attack, each: whole(attack, ALPHA))
    assert swapped(50, 80).passed
    assert swapped(50, 80, each=ALPHA / 20).passed is False


def chosen_where_counted(in_P: np.ndarray, out_Q: np.ndarray, alpha: float, delta: float, random: Any) -> Any:
    return epsilon_at_threshold(in_P, out_Q, choose_threshold(in_P, out_Q, alpha, delta), alpha, delta)


def counted_twice(in_P: np.ndarray, out_Q: np.ndarray, alpha: float, delta: float, random: Any) -> Any:
    return epsilon.epsilon_lower_bound(np.repeat(in_P, 2), np.repeat(out_Q, 2), alpha, delta, random)


def lax_interval(area: float, n_in: int, n_out: int, level: float) -> tuple[float, float]:
    return roc.auc_interval(area, n_in, n_out, 1 - 4 * (1 - level))


def lax_bound(attack: Any, alpha: float) -> float:
    return bound_at(attack, 8 * alpha)


def images_for_patients(in_P: np.ndarray, out_Q: np.ndarray) -> dict[str, Any]:
    """As if each patient's image were counted twice: p is about its square."""
    return worst_patients(np.repeat(in_P, 2), np.repeat(out_Q, 2))


@pytest.mark.parametrize(
    ("where", "broken"),
    [
        ("imgsynth.audit.evidence.epsilon_lower_bound", chosen_where_counted),
        ("imgsynth.audit.evidence.epsilon_lower_bound", counted_twice),
        ("imgsynth.audit.verdict.auc_interval", lax_interval),
        ("imgsynth.audit.verdict.bound_at", lax_bound),
        ("imgsynth.audit.evidence.worst_patients", images_for_patients),
    ],
    ids=["threshold of the same half", "twins across the halves", "lax AUC", "lax bound", "images for patients"],
)
@pytest.mark.parametrize(("n_in", "n_out"), [(50, 80), (200, 150)])
def test_a_broken_rule_fires_too_often(
    n_in: int, n_out: int, where: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, broken)
    for seed in (1, 2):
        assert swapped(n_in, n_out, seed=seed).passed is False


def test_a_bound_that_is_too_high_is_seen_though_the_rule_as_a_whole_fires_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the bounds alone: two per cent above 0 are within the rule's five, and ten times what bounds may show."""
    assert false_alarms(60, 80, ALPHA, DELTA) < 0.003
    monkeypatch.setattr(negative, "leak", lambda attack, alpha: None)
    assert swapped(60, 80).passed
    monkeypatch.setattr("imgsynth.audit.evidence.epsilon_lower_bound", chosen_where_counted)
    found = swapped(60, 80)
    assert found.passed is False and found.value == 0.0


def test_two_groups_of_scores_are_silent_and_notice_another_scanner_and_too_few() -> None:
    random = np.random.default_rng(0)
    assert of_two_holdouts(random.standard_normal(80), random.standard_normal(60)).passed
    for shift in (-1, 1):
        assert of_two_holdouts(random.standard_normal(80) + shift, random.standard_normal(60)).passed is False
    too_few = of_two_holdouts(np.arange(2.0), np.arange(60.0))
    assert too_few.passed is None and not too_few.required


class OnTheModel(NearestNeighbour):
    name, access = "on_the_model", "white box"


class ByRecipe(NearestNeighbour):
    name, access = "by_recipe", "recipe"


def unseen(trial: Any, seed: int, test_patients: int) -> tuple[Images, Images, Images]:
    """Non-members, test split and samples; the samples know neither."""
    _, outside, samples = trial(0.2, seed, members=80, nonmembers=80 + test_patients, samples=300)
    names = np.random.default_rng(seed).permutation(outside.names_P)
    return outside.of_patients(names[:80]), outside.of_patients(names[80:]), samples


def held_against(attack: Any, trial: Any, seed: int, brighter: float = 0.0, test_patients: int = 80):  # type: ignore[no-untyped-def]
    nonmembers, test_split, samples = unseen(trial, seed, test_patients)
    released = Released(samples, test_split.with_images(test_split.x_NC + brighter) if test_patients else None)
    attack.prepare(released)
    return two_holdouts(attack, nonmembers, attack.scores(nonmembers), released, np.random.default_rng(seed))


@pytest.mark.parametrize("family", [NearestNeighbour, OnTheModel, CalibratedNearestNeighbour])
def test_holdout_and_test_split_are_told_apart_where_they_are_of_two_sites_and_only_there(
    family: Any, trial: Any
) -> None:
    alike = [held_against(family("raw", TOOLS), trial, seed) for seed in range(6)]
    assert all(one.required for one in alike)
    assert sum(one.passed is False for one in alike) <= 1
    for seed in range(3):
        assert held_against(family("raw", TOOLS), trial, seed, brighter=0.4).passed is False


def test_an_attack_that_holds_test_patients_is_not_asked_about_them(trial: Any) -> None:
    holds, asked = [], []

    class Spy(CalibratedNearestNeighbour):
        def prepare(self, released: Released) -> None:
            holds.append(released.reference)
            super().prepare(released)

        def scores(self, patients: Images) -> np.ndarray:
            asked.append(patients)
            return super().scores(patients)

    assert held_against(Spy("raw", TOOLS), trial, 0).passed is not None
    whole, half = holds
    before, nonmembers, others = asked
    assert before is nonmembers, "the holdout is scored again, with the half in hand"
    assert half.n_patients == others.n_patients == 40
    assert sorted([*half.names_P, *others.names_P]) == sorted(whole.names_P)


def test_where_nobody_can_be_asked_the_control_says_why(trial: Any) -> None:
    class Demanding(CalibratedNearestNeighbour):
        def prepare(self, released: Released) -> None:
            if released.reference is None or released.reference.n_patients < 80:
                raise NotApplicable("it takes 80")
            super().prepare(released)

    for attack, patients, why in (
        (NearestNeighbour("raw", TOOLS), 0, "no test split"),
        (ByRecipe("raw", TOOLS), 80, "none was trained on test patients"),
        (NearestNeighbour("raw", TOOLS), 2, "80 and 2 patients are too few"),
    ):
        found = held_against(attack, trial, 0, test_patients=patients)
        assert found.passed is None and not found.required and why in found.detail
    found = held_against(Demanding("raw", TOOLS), trial, 0)
    assert found.passed is None and not found.required and found.detail.endswith("it takes 80")


@pytest.mark.parametrize("primary", ["nearest_neighbour/raw", "calibrated_nearest_neighbour/raw"])
def test_an_audit_with_a_test_split_from_elsewhere_is_inconclusive(primary: str, trial: Any) -> None:
    nonmembers, test_split, samples = unseen(trial, 2, 160)
    members, test_split = (test_split.of_patients(test_split.names_P[i::2]) for i in range(2))
    settings = AuditConfig(attacks=[primary], primary=primary, bootstrap=20)
    released = Released(samples, replace(test_split, x_NC=test_split.x_NC + 0.5))
    found = audit(members, nonmembers, released, TOOLS.encoder, settings, 8.0, DELTA)
    failed = [one["name"] for one in found["controls"] if one["required"] and one["passed"] is not True]
    assert failed == [f"two holdouts, {primary}"]
    assert found["verdict"].startswith(
        "INCONCLUSIVE: negative control: two groups of patients that were not trained on can"
    )
