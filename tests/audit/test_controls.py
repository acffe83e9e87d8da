"""Controls and whole audits: caught when leaking, silent when not, and never more certain than the patients allow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools, full_name
from imgsynth.audit.attacks.nearest_neighbour import NearestNeighbour
from imgsynth.audit.blind import blind_baseline
from imgsynth.audit.controls import (
    NOISE,
    Control,
    Dose,
    Response,
    detectable,
    dose_controls,
    missing,
    power,
    responses,
)
from imgsynth.audit.registry import FAMILIES, NAMES, Family, build
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.audit.run import audit
from imgsynth.measure.encoders import Encoder, get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder("random_conv", 2, 0)


def raw(n: int, seed: int = 0) -> Images:
    x_NC = np.random.default_rng(seed).uniform(-1, 1, (n, 1, 8, 8)).astype(np.float32)
    return Images(x_NC, np.zeros(n, dtype=int), np.array([f"{seed}-{i:04d}" for i in range(n)]))


def doses(trial, seed: int, members: int = 100, nonmembers: int = 80, samples: int = 500, **more):  # type: ignore[no-untyped-def]
    inside, outside, synthetic = trial(0.0, seed, members=members, nonmembers=nonmembers, samples=samples)
    reference = trial(0.0, seed + 100, members=80, nonmembers=1)[0]
    attack = NearestNeighbour("raw", Tools(get_encoder("random_conv", 2, 0), AuditConfig()))
    return responses([attack], inside, outside, Released(synthetic, reference), np.random.default_rng(seed), **more)


def test_dose_and_response_through_the_attacks_own_code(trial) -> None:  # type: ignore[no-untyped-def]
    found = doses(trial, 3)
    assert [(one.dose.rate, one.dose.noise) for one in found] == [(0, 0), (0.01, 0), (0.05, 0), (0.2, 0), (0.2, NOISE)]
    assert [one.caught for one in found[-2:]] == [True, True] and not found[0].caught
    assert found[3].auc > found[2].auc > found[0].auc
    assert found[3].copied == 1.0 and found[2].copied == 0.25
    controls = dose_controls(found)
    assert [control.kind for control in controls] == ["negative"] + 4 * ["positive"]
    assert [control.required for control in controls] == [True, False, False, True, True]
    assert all(control.passed for control in controls if control.required)


def test_a_leak_that_the_attack_cannot_see_fails_the_control(trial) -> None:  # type: ignore[no-untyped-def]
    (blurred,) = dose_controls(doses(trial, 3, doses=[Dose(0.2, 30.0)]))
    assert blurred.passed is False and blurred.required


def test_the_innocent_synthesizer_fires_where_members_differ_from_non_members(trial) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 3, members=100, nonmembers=80, samples=300)
    reference = trial(0.0, 103, members=80, nonmembers=1)[0]
    attack = NearestNeighbour("raw", Tools(get_encoder("random_conv", 2, 0), AuditConfig()))
    brighter = nonmembers.with_images(nonmembers.x_NC + 0.3)
    random = np.random.default_rng(0)
    (one,) = responses([attack], members, brighter, Released(synthetic, reference), random, [Dose(0.0)])
    assert dose_controls([one])[0].passed is False


def test_without_reference_patients_the_released_samples_are_the_ground_of_the_leak(trial) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 3, members=60, nonmembers=60, samples=300)
    attack = NearestNeighbour("raw", Tools(get_encoder("random_conv", 2, 0), AuditConfig()))
    found = responses([attack], members, nonmembers, Released(synthetic), np.random.default_rng(0))
    assert [one.dose.rate for one in found] == [0.01, 0.05, 0.2, 0.2]
    assert found[2].caught


def test_the_attackers_reference_is_not_what_the_innocent_synthesizer_is_made_of(trial) -> None:  # type: ignore[no-untyped-def]
    seen: list[Released] = []

    class Spy(NearestNeighbour):
        def prepare(self, released: Released) -> None:
            seen.append(released)
            super().prepare(released)

    members, nonmembers, synthetic = trial(0.0, 3, members=30, nonmembers=30, samples=100)
    reference = trial(0.0, 103, members=40, nonmembers=1)[0]
    attack = Spy("raw", Tools(get_encoder("random_conv", 2, 0), AuditConfig()))
    responses([attack], members, nonmembers, Released(synthetic, reference), np.random.default_rng(0), [Dose(0.0)])
    (released,) = seen
    assert released.reference is not None and released.reference.n_patients == 20
    source = reference.select(~np.isin(reference.patients_N, released.reference.names_P))
    again = np.linalg.lstsq(source.x_NC.reshape(20, -1).T, released.samples.x_NC.reshape(100, -1).T, rcond=None)
    rebuilt = source.x_NC.reshape(20, -1).T @ again[0]
    assert np.abs(rebuilt - released.samples.x_NC.reshape(100, -1).T).max() < 1e-4


@pytest.mark.parametrize(("copied", "n_in", "n_out"), [(0.1, 60, 90), (0.2, 90, 60), (0.3, 40, 40)])
def test_power_is_that_of_simulations(copied: float, n_in: int, n_out: int) -> None:
    random, caught, runs = np.random.default_rng(0), 0, 1500
    for _ in range(runs):
        in_P, out_Q = random.uniform(size=n_in), random.uniform(size=n_out)
        in_P[: round(copied * n_in)] += 1
        caught += auc(in_P, out_Q) > detectable(n_in, n_out)
    assert power(copied, n_in, n_out) == pytest.approx(caught / runs, abs=0.05)
    assert power(0.0, n_in, n_out) == pytest.approx(0.025, abs=0.005)
    assert power(1.0, n_in, n_out) == 1.0


@pytest.mark.parametrize(("n_in", "n_out"), [(8, 20), (200, 90)])
def test_detectable_is_where_the_interval_leaves_one_half(n_in: int, n_out: int) -> None:
    area = detectable(n_in, n_out)
    assert auc_interval(area - 1e-3, n_in, n_out)[0] < 0.5 < auc_interval(area + 1e-3, n_in, n_out)[0]


def test_five_per_cent_of_copies_are_required_of_a_large_cohort() -> None:
    few, many = (Response("a", Dose(0.05), 0.2, 0.6, 0.55, 0.65, {}, power(0.2, n, n)) for n in (60, 1000))
    assert [control.required for control in dose_controls([few, many])] == [False, True]
    noisy = Response("a", Dose(0.05, 0.1), 0.2, 0.6, 0.55, 0.65, {}, power(0.2, 1000, 1000))
    assert not dose_controls([noisy])[0].required


GOOD = Control("c", "positive", True, 1.0, 0.9, 1.0, "caught")


def test_silence_without_a_positive_control_means_nothing() -> None:
    assert missing([GOOD]) == []
    (said,) = missing([replace(GOOD, kind="negative")])
    assert said.passed is None and said.required


def test_blind_classifier_passes_random_splits_and_catches_another_scanner(digits, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    x, y = digits
    failed = 0
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(len(y))
        sides = [Images(x[i], y[i], np.array([f"p{k}" for k in i])) for i in (order[:60], order[60:110])]
        features = [encoder.encode(side.x_NC) for side in sides]
        failed += blind_baseline(features[0], sides[0], features[1], sides[1]).passed is False
    assert failed <= 1
    brighter = sides[1].with_images(sides[1].x_NC + 0.2)
    assert blind_baseline(features[0], sides[0], encoder.encode(brighter.x_NC), brighter).passed is False
    assert blind_baseline(features[0][:6], sides[0].select(np.arange(6)), features[1], sides[1]).passed is None


def test_blind_classifier_counts_patients_not_images(encoder: Encoder) -> None:
    """Ten copies of every image must not make chance differences significant."""
    sides = [raw(30, 5), raw(30, 6)]
    repeated = [side.select(np.repeat(np.arange(30), 10)) for side in sides]
    once, often = (blind_baseline(encoder.encode(a.x_NC), a, encoder.encode(b.x_NC), b) for a, b in (sides, repeated))
    assert (once.low, once.high) == pytest.approx((often.low, often.high), abs=1e-3)


def test_audit_of_a_leaking_generator_breaks_a_false_proof(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.2, 1)
    settings = AuditConfig(attacks=["nearest_neighbour/raw", "nearest_neighbour/pca", "logan"], bootstrap=100)
    found = audit(members, nonmembers, Released(synthetic), encoder, settings, 0.5, 1e-5)
    assert found["verdict"].startswith("VIOLATION")
    assert 1.0 < found["epsilon_lower_bound"] <= found["power"]["ceiling"]
    assert (found["power"]["n_members"], found["power"]["counted_members"]) == (200, 100)  # half chose the threshold
    assert [a["role"] for a in found["attacks"]] == ["primary", "exploratory"]
    assert "attack logan" in [one["what"] for one in found["not_done"]]
    assert {one["attack"] for one in found["dose_response"]} == set(settings.attacks[:2])
    assert found["copies"]["low"] > 0.5
    json.dumps(found, allow_nan=False)
    without_proof = audit(members, nonmembers, Released(synthetic), encoder, AuditConfig(), None, 1e-5)
    assert without_proof["verdict"].startswith("LEAK FOUND: nearest_neighbour/raw: AUC")


def test_audit_of_an_honest_generator_says_no_more_than_it_saw(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 1, samples=600)
    found = audit(members, nonmembers, Released(synthetic), encoder, AuditConfig(), 8.0, 1e-5)
    assert found["verdict"].startswith("NO LEAK FOUND (tested: nearest_neighbour/raw")
    assert "80 % of audits would show" in found["power"]["sentence"]
    assert found["attacks"][0]["auc_low"] < 0.5 < found["attacks"][0]["auc_high"]
    chance = found["copies"]["chance"]
    assert chance["low"] < found["copies"]["share"] < chance["high"] and chance["p"] > 0.025


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 1), (5, 4), (1, 0), (0, 0), (12, 5)])
def test_a_handful_of_patients_is_inconclusive_not_a_crash(n_in: int, n_out: int, encoder: Encoder) -> None:
    images = raw(20, 3)
    released = Released(synthetic_images(images.x_NC, images.y_N))
    found = audit(raw(n_in, 1), raw(n_out, 2), released, encoder, AuditConfig(), 8.0, 1e-5)
    assert found["verdict"].startswith("INCONCLUSIVE")
    assert min(n_in, n_out) >= 4 or {n["what"] for n in found["not_done"]} >= {"attacks", "copy check"}
    json.dumps(found, allow_nan=False)


def test_an_attack_that_cannot_be_run_is_listed_with_its_reason(
    trial, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    class NeedsReference(NearestNeighbour):
        def prepare(self, released: Released) -> None:
            raise NotApplicable("no reference patients")

    monkeypatch.setitem(FAMILIES, "needs_reference", Family(NeedsReference))
    members, nonmembers, synthetic = trial(0.0, 1, members=20, nonmembers=20, samples=50)
    settings = AuditConfig(attacks=["needs_reference", "nearest_neighbour/raw"])
    found = audit(members, nonmembers, Released(synthetic), encoder, settings, 8.0, 1e-5)
    assert [attack["name"] for attack in found["attacks"]] == ["nearest_neighbour"]
    assert {"what": "attack needs_reference", "why": "no reference patients"} in found["not_done"]
    settings = AuditConfig(attacks=["needs_reference"], primary="needs_reference")
    found = audit(members, nonmembers, Released(synthetic), encoder, settings, 8.0, 1e-5)
    assert found["verdict"].startswith("INCONCLUSIVE")


def test_controls_that_are_switched_off_leave_the_audit_inconclusive(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.2, 1, members=60, nonmembers=60, samples=300)
    found = audit(members, nonmembers, Released(synthetic), encoder, AuditConfig(controls=False), 8.0, 1e-5)
    assert found["verdict"].startswith("INCONCLUSIVE") and "switched off" in found["verdict"]
    assert found["dose_response"] == []


def test_an_attack_on_the_model_needs_a_positive_control_of_its_own(
    trial, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    class OnTheModel(NearestNeighbour):
        name, access = "on_the_model", "white box"

    monkeypatch.setitem(FAMILIES, "on_the_model", Family(OnTheModel, ("raw",)))
    members, nonmembers, synthetic = trial(0.0, 1, members=60, nonmembers=60, samples=300)
    settings = AuditConfig(attacks=["on_the_model/raw", "nearest_neighbour/raw"], primary="on_the_model/raw")
    found = audit(members, nonmembers, Released(synthetic), encoder, settings, 8.0, 1e-5)
    assert found["verdict"].startswith("INCONCLUSIVE: positive control")
    assert {one["attack"] for one in found["dose_response"]} == {"nearest_neighbour/raw"}


def test_half_of_the_reference_may_be_too_few_for_an_attack(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 1, members=20, nonmembers=20, samples=100)
    released = Released(synthetic, reference=raw(7, 5))
    settings = AuditConfig(attacks=["nearest_neighbour/raw", "domias/pca"])
    found = audit(members, nonmembers, released, encoder, settings, 8.0, 1e-5)
    assert [attack["name"] for attack in found["attacks"]] == ["nearest_neighbour", "domias"]
    assert {one["attack"] for one in found["dose_response"]} == {"nearest_neighbour/raw"}


def test_where_all_attacks_decide_each_answers_to_controls_of_its_own(
    trial, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """An attack that sees nothing at all must not count as silence, whatever the others see."""

    class Blind(NearestNeighbour):
        name = "blind"

        def scores(self, patients: Images) -> np.ndarray:
            return np.random.default_rng(len(patients)).random(patients.n_patients)

    monkeypatch.setitem(FAMILIES, "blind", Family(Blind, ("raw",)))
    members, nonmembers, synthetic = trial(0.0, 1, members=60, nonmembers=60, samples=300)
    settings = AuditConfig(attacks=["nearest_neighbour/raw", "blind/raw"], primary=None)
    found = audit(members, nonmembers, Released(synthetic), encoder, settings, 8.0, 1e-5)
    names = [control["name"] for control in found["controls"]]
    assert len(set(names)) == len(names)
    for attack in settings.attacks:
        assert {f"label swap, {attack}", f"two holdouts, {attack}"} <= set(names)
    swaps = [one["detail"] for one in found["controls"] if one["name"].startswith("label swap")]
    assert all("12.5 at most are expected" in said for said in swaps), "2.5 % of 500: each decides at α/2"
    failed = {c["name"] for c in found["controls"] if c["required"] and c["passed"] is not True}
    assert failed and all(name.endswith("blind/raw") for name in failed)
    assert found["verdict"].startswith("INCONCLUSIVE")
    seeing = AuditConfig(attacks=["nearest_neighbour/raw", "nearest_neighbour/pca"], primary=None)
    found = audit(members, nonmembers, Released(synthetic), encoder, seeing, 8.0, 1e-5)
    assert found["verdict"].startswith("NO LEAK FOUND")


def test_a_missed_control_that_is_not_required_does_not_decide(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 1, members=60, nonmembers=60, samples=300)
    found = audit(members, nonmembers, Released(synthetic), encoder, AuditConfig(), 8.0, 1e-5)
    missed = [one for one in found["controls"] if one["passed"] is not True]
    assert missed and not any(one["required"] for one in missed)
    assert not found["verdict"].startswith("INCONCLUSIVE")


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_answers_to_its_name(name: str, encoder: Encoder) -> None:
    assert full_name(build(name, Tools(encoder, AuditConfig()))) == name
