"""Controls and verdicts: caught when leaking, silent when not, and never more certain than the patients allow."""

from __future__ import annotations

import json

import numpy as np
import pytest

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools, full_name
from imgsynth.audit.attacks.nearest_neighbour import NearestNeighbour
from imgsynth.audit.controls import Control, blind_baseline, leaky, negative_control, positive_control
from imgsynth.audit.registry import FAMILIES, NAMES, Family, build
from imgsynth.audit.run import audit
from imgsynth.audit.verdict import verdict
from imgsynth.measure.encoders import Encoder, get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder("random_conv", 2, 0)


def raw(n: int, seed: int = 0) -> Images:
    x_NC = np.random.default_rng(seed).uniform(-1, 1, (n, 1, 8, 8)).astype(np.float32)
    return Images(x_NC, np.zeros(n, dtype=int), np.array([f"{seed}-{i:04d}" for i in range(n)]))


def test_leaky_synthesizer_holds_a_fifth_of_distinct_members() -> None:
    synthetic, members = raw(100, 1), raw(40, 2)
    made = leaky(synthetic, members, 0.0, np.random.default_rng(0))
    same = (made.x_NC[:, None] == members.x_NC[None]).all((2, 3, 4))
    assert same.any(1).sum() == 20
    assert same.any(0).sum() == 20
    assert (made.x_NC[~same.any(1)] == synthetic.x_NC[~same.any(1)]).all()


def test_positive_control_is_caught_with_exact_and_noisy_copies_and_not_without_any(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 3, members=100, nonmembers=80, samples=300)
    attack, released = NearestNeighbour("raw", Tools(encoder, AuditConfig())), Released(synthetic)
    for noise in (0.0, 0.1):
        assert positive_control(attack, members, nonmembers, released, noise, np.random.default_rng(0)).passed
    blurred_out = positive_control(attack, members, nonmembers, released, 30.0, np.random.default_rng(0))
    assert blurred_out.passed is False


def test_negative_control_keeps_its_false_alarm_rate_and_notices_too_few() -> None:
    random = np.random.default_rng(0)
    assert negative_control(random.standard_normal(80), 0.05, random).passed
    assert negative_control(np.arange(5.0), 0.05, random).passed is None
    assert negative_control(random.standard_normal(80), 0.0, random).passed is False  # it does fire now and then


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


GOOD = Control("c", "positive", True, 1.0, 0.9, 1.0, "caught")
MISSED = Control("c", "positive", False, 0.5, 0.4, 0.6, "a leaky synthesizer was not caught")
TOO_FEW = Control("c", "blind", None, None, None, None, "9 patients are too few")
CLEAN, LEAK = {"auc_low": 0.45}, {"auc_low": 0.55}


@pytest.mark.parametrize(
    ("primary", "control", "bound", "proven", "expected"),
    [
        (CLEAN, GOOD, 0.0, 8.0, "NO LEAK FOUND (this attack)"),
        (LEAK, GOOD, 0.0, 8.0, "LEAK FOUND"),
        (CLEAN, GOOD, 0.3, 8.0, "LEAK FOUND"),
        (LEAK, GOOD, 0.5, None, "LEAK FOUND"),
        (CLEAN, MISSED, 0.0, 8.0, "INCONCLUSIVE: positive control: a leaky synthesizer was not caught"),
        (LEAK, MISSED, 0.5, 8.0, "INCONCLUSIVE: positive control"),
        (CLEAN, TOO_FEW, 0.0, 8.0, "INCONCLUSIVE: blind control: 9 patients are too few"),
        (None, GOOD, None, 8.0, "INCONCLUSIVE: too few patients"),
        (LEAK, GOOD, 2.0, 1.0, "VIOLATION: the attack shows ε ≥ 2 at confidence 95%, above the proven ε = 1"),
        (LEAK, MISSED, 2.0, 1.0, "VIOLATION"),
        (LEAK, GOOD, 1.0, 1.0, "LEAK FOUND"),
    ],
)
def test_verdict(primary, control, bound, proven, expected) -> None:  # type: ignore[no-untyped-def]
    said = verdict(primary, [control], bound, proven, 0.05)
    assert said.startswith(expected)
    assert "private" not in said


def test_audit_of_a_leaking_generator_breaks_a_false_proof(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.2, 1)
    found = audit(members, nonmembers, Released(synthetic), encoder, AuditConfig(bootstrap=100), 0.5, 1e-5)
    assert found["verdict"].startswith("VIOLATION")
    assert 1.0 < found["epsilon_lower_bound"] <= found["ceiling"]
    assert [a["role"] for a in found["attacks"]] == ["primary", "exploratory", "exploratory"]
    assert found["copies"]["low"] > 0.5
    json.dumps(found, allow_nan=False)
    without_proof = audit(
        members, nonmembers, Released(synthetic), encoder, AuditConfig(attacks=["nearest_neighbour/raw"]), None, 1e-5
    )
    assert without_proof["verdict"] == "LEAK FOUND"


def test_audit_of_an_honest_generator_says_no_more_than_it_saw(trial, encoder: Encoder) -> None:  # type: ignore[no-untyped-def]
    members, nonmembers, synthetic = trial(0.0, 1, samples=600)
    found = audit(
        members, nonmembers, Released(synthetic), encoder, AuditConfig(attacks=["nearest_neighbour/raw"]), 8.0, 1e-5
    )
    assert found["verdict"] == "NO LEAK FOUND (this attack)"
    assert found["attacks"][0]["auc_low"] < 0.5 < found["attacks"][0]["auc_high"]
    assert found["copies"]["patients_low"] < 0.5 < found["copies"]["patients_high"]


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


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_answers_to_its_name(name: str, encoder: Encoder) -> None:
    assert full_name(build(name, Tools(encoder, AuditConfig()))) == name
