"""The table of what n patients can afford, against published calculations and the plan's own calibration."""

from __future__ import annotations

import math

import pytest

from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import training_event
from imgsynth.privacy.plan import make_plan
from imgsynth.schema import PrivacyConfig, TrainerConfig
from imgsynth.training.propose import honest_word, plan_table, print_proposal
from imgsynth.types import InputError


@pytest.mark.parametrize(
    ("n", "batch", "steps", "sigmas"),
    [
        (500, 100, 2000, {1: 28.8, 3: 11.1, 8: 5.0}),
        (2000, 256, 3000, {1: 25.4, 3: 9.6, 8: 4.2}),
        (20_000, 1024, 4000, {1: 13.6, 3: 5.1, 8: 2.3}),
    ],
)
def test_known_noise_multipliers(n: int, batch: int, steps: int, sigmas: dict[float, float]) -> None:
    """Computed independently with dp-accounting's RDP accountant, δ = 1/(n ln n), to the digits that were stated."""
    delta = 1 / (n * math.log(n))
    rows = plan_table(n, delta, tuple(sigmas), (steps,), (batch,))
    found = {row["epsilon"]: row["noise_multiplier"] for row in rows}
    assert found == {e: pytest.approx(sigma, rel=0.015, abs=0.05) for e, sigma in sigmas.items()}


def test_the_noise_reaches_epsilon_and_hardly_more_than_the_plan_takes() -> None:
    (row,) = plan_table(600, 1e-4, (3.0,), (100,), (64,))
    sigma = row["noise_multiplier"]
    plan = make_plan(PrivacyConfig(epsilon=3.0, delta=1e-4), n=600, steps=100, images_per_patient=1, unit="patient")
    assert epsilon(training_event(64 / 600, sigma, 100), 1e-4) <= 3.0
    assert 1.0 <= sigma / plan.noise_multiplier < 1.12  # RDP against the tighter PLD
    assert epsilon(training_event(64 / 600, sigma / 1.15, 100), 1e-4) > 3.0


def test_a_query_beside_training_costs_noise_as_in_the_plan() -> None:
    privacy = PrivacyConfig(epsilon=3.0, delta=1e-4, query_share=0.5)
    (alone,) = plan_table(600, 1e-4, (3.0,), (100,), (64,), privacy)
    (row,) = plan_table(600, 1e-4, (3.0,), (100,), (64,), privacy, queries=1)
    asked = [("moments", 1.0)]
    plan = make_plan(privacy, n=600, steps=100, images_per_patient=1, unit="patient", queries=asked)
    assert 1.0 <= row["noise_multiplier"] / plan.noise_multiplier < 1.15  # RDP against the tighter PLD
    assert row["noise_multiplier"] > 1.05 * alone["noise_multiplier"]
    word = print_proposal(600, privacy, TrainerConfig(steps=100), queries=1)["word"]
    assert f"σ/B = {row['noise_multiplier']:.3g}/64" in word
    given = PrivacyConfig(epsilon=None, noise_multiplier=2.0, query_noise_multiplier=2.0, delta=1e-4)
    words = [print_proposal(600, given, TrainerConfig(steps=100), queries=q)["word"].split()[5] for q in (0, 1)]
    assert float(words[0].rstrip(":")) < float(words[1].rstrip(":"))


def test_rows_say_what_they_are() -> None:
    rows = plan_table(400, 1e-4, (2.0,), (50, 200), (40, 4000))
    assert [(r["steps"], r["batch_patients"]) for r in rows] == [(50, 40), (200, 40)]  # no batch beyond the cohort
    assert rows[1]["epochs"] == 20 and rows[0]["sampling_rate"] == 0.1
    assert rows[0]["noise_per_signal"] == rows[0]["noise_multiplier"] / 40
    assert rows[0]["noise_multiplier"] < rows[1]["noise_multiplier"]


def test_an_epsilon_beyond_all_noise_is_refused() -> None:
    with pytest.raises(InputError, match="an ε that a noise multiplier"):
        plan_table(100, 1e-9, (1e-6,), (10_000,), (100,))


def test_the_word_gets_better_with_patients_and_is_plain_about_few() -> None:
    few = honest_word(300, 1.0, 30.0, 64)
    assert "blurs" in few and "public" in few and "300 patients" in few
    assert "coarse structure" in honest_word(2000, 8.0, 3.0, 128)
    assert "layout" in honest_word(50_000, 8.0, 1.0, 2048)
    assert "not releasable" in honest_word(300, None, 0.0, 64)
    assert "300 images at" in honest_word(300, 1.0, 30.0, 64, "image")


def test_the_proposal_is_printed_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    proposal = print_proposal(60, PrivacyConfig(epsilon=5.0, delta=1e-3, batch_patients=64), TrainerConfig(steps=20))
    printed = capsys.readouterr().out
    assert {row["epsilon"] for row in proposal["table"]} == {1, 3, 5, 8}
    assert {row["batch_patients"] for row in proposal["table"]} == {60}
    assert proposal["word"] in printed and "60" in printed
    given = PrivacyConfig(epsilon=None, noise_multiplier=2.0, delta=1e-3, batch_patients=64)
    by_sigma = print_proposal(60, given, TrainerConfig(steps=20))
    assert "60 patients at ε = " in by_sigma["word"] and "2/60" in by_sigma["word"]
    assert "ε = ∞" in print_proposal(60, PrivacyConfig(mode="none", delta=1e-3), TrainerConfig(steps=20))["word"]


def test_what_is_said_of_a_summary_is_not_what_is_said_of_a_network():
    word = honest_word(200, 1.0, 4.2, 200, summary=True)
    assert "noised in every direction by 4.2 times" in word and "fewer than about 13 patients" in word
    assert "σ/B" not in word
