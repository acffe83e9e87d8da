"""The privacy card says only what is true: bounds are rounded the safe way, and hold against known mechanisms."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
from scipy.stats import norm

from imgsynth.audit import verdict as audit_verdict
from imgsynth.files import read_json, write_json
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.patients import Patients
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.release.attacker import members_found_at_most
from imgsynth.release.audit_record import NO_RUN, OTHER_RUN, release_id, state_of
from imgsynth.release.card import (
    build_card,
    card_markdown,
    cohort_ledger,
    fresh_card,
    local_ledger,
)
from imgsynth.release.card_audit import NOT_AUDITED, VERDICTS, audit_part
from imgsynth.release.card_text import CASE_IDS, group_of_two
from imgsynth.release.rounding import round_down, round_up
from imgsynth.release.sample import sample_release
from imgsynth.release.update import update_card
from imgsynth.release.verify import verify_release
from imgsynth.schema import PrivacyConfig
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import load_run
from imgsynth.types import CheckFailed

LEDGER = {"epsilon": 8.0, "delta": 1e-5, "runs": 1, "this_run_recorded": True, "budget_epsilon": None}


def plan_of(**changes: object) -> PrivacyPlan:
    fields = {"mode": "dp", "unit": "patient", "n": 1000, "sampling_rate": 0.1, "steps": 100, "clipping_norm": 1.0,
              "noise_multiplier": 2.0, "images_per_patient": 2, "delta": 1e-5}  # fmt: skip
    return PrivacyPlan(**{**fields, **changes})  # type: ignore[arg-type]


def audit_json(folder: Path, verdict: str, lower: float | None) -> Path:
    of = state_of(folder) | {"release": release_id(folder / "release")}
    found = {"verdict": verdict, "epsilon_lower_bound": lower, "alpha": 0.05, "of": of, "leakage": {"clean": True}}
    write_json(folder / "audit.json", found)
    return folder


@pytest.mark.parametrize("value", [7.991, 7.9951, 8.0, 0.0123456, 1.0000001, 123.4])
def test_upper_bounds_are_never_rounded_down(value: float) -> None:
    assert value <= float(round_up(value)) <= value * 1.01


@pytest.mark.parametrize(("value", "expected"), [(1.99, 1.9), (2.0, 2.0), (0.04, 0.0), (0.3, 0.3)])
def test_lower_bounds_are_never_rounded_up(value: float, expected: float) -> None:
    assert round_down(value) == expected


@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0])
def test_the_attackers_limit_is_that_of_the_best_test_against_one_gaussian(sigma: float) -> None:
    """Without sampling, one step is N(0, σ²) against N(1, σ²), whose best test is Neyman and Pearson's."""
    plan = plan_of(sampling_rate=1.0, steps=1, noise_multiplier=sigma)
    for rate, found in members_found_at_most(plan).items():
        best = norm.cdf(norm.ppf(rate) + 1 / sigma)
        assert best <= found <= best * 1.02


def test_the_attackers_limit_is_one_without_a_proof_and_small_with_much_noise() -> None:
    assert set(members_found_at_most(plan_of(mode="none")).values()) == {1.0}
    for rate, found in members_found_at_most(plan_of(noise_multiplier=1000.0)).items():
        assert rate <= found <= rate * 1.1


def test_two_units_have_the_group_guarantee() -> None:
    epsilon, delta = group_of_two(1.0, 1e-5) or (0, 0)
    assert epsilon == 2.0 and delta == pytest.approx((1 + math.e) * 1e-5)
    assert group_of_two(20.0, 1e-5) is None and group_of_two(math.inf, 1e-5) is None


def test_every_verdict_of_an_audit_has_its_place_on_the_card(tmp_path: Path) -> None:
    for name in audit_verdict.WORDS:
        shown = audit_part(audit_json(tmp_path, f"{name}: 12 patients of ward 7", 1.99), None)
        assert name.startswith(shown["verdict"]) and "ward" not in str(shown) and shown["epsilon_lower_bound"] == 1.9
    assert set(VERDICTS) == set(audit_verdict.WORDS)
    assert audit_part(tmp_path / "elsewhere", None) == NOT_AUDITED
    assert audit_part(audit_json(tmp_path, "INCONCLUSIVE: too few", None), None)["epsilon_lower_bound"] is None


