"""Questions to the whole cohort: each answer is the clipped, noised mean, asked once, on record; nothing else moves."""

from __future__ import annotations

import dataclasses
import json

import asking
import numpy as np
import pytest
import torch
from dp_accounting import dp_event as dp
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

from imgsynth.audit.canaries.twin import Twin
from imgsynth.audit.references import Recipe, references
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.manifest import Manifest
from imgsynth.models import VAE
from imgsynth.privacy.calibrate import gaussian_noise
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.plan import GaussianQuery, PrivacyPlan, make_plan
from imgsynth.release.card import build_card, card_markdown
from imgsynth.schema import PrivacyConfig
from imgsynth.training import loop, publish, queries
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.folder import RunFolder
from imgsynth.training.metrics import read_rows
from imgsynth.training.run import finished, load_run, model_factory
from imgsynth.types import Fault, InputError

ASKING = {"_target_": "asking.Asking", "norm": 4.0}
NO_NOISE = {"mode": "none", "noise_multiplier": None}


@pytest.fixture
def ask_config(configure):
    asking.calls.clear()

    def make(**changes):
        privacy = {"query_noise_multiplier": 0.7, **changes.pop("privacy", {})}
        return dataclasses.replace(configure("vae", privacy=privacy, **changes), model=ASKING)

    return make


def patients_of(run):
    """[P] (class, mean image) of every training patient, read by another way than training reads."""
    data = np.load(run.config.data.root)
    x = (data["images"].astype(np.float64) / 127.5 - 1).reshape(len(data["images"]), -1)
    ids = data["patient_ids"]
    train = {ids[item.row] for item in run.manifest.items if item.split == "train"}
    return [(int(data["labels"][ids == one][0]), x[ids == one].mean(0)) for one in sorted(train)]


def naive(run, scale, norm):
    total = np.zeros((2, 64))
    for label, image in patients_of(run):
        v = scale * image
        total[label] += v * min(1, norm / np.linalg.norm(v))
    return total / run.plan.n


def answers(run):
    return run.model.generator.learned.numpy()


@pytest.mark.parametrize("engine", ["ghost", "loop"])
def test_without_noise_an_answer_is_the_mean_over_patients_not_images(ask_config, train_run, engine):
    cfg = ask_config(privacy={**NO_NOISE, "engine": engine}, data={"images_per_patient": 2})
    run = load_run(train_run(cfg))
    for i, scale in enumerate((0.5, 1.0)):
        np.testing.assert_allclose(answers(run)[i], naive(run, scale, np.inf), rtol=1e-4, atol=1e-6)


def test_a_patient_adds_no_more_than_the_norm_and_noise_is_that_of_the_query(ask_config, train_run):
    """Noise of 10⁻⁶ shows the clipped sum; noise of 20 its own size (2 × 2 × 64 coordinates)."""
    cfg = ask_config(privacy={"query_noise_multiplier": 1e-6}, data={"images_per_patient": 2})
    tight = load_run(train_run(dataclasses.replace(cfg, model={**ASKING, "norm": 0.5}), "tight"))
    np.testing.assert_allclose(answers(tight)[0], naive(tight, 0.5, 0.5), rtol=1e-3, atol=1e-5)
    assert np.abs(naive(tight, 0.5, 0.5) - naive(tight, 0.5, np.inf)).max() > 0.01
    loud = load_run(
        train_run(
            ask_config(privacy={"query_noise_multiplier": 20.0, "seed": 3}, data={"images_per_patient": 2}), "loud"
        )
    )
    assert asking.noises[-2:] == [20 * 4 / loud.plan.n] * 2
    for i, scale in enumerate((0.5, 1.0)):
        noise = (answers(loud)[i] - naive(loud, scale, 4.0)) * loud.plan.n / (20 * 4)
        assert 0.8 < noise.std() < 1.2  # 128 draws: standard error 0.06


def test_training_does_not_move_an_answer_nor_an_answer_what_is_trained(ask_config, train_run, monkeypatch):
    before, after = {}, {}
    asked = queries._ask

    def spy(state, plan, query, batch):
        trained = {name: p.detach().clone() for name, p in state.private.module.named_parameters()}
        asked(state, plan, query, batch)
        for name, p in state.private.module.named_parameters():
            assert torch.equal(p, trained[name]) and p.requires_grad, name
        assert not any(p.requires_grad for p in query.answers)
        (before if query.when == "before" else after)[state.step] = query.answers[0].clone()

    monkeypatch.setattr(queries, "_ask", spy)
    run = load_run(train_run(ask_config()))
    assert (list(before), list(after), asking.calls) == ([0], [9], ["before", "after"])
    assert torch.equal(run.model.first.w.weight, before[0]) and torch.equal(run.model.last.w.weight, after[9])
    assert np.array_equal(answers(run)[0], before[0].numpy()), "the average's buffers follow"


