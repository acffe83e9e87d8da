"""Which step a run ends with: chosen by the plan's rule, once, whatever is killed, and charged."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dp_accounting import dp_event as dp

from imgsynth.privacy import choose as mechanisms
from imgsynth.privacy.ledger import Ledger
from imgsynth.release.card import build_card, card_markdown, cohort_ledger
from imgsynth.release.card_audit import NOT_AUDITED
from imgsynth.release.provenance import weights_of
from imgsynth.schema import DataConfig
from imgsynth.training import loop, publish, selecting
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import load_run, model_factory
from imgsynth.training.voting import Candidates
from imgsynth.types import InputError

FEW = {"every": 3, "samples": 8}


@pytest.fixture
def chosen(configure):
    """``chosen("noisy_max", epsilon=0.5)``: a configuration of nine steps of which 3, 6 and 9 are candidates."""

    def make(rule="noisy_max", privacy=None, model="vae", **selection):
        charged = {"epsilon": 0.5} if rule in ("noisy_max", "exponential") and "epsilon" not in selection else {}
        settings = {"rule": rule, **({"step": 6} if rule == "fixed" else FEW), **charged, **selection}
        return configure(model, privacy=privacy or {}, selection=settings)

    return make


def averages(run_dir):
    state = load_checkpoint(RunFolder(run_dir).checkpoint)["state"]
    return {k: v for k, v in state["ema"].items() if isinstance(v, torch.Tensor)}


def stop(*_, **__):
    raise KeyboardInterrupt


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def kept(monkeypatch):
    """What every candidate step had, noted by another way than the one that keeps it."""
    found, update = {}, publish.Publisher.publish

    def spy(self, state):
        found.setdefault(state.step, {k: v.clone() for k, v in state.ema.model.generator.state_dict().items()})
        return update(self, state)

    monkeypatch.setattr(publish.Publisher, "publish", spy)
    return found


@pytest.mark.parametrize("rule", ["fixed", "noisy_max", "exponential", "public"])
def test_a_run_ends_with_the_averages_of_the_step_that_was_chosen(rule, chosen, cohort, train_run, monkeypatch):
    monkeypatch.setattr(selecting, "choose", lambda selection, votes, *_: 1)
    seen = kept(monkeypatch)
    run = load_run(train_run(chosen(rule, **(others(cohort) if rule == "public" else {}))))
    assert run.selected == 6 and run.finished and run.step == 9
    assert same(dict(run.model.generator.state_dict()), seen[6])
    assert not same(dict(run.model.generator.state_dict()), seen[9])
    record = json.loads(RunFolder(run.root).selection.read_text())
    assert record["rule"] == rule and record["selected"]["step"] == 6
    assert ("public_votes" in record["selected"]) == (rule == "public"), "counts of patients are in no file"
    assert load_checkpoint(RunFolder(run.root).checkpoint)["state"]["candidates"] == {}
    assert "after step 6 of 9" in weights_of(run)


def others(cohort):
    """Other images than those of the cohort, by other people."""
    path = cohort.with_name("public.npz")
    random = np.random.default_rng(9)
    np.savez(path, images=random.integers(0, 255, (12, 8, 8), np.uint8), labels=np.arange(12) % 2,
             patient_ids=[f"other{i}" for i in range(12)])  # fmt: skip
    data = DataConfig(kind="npz", root=str(path), modality="DX", classes=["0", "1"])
    return {"data": data, "public": "random numbers, which are nobody"}


def test_by_default_the_last_step_wins_and_nothing_is_kept(configure, train_run, monkeypatch):
    seen = kept(monkeypatch)
    run = load_run(train_run(configure("vae")))
    assert run.selected is None and run.plan.selection is None and same(dict(run.model.generator.state_dict()), seen[9])
    state = load_checkpoint(RunFolder(run.root).checkpoint)["state"]
    assert state["candidates"] == {} and state["selected"] is None
    assert not RunFolder(run.root).selection.exists()


def test_each_patient_has_one_vote_and_the_mechanism_gets_all_of_them(chosen, train_run, monkeypatch):
    """12 of 36 patients have two images: were images counted, there would be more votes than patients."""
    seen = []
    monkeypatch.setattr(mechanisms, "noisy_max", lambda votes, epsilon, coins: seen.append((votes, epsilon)) or 0)
    run = load_run(train_run(chosen()))
    ((votes, epsilon),) = seen
    train = [item for item in run.manifest.items if item.split == "train"]
    assert sum(votes) == run.plan.n == len(run.manifest.patients("train")) < len(train)
    assert len(votes) == 3 and epsilon == run.plan.selection.epsilon == 0.5


def test_a_candidate_is_judged_by_as_many_samples_as_were_asked_for(chosen, train_run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        selecting, "Candidates", lambda *arguments: asked.append(arguments[2]) or Candidates(*arguments)
    )
    train_run(chosen(samples=11))
    assert asked == [11]


def test_each_candidate_is_sampled_by_the_averages_of_its_own_step(chosen, train_run, monkeypatch):
    seen, drawn = kept(monkeypatch), []

    def spy(samplers, *rest):
        def noted():
            for sample in samplers:
                drawn.append({k: v.clone() for k, v in sample.__self__.generator.state_dict().items()})
                yield sample

        return Candidates(noted(), *rest)

    monkeypatch.setattr(selecting, "Candidates", spy)
    train_run(chosen())
    assert len(drawn) == 3 and all(same(ours, seen[step]) for ours, step in zip(drawn, (3, 6, 9), strict=True))


def test_patients_are_asked_once(chosen, train_run):
    plan = load_run(train_run(chosen())).plan
    asked = [selecting.asks_patients(SimpleNamespace(selected=found), plan) for found in (None, {"step": 6})]
    assert asked == [True, False]


def test_the_choice_is_on_record_and_the_card_says_so(chosen, train_run):
    run = load_run(train_run(chosen(privacy={"seed": None})))
    (entry,) = Ledger(run.config.privacy.ledger).entries(run.manifest.fingerprint)
    assert entry.event == run.plan.event() and entry.state == "closed"
    assert run.plan.event().events[-1] == dp.DiscreteLaplaceDpEvent(0.5, 1)
    without = dataclasses.replace(run.plan, selection=None)
    assert without.epsilon < run.plan.epsilon
    assert publish.spent(run.plan, 3) > publish.spent(without, 3), "what is to come is counted from the first step"
    card = build_card(run.plan, "uniform", cohort_ledger(run), NOT_AUDITED)
    assert card["guarantee"]["epsilon_selection"] == 0.5
    text = card_markdown(card)
    assert "the choice of weights alone | 0.5" in text and "one vote of each patient and report noisy max" in text


@pytest.mark.parametrize("rule", ["fixed", "public"])
def test_a_choice_that_asks_no_patient_costs_nothing(rule, chosen, configure, cohort, train_run, monkeypatch):
    opened = []
    real = Candidates.votes
    monkeypatch.setattr(Candidates, "votes", lambda self, images: opened.append(images) or real(self, images))
    run = load_run(train_run(chosen(rule, **(others(cohort) if rule == "public" else {}))))
    assert run.plan.epsilon == dataclasses.replace(run.plan, selection=None).epsilon
    assert len(opened) == (rule == "public")
    card = build_card(run.plan, "uniform", cohort_ledger(run), NOT_AUDITED)
    assert card["guarantee"]["epsilon_selection"] == 0 and "choice of weights alone" not in card_markdown(card)
    if rule == "public":
        record = json.loads(RunFolder(run.root).selection.read_text())
        assert sum(record["selected"]["public_votes"]) == 12
        assert run.selected == max(zip(record["selected"]["public_votes"], (3, 6, 9), strict=True))[1]
        assert "random numbers, which are nobody" in card_markdown(card)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda cohort, cfg: dataclasses.replace(cfg.selection, data=cfg.data), "selection.data"),
        (lambda cohort, cfg: dataclasses.replace(cfg.selection, public=None), "selection.public"),
        (lambda cohort, cfg: dataclasses.replace(
            cfg.selection, data=dataclasses.replace(cfg.selection.data, classes=["0", "1", "2"])),
         "selection.data.classes"),
    ],
    ids=["the same patients", "nobody says public", "other classes"],
)  # fmt: skip
def test_what_is_not_public_is_refused_before_anything_is_spent(change, where, chosen, cohort, train_run):
    cfg = chosen("public", **others(cohort))
    with pytest.raises(InputError) as caught:
        train_run(dataclasses.replace(cfg, selection=change(cohort, cfg)))
    assert where in {fault.where for fault in caught.value.faults}
    assert Ledger(cfg.privacy.ledger).cohorts() == []


def test_images_that_the_ledger_knows_from_private_runs_are_not_public(chosen, configure, cohort, tmp_path, train_run):
    beside = others(cohort)
    private = configure("vae", privacy={"seed": None})
    private = dataclasses.replace(private, data=beside["data"])
    loop.train(private, tmp_path / "private", model_factory(private.model))
    cfg = chosen("public", **beside)
    assert cfg.privacy.ledger == private.privacy.ledger
    before = [len(Ledger(cfg.privacy.ledger).entries(name)) for name in Ledger(cfg.privacy.ledger).cohorts()]
    with pytest.raises(InputError, match="the ledger knows from private runs"):
        train_run(cfg)
    assert [len(Ledger(cfg.privacy.ledger).entries(name)) for name in Ledger(cfg.privacy.ledger).cohorts()] == before


def test_public_images_that_were_exchanged_since_are_refused(chosen, cohort, tmp_path, monkeypatch):
    cfg = chosen("public", **others(cohort))
    with monkeypatch.context() as broken:
        broken.setattr(loop, "select", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    with np.load(cfg.selection.data.root) as old:
        np.savez(cfg.selection.data.root, **{**old, "images": old["images"][::-1]})
    with pytest.raises(InputError, match="those that the run was begun with"):
        loop.train(cfg, tmp_path / "run", model_factory(cfg.model))


def killed_at(where, monkeypatch):
    """Where a process may die: before the choice, before it is on disk, before the ledger knows, before it is in place,
    and before the run is closed."""
    succession = publish.Succession
    if where == "before the choice":
        monkeypatch.setattr(loop, "select", stop)
    elif where == "before the record":
        monkeypatch.setattr(loop, "write_selection", stop)
    elif where == "before the end":
        monkeypatch.setattr(loop, "close", stop)
    else:
        name = {"before it is on disk": "publish", "before it is noted": "_record", "before it is in place":
                "_put_in_place"}[where]  # fmt: skip
        real = getattr(succession, name)

        def spy(self, content):
            return stop() if content["state"]["selected"] is not None else real(self, content)

        monkeypatch.setattr(succession, name, spy)


LOST = ("before the choice", "before it is on disk")


@pytest.mark.parametrize("where", [*LOST, "before it is noted", "before it is in place", "before the record",
                                   "before the end"])  # fmt: skip
def test_killed_at_any_point_a_choice_that_was_on_disk_is_not_made_again(where, chosen, tmp_path, monkeypatch):
    made, real = [], selecting.choose

    def spy(*arguments):
        made.append(real(*arguments))
        return made[-1]

    monkeypatch.setattr(selecting, "choose", spy)
    cfg = chosen(privacy={"seed": None}, epsilon=1e-3)
    with monkeypatch.context() as broken:
        killed_at(where, broken)
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert len(made) == (where != "before the choice")
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    run = load_run(tmp_path / "run")
    assert len(made) == (2 if where == "before it is on disk" else 1)
    assert run.finished and run.selected == (3, 6, 9)[made[-1]]
    assert json.loads(RunFolder(run.root).selection.read_text())["selected"]["step"] == run.selected
    (entry,) = Ledger(cfg.privacy.ledger).entries(run.manifest.fingerprint)
    assert entry.state == "closed"
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert load_run(tmp_path / "run").selected == run.selected, "a finished run is left as it is"


def test_candidates_survive_a_kill_between_them(chosen, tmp_path, monkeypatch):
    """Of a seeded run, so that both end in the same weights."""
    cfg = chosen("exponential")
    whole = loop.train(cfg, tmp_path / "whole", model_factory(cfg.model))
    real = loop.private_update
    with monkeypatch.context() as broken:
        broken.setattr(loop, "private_update", lambda state, *rest: stop() if state.step == 8 else real(state, *rest))
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    state = load_checkpoint(RunFolder(tmp_path / "run").checkpoint)["state"]
    assert set(state["candidates"]) == {3, 6} and state["step"] == 6
    assert not load_run(tmp_path / "run").finished
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert same(averages(tmp_path / "run"), averages(whole))
    assert load_run(tmp_path / "run").selected == load_run(whole).selected


def test_a_run_does_not_go_on_by_another_rule_but_an_older_one_goes_on(chosen, configure, tmp_path, train_run):
    train_run(chosen())
    with pytest.raises(InputError, match=r"selection\.rule"):
        train_run(chosen("exponential"))
    cfg = configure("vae")
    run_dir = loop.train(cfg, tmp_path / "older", model_factory(cfg.model))
    stored = json.loads(RunFolder(run_dir).config.read_text())
    del stored["selection"]  # as versions without it wrote
    RunFolder(run_dir).config.write_text(json.dumps(stored))
    loop.train(cfg, run_dir, model_factory(cfg.model))


def test_a_model_that_asks_after_training_has_only_its_last_step(chosen, train_run):
    cfg = dataclasses.replace(
        chosen(privacy={"query_noise_multiplier": 0.7}), model={"_target_": "asking.Asking", "norm": 4.0}
    )
    with pytest.raises(InputError, match="asks last sums after training"):
        train_run(cfg)


@pytest.mark.parametrize("model", ["gan", "merf", "pategan"])
def test_every_kind_of_training_has_candidates(model, chosen, train_run):
    run = load_run(train_run(chosen("noisy_max", model=model)))
    assert run.selected in (3, 6, 9) and run.finished


def test_without_privacy_the_most_votes_win(chosen, train_run, monkeypatch):
    seen = []
    real = selecting.choose
    monkeypatch.setattr(selecting, "choose", lambda s, votes, *rest: seen.append(votes) or real(s, votes, *rest))
    run = load_run(train_run(chosen(privacy={"mode": "none", "noise_multiplier": None}, epsilon=None)))
    assert run.selected == max(zip(seen[0], (3, 6, 9), strict=True))[1] and run.plan.selection.epsilon == 0