@pytest.mark.parametrize("labels", ["uniform", "histogram"])
@pytest.mark.parametrize("unit", ["patient", "image"])
def test_the_card_for_people_has_every_number(unit: str, labels: str, tmp_path: Path) -> None:
    plan = plan_of(unit=unit, histogram_epsilon=0.5 if labels == "histogram" else 0.0)
    card = build_card(plan, labels, LEDGER, audit_part(audit_json(tmp_path, "LEAK FOUND", 0.57), None))
    text = card_markdown(card)
    for number in (round_up(plan.epsilon), "1e-05", "1000", "0.1 ", "100", "**0.5**", "95 %", "LEAK FOUND"):
        assert number in text, number
    assert card["releasable"] and "NOT RELEASABLE" not in text
    assert ("NOT THE PATIENT" in text) == (unit == "image")
    assert card["guarantee"]["epsilon_training"] < card["guarantee"]["epsilon"] or labels == "uniform"
    assert ("label histogram alone | 0.5 |" in text) == (labels == "histogram")


@pytest.mark.parametrize(("unit", "ids", "counted"), [("patient", "patient", "patient"), ("patient", "case", "case"),
                                                     ("image", "case", "image")])  # fmt: skip
def test_case_ids_are_not_called_patients(unit: str, ids: str, counted: str) -> None:
    card = build_card(plan_of(unit=unit, ids=ids), "uniform", LEDGER, NOT_AUDITED)
    text = card_markdown(card)
    assert card["patient_ids"] == ids and f"n = 1000, the declared size of the training cohort in {counted}s" in text
    assert ("CASES, NOT PATIENTS" in text) == (counted == "case") == (card["unit_warning"] == CASE_IDS)
    assert ("case id" in card["adjacency"]) == (counted == "case")
    assert (f"one certain {counted} is in it" in text) and f"one vector for each {counted} in a step, clipped" in text
    assert (card["not_covered"][0] == card["unit_warning"]) == (counted != "patient")


@pytest.mark.parametrize(("sigma", "weak"), [(2.0, False), (0.45, True), (0.0, False)])
def test_a_proof_that_rules_out_nothing_is_called_weak(sigma: float, weak: bool) -> None:
    plan = plan_of(noise_multiplier=sigma)
    card = build_card(plan, "uniform", LEDGER, NOT_AUDITED)
    assert weak == (10 < plan.epsilon < math.inf) == ("WEAK PROOF" in card_markdown(card).split("## In figures")[0])
    assert card["releasable"] == (sigma > 0)  # by its mechanism; whether it is enough is the custodian's judgement


@pytest.mark.parametrize("declared", ["YES", "NO", None])
@pytest.mark.parametrize("sigma", [2.0, 0.0])
def test_burned_in_text_is_what_somebody_declared_and_yes_without_a_proof(declared: str | None, sigma: float) -> None:
    card = build_card(plan_of(noise_multiplier=sigma), "uniform", LEDGER, NOT_AUDITED, declared)
    assert card["burned_in_annotation"] == (declared if sigma else "YES")
    assert card["burned_in_note"] in card_markdown(card)
    assert ("Nobody has declared" in card["burned_in_note"]) == (declared is None and sigma > 0)


def test_the_card_says_that_the_audits_verdict_and_bound_are_of_private_data() -> None:
    limits = " ".join(build_card(plan_of(), "uniform", LEDGER, NOT_AUDITED)["not_covered"])
    assert "the audit's verdict and its lower bound" in limits and "Both are outputs of private data" in limits


def test_a_violation_found_by_the_audit_makes_the_release_not_releasable(ct_run: Path, tmp_path: Path) -> None:
    release = sample_release(ct_run, load_run(ct_run).config)
    try:
        update_card(audit_json(ct_run, "VIOLATION: the attack shows ε ≥ 9.2", 9.27))
        card = read_json(release / "privacy_card.json")
        assert card["releasable"] is False and "9.2" in card["not_releasable_because"][0]
        with pytest.raises(CheckFailed, match="NOT RELEASABLE"):
            verify_release(release)
        audit_json(ct_run, "NO LEAK FOUND (this attack)", 0.0)
        assert update_card(ct_run) == release / "privacy_card.json"
        verify_release(release)
        assert (
            read_json(sample_release(ct_run, load_run(ct_run).config) / "privacy_card.json")["audit"]["status"]
            == "audited"
        )
    finally:
        (ct_run / "audit.json").unlink()


@pytest.mark.parametrize("word", ["CLAIM REJECTED", "MECHANISM BROKEN"])
def test_a_contradiction_that_no_bound_shows_is_worded_without_one(ct_run: Path, word: str) -> None:
    """A test of the curve alone can refute the proof, with a bound of 0."""
    try:
        audit_json(ct_run, f"{word}: canaries", 0.0)
        (reason,) = fresh_card(load_run(ct_run))["not_releasable_because"]
    finally:
        (ct_run / "audit.json").unlink()
    assert "ε at least" not in reason and "more than" not in reason