def test_every_query_is_on_record_as_one_gaussian_mechanism_on_all(ask_config, train_run):
    run = load_run(train_run(ask_config(privacy={"seed": None})))
    training = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(run.plan.sampling_rate, dp.GaussianDpEvent(1.5)), 9)
    one = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(1.0, dp.GaussianDpEvent(0.7)), 1)
    assert run.plan.event() == dp.ComposedDpEvent([training, one, one])
    (entry,) = Ledger(run.config.privacy.ledger).entries(run.manifest.fingerprint)
    assert entry.event == run.plan.event() and entry.state == "closed"
    rows = read_rows(run.root / "metrics.jsonl")
    without = dataclasses.replace(run.plan, queries=())
    assert without.epsilon < run.plan.epsilon and rows[-1]["epsilon"] <= run.plan.epsilon
    assert rows[0]["epsilon"] > publish.spent(without, rows[0]["step"])
    card = build_card(run.plan, "uniform", {"runs": 1, "this_run_recorded": True, "epsilon": 9.0, "delta": 1e-2,
                                            "budget_epsilon": None}, audit_of_none())  # fmt: skip
    assert card["guarantee"]["epsilon_queries"].keys() == {"class sums", "last sums"}
    assert 'the query "last sums" alone' in card_markdown(card)
    assert PrivacyPlan.from_json(json.loads(json.dumps(run.plan.to_json()))) == run.plan


def audit_of_none():
    from imgsynth.release.card_audit import NOT_AUDITED

    return NOT_AUDITED


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1.0, 1e-5), (8.0, 1e-3)])
def test_the_noise_of_a_query_is_the_least_by_the_closed_form(epsilon, delta):
    """dp-accounting's own formula of δ of a Gaussian mechanism; a thousandth less noise is not enough."""
    sigma = gaussian_noise(epsilon, delta)
    enough, too_little = (GaussianPrivacyLoss(s).get_delta_for_epsilon(epsilon) for s in (sigma, 0.999 * sigma))
    assert enough <= delta < too_little


def test_queries_are_paid_out_of_the_same_epsilon():
    settings = PrivacyConfig(epsilon=4.0, delta=1e-4, query_share=0.2, batch_patients=400)
    plans = [
        make_plan(settings, n=400, steps=50, images_per_patient=1, unit="patient", queries=asked)
        for asked in ([], [("a", 2.0)], [("a", 2.0), ("b", 1.0)])
    ]
    assert plans[0].noise_multiplier < plans[1].noise_multiplier < plans[2].noise_multiplier
    for plan in plans:
        assert 3.9 < plan.epsilon <= 4.0
    for query in plans[2].queries:
        assert 0.79 < plans[2].for_query(query.name).epsilon <= 0.8 * (1 + 1e-3)
    assert plans[2].for_query("a").clipping_norm == 2.0 and plans[2].for_query("b").clipping_norm == 1.0


def test_what_is_wrong_with_queries_is_said_before_work():
    def faults(queries=("a", "b"), **privacy):
        settings = PrivacyConfig(**privacy)
        with pytest.raises(InputError) as caught:
            make_plan(
                settings,
                n=400,
                steps=5,
                images_per_patient=1,
                unit="patient",
                queries=[(name, 1.0) for name in queries],
            )
        return {fault.where for fault in caught.value.faults}

    assert faults(query_share=0.5) == {"privacy.query_share"}
    assert faults(("a", "a")) == {"model, queries"}
    assert faults(epsilon=None, noise_multiplier=2.0) == {"privacy.query_noise_multiplier"}
    plan = make_plan(
        PrivacyConfig(mode="none"), n=9, steps=5, images_per_patient=1, unit="patient", queries=[("a", 1.0)]
    )
    with pytest.raises(InputError, match="a name of its own"):
        dataclasses.replace(plan, queries=(GaussianQuery("a", 1.0, 0.0),) * 2)
    with pytest.raises(InputError, match="query a, norm"):
        dataclasses.replace(plan, queries=(GaussianQuery("a", 0.0, 0.0),))


