"""Choosing among finished runs: charged on their cohort, made once, and stated by the winner's card."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from dp_accounting import dp_event as dp

from imgsynth import pipeline
from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import compose
from imgsynth.privacy.ledger import Ledger
from imgsynth.release.card import fresh_card
from imgsynth.schema import PreprocessConfig, SplitsConfig
from imgsynth.training import once, select_runs
from imgsynth.training.run import load_run
from imgsynth.types import InputError

HALF = ["selection.rule=noisy_max", "selection.epsilon=0.5", "selection.samples=8"]


@pytest.fixture
def runs(configure, train_run):
    """Two runs on one named cohort, with other learning rates."""

    def make(second=None, unlike=None, **data):
        made = []
        for number, rate in enumerate((1e-3, 3e-2)):
            named = {"cohort": "them", **data, **((second or {}) if number else {})}
            other = (unlike or {}) if number else {}
            privacy = {"seed": None, **other.get("privacy", {})}
            cfg = configure("vae", data=named, trainer={"learning_rate": rate, "steps": 4},
                            **{**other, "privacy": privacy})  # fmt: skip
            made.append(train_run(cfg, f"run{number}"))
        return made

    return make


def test_the_choice_is_charged_and_the_winners_card_states_all_of_it(runs, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(select_runs, "choose", lambda rule, votes, mode: seen.append((rule, votes, mode)) or 1)
    made = runs()
    winner = load_run(made[1])
    before = fresh_card(winner)["cohort_ledger"]
    record = json.loads(pipeline.select(made, [*HALF, f"output={tmp_path / 'choice'}"]).read_text())
    ((rule, votes, mode),) = seen
    assert (rule.rule, rule.epsilon, mode, len(votes)) == ("noisy_max", 0.5, "dp", 2)
    assert sum(votes) == len(winner.manifest.patients("train")) < len(winner.manifest.items)
    assert record["selected"] == str(made[1]) and "votes" not in json.dumps(record)

    entries = Ledger(winner.config.privacy.ledger).entries("them")
    assert [entry.state for entry in entries] == ["closed"] * 3
    assert entries[2].event == dp.DiscreteLaplaceDpEvent(0.5, 1) and entries[2].patients == entries[0].patients
    by_hand = epsilon(compose([entry.event for entry in entries]), 1e-2)
    card = fresh_card(winner)["cohort_ledger"]
    assert card["runs"] == 3 and math.isclose(card["epsilon"], by_hand, rel_tol=1e-3)
    assert card["epsilon"] > before["epsilon"] > winner.plan.epsilon
    assert record["cohort_total"] == {"epsilon": card["epsilon"], "delta": 1e-2, "entries": 3}


@pytest.mark.parametrize("where", ["draw", "publish", "rename"])
def test_killed_anywhere_it_is_charged_once_and_drawn_once_from_then_on(where, runs, tmp_path, monkeypatch):
    made, drawn, real = runs(), [], select_runs.choose

    def spy(*arguments):
        drawn.append(real(*arguments))
        return drawn[-1]

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(select_runs, "choose", spy)
    settings = [
        "selection.rule=exponential",
        "selection.epsilon=1e-3",
        "selection.samples=8",
        f"output={tmp_path / 'c'}",
    ]
    with monkeypatch.context() as broken:
        target = {"draw": (once, "write_json"), "publish": (Ledger, "publish"), "rename": (once, "rename")}[where]
        broken.setattr(*target, stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline.select(made, settings)
    for _ in range(2):
        record = json.loads(pipeline.select(made, settings).read_text())
    assert len(drawn) == (2 if where == "draw" else 1) and record["selected"] == str(made[drawn[-1]])
    ledger = Ledger(load_run(made[0]).config.privacy.ledger)
    assert len(ledger.entries("them")) == 3
    (tmp_path / "c" / "selection.json").unlink()
    with pytest.raises(InputError, match="cannot be made twice"):
        pipeline.select(made, settings)
    with pytest.raises(InputError, match="another mechanism"):
        pipeline.select(made, [*settings, "selection.epsilon=0.9"])


def test_over_the_budget_nothing_is_chosen(runs, tmp_path):
    made = runs()
    ledger = Ledger(load_run(made[0]).config.privacy.ledger)
    ledger.set_budget("them", ledger.composed_epsilon("them", 1e-2) + 0.01)
    with pytest.raises(InputError, match="budget"):
        pipeline.select(made, [*HALF, f"output={tmp_path / 'c'}"])
    assert not (tmp_path / "c" / "selection.json").exists() and len(ledger.entries("them")) == 2


def faults(made, settings):
    with pytest.raises(InputError) as caught:
        pipeline.select(made, settings)
    return {fault.where for fault in caught.value.faults}


def test_what_cannot_be_chosen_among_is_said_before_anything_is_spent(runs, tmp_path):
    made, output = runs(second={"cohort": "others"}), f"output={tmp_path / 'c'}"
    assert faults(made, [*HALF, output]) == {f"run {made[1]}, data.cohort"}
    assert faults([made[0]] * 2, [*HALF, output]) == {"imgsynth select, runs"}
    assert faults(made[:1], ["selection.every=3", output]) == {
        "imgsynth select, runs", "selection.rule", "selection.epsilon", "selection.every"}  # fmt: skip
    assert faults(made, ["selection.rule=best", "trainer.steps=3"]) == {"selection.rule", "trainer.steps", "output"}
    assert "output" in faults(made, [*HALF, f"output={made[0]}"])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("unlike", "word"),
    [({"preprocess": PreprocessConfig(shape=[8, 8], fit="resize", intensity="window", low=0, high=200)}, "preprocess"),
     ({"data": {"cohort": "them", "splits": SplitsConfig(seed=5)}}, "training patients"),
     ({"privacy": {"ledger": "elsewhere"}}, "ledger")],
    ids=["another preprocess", "other patients", "another ledger"],
)  # fmt: skip
def test_runs_that_no_vote_can_compare_or_no_account_holds_are_refused(unlike, word, runs, tmp_path):
    if "preprocess" in unlike:
        unlike = {"preprocess": dataclasses.asdict(unlike["preprocess"])}
    if "privacy" in unlike:
        unlike = {"privacy": {"ledger": str(tmp_path / "elsewhere")}}
    second = unlike.pop("data", None)
    made = runs(second=second, unlike=unlike)
    with pytest.raises(InputError) as caught:
        pipeline.select(made, [*HALF, f"output={tmp_path / 'c'}"])
    (fault,) = caught.value.faults
    assert word in f"{fault.where} {fault.got}" and not (tmp_path / "c").exists()
    assert len(Ledger(load_run(made[0]).config.privacy.ledger).entries("them")) == (1 if word == "ledger" else 2)


def test_a_run_that_is_not_finished_or_not_on_record_is_refused(runs, tmp_path):
    made = runs()
    own, output = (made[1] / "run_id.txt").read_text(), f"output={tmp_path / 'c'}"
    (made[1] / "run_id.txt").write_text("0" * 32 + "\n")
    with pytest.raises(InputError, match="that the ledger does not have"):
        pipeline.select(made, [*HALF, output])
    (made[1] / "run_id.txt").write_text(own)
    config = (made[1] / "config.json").read_text()
    (made[1] / "config.json").write_text(config.replace('"steps": 4', '"steps": 5'))
    with pytest.raises(InputError, match="a finished run"):
        pipeline.select(made, [*HALF, output])
    (made[1] / "config.json").write_text(config)
    record = json.loads(pipeline.select(made, [*HALF, output]).read_text())
    with pytest.raises(InputError, match="has chosen"):  # the folder has chosen among others
        pipeline.select(made[::-1], [*HALF, output])
    assert json.loads((tmp_path / "c" / "selection.json").read_text()) == record


def test_the_ledger_states_the_choices_epsilon_at_the_smallest_delta_and_its_budget(runs, tmp_path):
    made = runs(unlike={"privacy": {"delta": 5e-3}})
    record = json.loads(pipeline.select(made, [*HALF, f"output={tmp_path / 'c'}"]).read_text())
    entry = Ledger(load_run(made[0]).config.privacy.ledger).entries("them")[-1]
    assert (entry.epsilon, entry.delta, record["cohort_total"]["delta"]) == (0.5, 5e-3, 5e-3)


def test_runs_without_a_cohorts_name_are_refused(configure, train_run, tmp_path):
    cfg = configure("vae", privacy={"seed": None}, trainer={"steps": 2})
    one = train_run(cfg, "a")
    other = train_run(dataclasses.replace(cfg, trainer=dataclasses.replace(cfg.trainer, learning_rate=0.1)), "b")
    found = faults([one, other], [*HALF, f"output={tmp_path / 'c'}"])
    assert found == {f"run {one}, data.cohort", f"run {other}, data.cohort"}