def test_strings_of_the_source_make_a_release_not_releasable(ct_run: Path) -> None:
    try:
        audit_json(ct_run, "SOURCE STRINGS FOUND: 3 strings of the source, as in ward-7.txt", 0.0)
        card = fresh_card(load_run(ct_run))
    finally:
        (ct_run / "audit.json").unlink()
    assert card["audit"]["verdict"] == "SOURCE STRINGS FOUND" and not card["releasable"]
    assert "strings of the source" in card["not_releasable_because"][0] and "ward" not in str(card)
    page = card_markdown(card)
    assert "NOT RELEASABLE" in page and "within what ε allows" not in page


def test_an_audit_of_another_run_or_state_is_none_of_this_run(ct_run: Path, mr_run: Path, tmp_path: Path) -> None:
    """audit.json copied from another run, of a run that went on training, under another plan, and of nobody knows."""
    run_dir = Path(shutil.copytree(ct_run, tmp_path / "run"))
    config = load_run(run_dir).config
    audit_json(run_dir, "NO LEAK FOUND (this attack)", 0.0)
    own = read_json(run_dir / "audit.json")
    release = sample_release(run_dir, config)
    assert read_json(release / "privacy_card.json")["audit"]["verdict"] == "NO LEAK FOUND"
    older = Path(shutil.copytree(run_dir, tmp_path / "older"))
    with RunFolder(older).checkpoint.open("ab") as file:
        file.write(b"another state")
    planned = Path(shutil.copytree(run_dir, tmp_path / "planned"))
    write_json(RunFolder(planned).plan, read_json(RunFolder(planned).plan) | {"more": 1})
    others = {folder: own | {"of": state_of(folder)} for folder in (mr_run, older, planned)}
    for audit, why in [*((audit, OTHER_RUN) for audit in others.values()),
                       ({key: value for key, value in own.items() if key != "of"}, NO_RUN)]:  # fmt: skip
        write_json(run_dir / "audit.json", audit)
        update_card(run_dir)
        card = read_json(release / "privacy_card.json")
        assert card["audit"] == NOT_AUDITED | {"status": why}
        assert why in (release / "privacy_card.md").read_text()
        verify_release(release)


def test_a_release_that_was_written_after_the_audit_was_not_searched(ct_run: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(ct_run, tmp_path / "run"))
    config = load_run(run_dir).config
    release = sample_release(run_dir, config)
    update_card(audit_json(run_dir, "NO LEAK FOUND (this attack)", 0.0))
    for _ in range(2):  # and the card, which is written anew, changes nothing
        assert read_json(release / "privacy_card.json")["audit"]["release_searched"] is True
        assert "| made on these files |" in (release / "privacy_card.md").read_text()
        update_card(run_dir)
    sample_release(run_dir, config)
    for _ in range(2):
        assert read_json(release / "privacy_card.json")["audit"]["release_searched"] is False
        assert "does not speak of strings" in (release / "privacy_card.md").read_text()
        verify_release(release)
        update_card(run_dir)


def test_without_a_release_there_is_no_card_to_update(dx_run: Path) -> None:
    release = dx_run / "release"
    aside = dx_run / "aside"
    if release.exists():
        release.rename(aside)
    try:
        assert update_card(dx_run) is None
    finally:
        if aside.exists():
            aside.rename(release)


def test_a_run_that_the_ledger_does_not_have_is_not_releasable(ct_run: Path, tmp_path: Path) -> None:
    run = load_run(ct_run)
    assert cohort_ledger(run)["this_run_recorded"]
    elsewhere = dataclasses.replace(run.config.privacy, ledger=str(tmp_path))
    lost = dataclasses.replace(run, config=dataclasses.replace(run.config, privacy=elsewhere))
    assert not cohort_ledger(lost)["this_run_recorded"]
    card = build_card(run.plan, "uniform", cohort_ledger(lost), NOT_AUDITED)
    assert not card["releasable"] and "ledger" in card["not_releasable_because"][0]


def test_the_cohorts_composed_epsilon_counts_other_runs(ct_run: Path) -> None:
    run = load_run(ct_run)
    before = cohort_ledger(run)
    assert before["runs"] >= 1 and before["epsilon"] == pytest.approx(run.plan.epsilon, rel=1e-3)
    other = make_plan(PrivacyConfig(epsilon=2.0, delta=1e-4), n=1000, steps=10, images_per_patient=1, unit="patient")
    ledger = Ledger(run.config.privacy.ledger)
    ledger.open_entry(
        str(run.config.data.cohort), other.event(), run="another", epsilon=2.0, delta=1e-3, budget_epsilon=30.0
    )
    after = cohort_ledger(run)
    assert (
        after["runs"] == before["runs"] + 1 and after["epsilon"] > before["epsilon"] and after["budget_epsilon"] == 30.0
    )
    assert "ZQXJ" not in str(after)