def test_a_run_is_not_over_before_the_last_query(ask_config, tmp_path, monkeypatch):
    """Stopped after the last step and before the last answer: the same command asks it, and nothing twice."""
    cfg = ask_config(privacy={"seed": None})
    asked = loop.ask

    def stop(state, plan, dataset, rows, when, guard):
        if when == "after":
            raise KeyboardInterrupt
        return asked(state, plan, dataset, rows, when, guard)

    with monkeypatch.context() as broken:
        broken.setattr(loop, "ask", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    state = load_checkpoint(RunFolder(tmp_path / "run").checkpoint)["state"]
    run = load_run(tmp_path / "run")
    assert (state["step"], state["asked"]) == (9, 1) and not finished(state, run.plan, 9) and not run.finished
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert asking.calls == ["before", "after"] and load_run(tmp_path / "run").finished


def test_killed_after_the_first_answer_is_published_it_is_not_asked_again(ask_config, tmp_path, monkeypatch):
    cfg = ask_config()
    whole = load_run(loop.train(cfg, tmp_path / "whole", model_factory(cfg.model)))
    asking.calls.clear()
    with monkeypatch.context() as broken:
        broken.setattr(loop, "private_update", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert load_checkpoint(RunFolder(tmp_path / "run").checkpoint)["state"]["asked"] == 1
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert asking.calls == ["before", "after"]
    ours, theirs = load_run(tmp_path / "run").model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "a seeded run ends in the same weights"


def test_twins_and_references_ask_as_the_run_did(ask_config, train_run):
    run = load_run(train_run(ask_config(privacy={"seed": None})))
    names = list(run.manifest.patients("train"))[:8]
    asking.calls.clear()
    made = references(Recipe.of(run), run.manifest, names, 2, 0, run.root / "local")
    assert asking.calls == ["before", "after"] * 2
    assert (made[0].model.generator.learned != 0).all()
    asking.calls.clear()
    patients = PatientDataset(Manifest.load(run.root / "manifest.json"), "train", run.config.preprocess, 1, "memory")
    twin = Twin(
        model_factory(ASKING)((8, 8), 2), "weights", np.ones(20, bool), dataclasses.replace(run.plan, seeded=True),
        run.config.trainer, patients, torch.device("cpu"), seed=1,
    )  # fmt: skip
    twin.scores()
    assert asking.calls == ["before"]


def test_a_query_through_batch_norm_is_refused(ask_config, train_run, monkeypatch):
    init = asking.Sums.__init__

    def worse(self, *arguments):
        init(self, *arguments)
        self.norm = torch.nn.BatchNorm1d(4)

    monkeypatch.setattr(asking.Sums, "__init__", worse)
    with pytest.raises(InputError, match="BatchNorm1d"):
        train_run(ask_config())


def test_after_training_the_prior_is_that_of_the_encoders_codes(configure, train_run):
    cfg = configure("vae", privacy={"mode": "none", "noise_multiplier": None}, trainer={"learning_rate": 0.05})
    run = load_run(train_run(dataclasses.replace(cfg, model={**cfg.model, "prior": "fitted"})))
    model, data = run.model, np.load(cfg.data.root)
    one = [i for i in range(len(data["images"])) if (data["patient_ids"] == data["patient_ids"][i]).sum() == 1]
    assert isinstance(model, VAE) and model.decoder.prior is not None
    x = torch.tensor(data["images"][one] / 127.5 - 1, dtype=torch.float32)[:, None]
    mu, _ = model.encoder(x, torch.tensor(data["labels"][one]))
    assert model.decoder.prior.mean_YL.norm() > 0
    for c in range(2):
        assert (model.decoder.prior.mean_YL[c] - mu[data["labels"][one] == c].mean(0)).norm() < 0.2
    eps = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 1])
    expected = model.decoder(model.decoder.prior(eps, y), y)
    assert torch.equal(model.sample(y, torch.Generator().manual_seed(0)), expected)
    assert not torch.equal(expected, model.decoder(eps, y))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_query_that_is_refused_for_what_it_computed_ends_the_run(ask_config, tmp_path, monkeypatch, when):
    """That it was, may depend on patients: asked again, it would be a second release."""
    cfg = ask_config()
    asked = queries._ask

    def refuse(state, plan, query, batch):
        if query.when == when:
            raise InputError(Fault("a layer", "what cannot be trusted", "the same", "another network"))
        asked(state, plan, query, batch)

    with monkeypatch.context() as broken:
        broken.setattr(queries, "_ask", refuse)
        with pytest.raises(InputError, match="cannot be trusted"):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    with pytest.raises(InputError, match="one of its steps ended"):
        loop.train(cfg, tmp_path / "run", model_factory(cfg.model))


def test_a_file_that_cannot_be_read_does_not_end_the_run(ask_config, tmp_path, monkeypatch):
    cfg = ask_config()

    def unreadable(*_):
        raise InputError(Fault("a file", "a broken disk", "the file", "mend it"))

    with monkeypatch.context() as broken:
        broken.setattr(PatientDataset, "batch", unreadable)
        with pytest.raises(InputError, match="a broken disk"):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert load_run(loop.train(cfg, tmp_path / "run", model_factory(cfg.model))).finished


def test_a_model_that_asks_anything_else_than_its_plan_is_refused_before_it_is_asked(ask_config, tmp_path, monkeypatch):
    cfg = ask_config()
    with monkeypatch.context() as broken:
        broken.setattr(loop, "private_update", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    written = asking.Asking.objectives
    fewer, larger = (lambda found: found[:2]), (lambda found: [*found[:2], dataclasses.replace(found[2], norm=9.0)])
    for change in (fewer, larger):
        asking.calls.clear()
        with monkeypatch.context() as other:
            other.setattr(asking.Asking, "objectives", lambda self, change=change: change(written(self)))
            with pytest.raises(InputError, match="the run's plan accounts for"):
                loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
        assert not asking.calls


def test_queries_out_of_order_are_refused_before_anything_is_spent(ask_config, train_run, monkeypatch):
    written = asking.Asking.objectives
    monkeypatch.setattr(asking.Asking, "objectives", lambda self: written(self)[::-1])
    cfg = ask_config()
    with pytest.raises(InputError, match="those before training first"):
        train_run(cfg)
    assert not Ledger(cfg.privacy.ledger).overview()