def test_the_card_does_not_depend_on_who_is_in_another_cohort_too(ct_run: Path, tmp_path: Path) -> None:
    """Not the names of the others, and not whether one patient of theirs is one of ours: the local report has that."""
    run = load_run(ct_run)
    cards, locally = [], []
    ours = [f"p{i}" for i in range(1000)]
    for named in ("ours", None):
        for whom in ("p17", "somebody else"):
            folder = tmp_path / f"{named} {whom}"
            ledger = Ledger(folder)
            cohort = named or run.manifest.fingerprint
            for name, ids in ((cohort, ours), ("theirs", [whom])):
                ledger.open_entry(
                    name, run.plan.event(), run=RunFolder(ct_run).run_id() if name == cohort else "another",
                    epsilon=run.plan.epsilon, delta=run.plan.delta, patients=Patients(frozenset(ids)),
                )  # fmt: skip
            config = dataclasses.replace(
                run.config, privacy=dataclasses.replace(run.config.privacy, ledger=str(folder)),
                data=dataclasses.replace(run.config.data, cohort=named),
            )  # fmt: skip
            there = dataclasses.replace(run, config=config)
            cards.append(build_card(run.plan, "uniform", cohort_ledger(there), NOT_AUDITED))
            locally.append(local_ledger(there))
    assert cards[0] == cards[1] and cards[2] == cards[3]
    assert cards[0]["cohort_ledger"]["runs"] == 1
    assert cards[0]["cohort_ledger"]["epsilon"] == pytest.approx(run.plan.epsilon, rel=1e-3)
    assert [one["runs"] for one in locally] == [2, 1, 2, 1] and locally[0]["epsilon"] > locally[1]["epsilon"]
    assert locally[0]["shared"] == ["1 with cohort theirs (runs another)"] and locally[1]["shared"] == []


def test_the_card_of_a_cohort_without_a_name_shows_no_figure_of_other_runs(dx_run: Path) -> None:
    """Which runs are on record for the same content depends on every single patient in it."""
    run = load_run(dx_run)
    nameless = dataclasses.replace(run, config=dataclasses.replace(
        run.config, data=dataclasses.replace(run.config.data, cohort=None)))  # fmt: skip
    found = cohort_ledger(nameless)
    assert (found["runs"], found["epsilon"], found["budget_epsilon"]) == (None, None, None)
    page = card_markdown(build_card(run.plan, "uniform", found, NOT_AUDITED))
    assert "| All runs on the cohort, by its name | not shown: the cohort has no name" in page
    assert "| Budget of the cohort | not shown |" in page


def test_the_card_says_how_an_adaptive_norm_shares_the_noise() -> None:
    adaptive = {"clipping_quantile": 0.6, "count_noise_multiplier": 5.0, "augmentation_multiplicity": 4}
    texts = []
    for changes in ({}, adaptive):
        card = build_card(plan_of(**changes), "uniform", LEDGER, NOT_AUDITED)
        assert card["guarantee"]["epsilon"] == plan_of().epsilon
        texts.append(card_markdown(card))
    assert "| Clipping norm C | 1 |\n| Noise multiplier σ | 2 (standard deviation of the noise: σ·C) |" in texts[0]
    sigma_g = (2.0**-2 - 10.0**-2) ** -0.5
    assert f"{sigma_g:.5g}·C on the gradients' sum, 5 on the count" in texts[1] and "0.6-quantile" in texts[1]
    assert "at most 2, each in 4 copies |" in texts[1] and "copies |" not in texts[0]


def test_the_card_says_in_words_that_teachers_voted() -> None:
    gradients = card_markdown(build_card(plan_of(), "uniform", LEDGER, NOT_AUDITED))
    votes = plan_of(teachers=40, sampling_rate=1.0)
    card = build_card(votes, "uniform", LEDGER, NOT_AUDITED)
    text = card_markdown(card)
    assert card["guarantee"]["epsilon"] == votes.epsilon
    assert "PATE: 40 teachers" in text and "PATE" not in gradients
    assert "every patient's teacher votes in every step" in text
    for word in ("DP-SGD", "Clipping norm", "Gradient engine", "Normaliser"):
        assert word not in text and word in gradients
