"""Runs that begin with public weights: just these weights, on disk before the first step, and refused where they are
not public."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_accounting import dp_event as DpEvent

from imgsynth import keyed
from imgsynth.audit.canaries import run as canaries
from imgsynth.audit.overfit import Recipe
from imgsynth.audit.references import content_key, load, references, store, train_reference
from imgsynth.files import read_json, write_json
from imgsynth.privacy.events import histogram_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.patients import Patients
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import Config
from imgsynth.training import begin, loop
from imgsynth.training.checkpoint import load_checkpoint, save_checkpoint
from imgsynth.training.folder import RunFolder
from imgsynth.training.initial import Initial, begun, stored_initial
from imgsynth.training.public import Others, read_privately
from imgsynth.training.run import load_run, model_factory, trained_model
from imgsynth.types import InputError

WORDS = "made by the tests from a seed, so nobody's"
NOT_PRIVATE = {"mode": "none", "epsilon": None, "noise_multiplier": None}


def write_cohort(path: Path, seed: int, prefix: str = "q") -> Path:
    random = np.random.default_rng(seed)
    patients = [f"{prefix}{i:03d}" for i in range(30)]
    images = random.normal(120, 30, (30, 8, 8)).clip(0, 255).astype(np.uint8)
    np.savez(path, images=images, patient_ids=patients, labels=np.arange(30) % 2)
    return path


@pytest.fixture(scope="module")
def public_cohort(tmp_path_factory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("public") / "images.npz", 7)


@pytest.fixture(scope="module")
def public_run(make_config, public_cohort, tmp_path_factory):
    """``public_run("gan")``: a finished run without privacy on other people, with a ledger of its own."""
    made: dict[str, Path] = {}

    def make(model: str = "vae", **changes) -> Path:
        name = f"{model} {changes}"
        if name not in made:
            root = tmp_path_factory.mktemp("prior")
            privacy = {**NOT_PRIVATE, "ledger": str(root / "ledger"), **changes.pop("privacy", {})}
            data = {"root": str(public_cohort), **changes.pop("data", {})}
            cfg = make_config(model, privacy=privacy, data=data, **changes)
            made[name] = loop.train(cfg, root / "run", model_factory(cfg.model))
        return made[name]

    return make


@pytest.fixture
def private(configure, public_run):
    """A configuration that begins with the public run of its model."""

    def make(model: str = "vae", init=None, **changes) -> Config:
        begins = {"run": str(public_run(model)), "public": WORDS, **(init or {})}
        return configure(model, init=begins, **changes)

    return make


def at_step_0(cfg: Config, tmp_path: Path, monkeypatch) -> torch.nn.Module:
    """The networks as the first step finds them."""
    found = []

    def stop(state, *_):
        found.append(state.model)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(loop, "private_update", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    return found[0]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_a_run_begins_with_the_public_runs_last_weights_bit_for_bit(
    model, private, public_run, tmp_path, monkeypatch
) -> None:
    """Those of the last step, of which the average is another thing."""
    public = load_run(public_run(model))
    last = trained_model(public).state_dict()
    assert not same(last, public.model.state_dict())
    ours = at_step_0(private(model), tmp_path, monkeypatch)
    assert same(ours.state_dict(), last)
    assert all(p.requires_grad for p in ours.parameters())
    plan = PrivacyPlan.from_json(read_json(tmp_path / "run" / "plan.json"))
    assert plan.public is not None
    assert (plan.public.images, plan.public.digest) == (WORDS, Initial(last).digest)
    assert (tmp_path / "run" / "samples" / "step-000000.png").is_file()


def test_of_a_mean_embedding_the_generator_is_taken_and_not_the_public_mean(
    private, public_run, tmp_path, monkeypatch
) -> None:
    public = trained_model(load_run(public_run("merf")))
    ours = at_step_0(private("merf"), tmp_path, monkeypatch)
    assert same(ours.G.state_dict(), public.G.state_dict())
    assert public.embedding.mean.weight.abs().max() > 0
    assert ours.embedding.mean.weight.abs().max() == 0


@pytest.mark.parametrize("held", [True, False])
def test_a_generator_that_is_held_to_moments_may_begin_with_one_that_was_not(
    held, make_config, public_cohort, public_run, configure, tmp_path, monkeypatch
) -> None:
    """And the reverse; an answer is never taken over."""
    settings = {"model": {**make_config("gan").model, "warm_up": ["moments"]}}
    asked = {"privacy": {"query_noise_multiplier": 0.7}, "trainer": {"steps_before": 2}}
    if held:
        begins = {"run": str(public_run("gan")), "public": WORDS}
        cfg = dataclasses.replace(configure("gan", init=begins, **asked), **settings)
    else:
        public = {"privacy": {**NOT_PRIVATE, "ledger": str(tmp_path / "ledger0")}, "data": {"root": str(public_cohort)}}
        theirs = dataclasses.replace(make_config("gan", **public, trainer={"steps_before": 2}), **settings)
        begins = {"run": str(loop.train(theirs, tmp_path / "public", model_factory(theirs.model))), "public": WORDS}
        cfg = configure("gan", init=begins)
    last = trained_model(load_run(Path(begins["run"]))).state_dict()
    ours = at_step_0(cfg, tmp_path, monkeypatch)
    moved = {
        name for name, value in ours.state_dict().items() if name not in last or not torch.equal(value, last[name])
    }
    asked_of = {name for name in ours.state_dict() if name.startswith(("moments.", "G."))}  # it warmed up on its own
    assert moved <= asked_of if held else not moved
    assert any(name.startswith("moments.") for name in moved) == held


def test_a_gan_takes_both_networks_and_begins_with_a_pace_of_its_own() -> None:
    public, ours = (model_factory({"_target_": "imgsynth.models.GAN", "adaptive": True})((8, 8), 2) for _ in range(2))
    public.every.last.fill_(500)
    public.every.level.fill_(3)
    pace = {name: value.clone() for name, value in ours.every.state_dict().items()}
    ours.begin_with(public.state_dict())
    assert same(ours.every.state_dict(), pace)
    assert same(ours.G.state_dict(), public.G.state_dict()) and same(ours.D.state_dict(), public.D.state_dict())


def test_the_digest_is_of_the_weights_and_not_of_their_file() -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
    digest = Initial(weights).digest
    assert Initial(dict(reversed(weights.items()))).digest == digest
    others = [
        {**weights, "a": weights["a"].view(3, 2)},
        {**weights, "a": weights["a"].double()},
        {**weights, "b": torch.tensor(2)},
        {"a": weights["a"], "c": weights["b"]},
        {"a": weights["a"]},
    ]
    assert len({digest, *(Initial(other).digest for other in others)}) == 6


def test_a_resumed_run_does_not_need_the_public_one(private, tmp_path, monkeypatch) -> None:
    """Stopped before its first checkpoint and after it; the end is that of the run that was never stopped."""
    cfg = private()
    whole = load_run(loop.train(cfg, tmp_path / "whole", model_factory(cfg.model)))
    moved = tmp_path / "moved"
    shutil.copytree(str(cfg.init.run), moved)
    cfg = dataclasses.replace(cfg, init=dataclasses.replace(cfg.init, run=str(moved)))
    update, calls = loop.private_update, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) in (2, 8):
            raise KeyboardInterrupt
        return update(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(loop, "private_update", stop)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
            shutil.rmtree(moved, ignore_errors=True)
        loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert same(load_run(tmp_path / "run").model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("name", ["write_json", "store_initial"])
def test_killed_before_it_was_begun_it_begins_anew_with_the_same_weights(name, private, tmp_path) -> None:
    cfg, run_dir = private(privacy={"seed": None}), tmp_path / "run"

    def target() -> None:
        original = getattr(begin, name)

        def die(*arguments):
            original(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(begin, name, die)
        loop.train(cfg, run_dir, model_factory(cfg.model))

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (run_dir / "config.json").is_file()
    run = load_run(loop.train(cfg, run_dir, model_factory(cfg.model)))
    assert run.finished
    initial = stored_initial(RunFolder(run_dir), run.plan, run.config.init)
    assert initial is not None
    entries = Ledger(cfg.privacy.ledger).entries(run.manifest.fingerprint)
    assert len(entries) == 1


def test_public_weights_that_were_exchanged_or_lost_stop_everything(private, tmp_path, monkeypatch) -> None:
    cfg = private()
    at_step_0(cfg, tmp_path, monkeypatch)
    path = tmp_path / "run" / "initial.pt"
    weights = load_checkpoint(path)["initial"]
    name = next(iter(weights))
    save_checkpoint(path, {"initial": {**weights, name: weights[name] + 1e-3}})
    with pytest.raises(InputError, match="SHA-256"):
        loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    save_checkpoint(path, {"initial": weights})
    run = load_run(loop.train(cfg, tmp_path / "run", model_factory(cfg.model)))
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        Recipe.of(run)


def test_another_beginning_is_another_run(private, tmp_path, monkeypatch) -> None:
    cfg = private()
    at_step_0(cfg, tmp_path, monkeypatch)
    for change in ({"run": None, "public": None}, {"rank": 2}, {"train": ["decoder"]}, {"public": "somebody else's"}):
        other = dataclasses.replace(cfg, init=dataclasses.replace(cfg.init, **change))
        with pytest.raises(InputError, match=r"init\."):
            loop.train(other, tmp_path / "run", model_factory(cfg.model))


@pytest.mark.parametrize("init", [{}, {"rank": 2}, {"train": ["head"]}], ids=["all", "adapters", "heads"])
def test_a_reference_on_the_runs_own_patients_is_the_run(init, private, train_run, tmp_path) -> None:
    """The same public weights, frozen as the run's were, and the same adapters: bit for bit."""
    run = load_run(train_run(private("vae", init=init)))
    recipe, names = Recipe.of(run), run.manifest.patients("train")
    model = train_reference(recipe, recipe.images(run.manifest, names), names, 1)
    assert same(model.state_dict(), run.model.state_dict())
    store(tmp_path / "kept.pt", model)
    assert same(load(tmp_path / "kept.pt", recipe).state_dict(), model.state_dict())
    control = recipe.overfitted(8, 3)
    assert same(begun_without_adapters(control), begun_without_adapters(recipe))


def begun_without_adapters(recipe: Recipe):
    return {k: v for k, v in recipe.networks().state_dict().items() if ".A." not in k}


def test_references_follow_what_the_run_began_with(private, train_run, tmp_path) -> None:
    run = load_run(train_run(private()))
    recipe, names = Recipe.of(run), run.manifest.patients("train")
    initial = recipe.initial
    assert initial is not None
    other = {name: value + 1 for name, value in initial.weights.items()}
    keys = {
        content_key(dataclasses.replace(recipe, initial=one), run.manifest, names, 0)
        for one in (
            initial,
            None,
            Initial(other),
            Initial(initial.weights, ["head"]),
            Initial(initial.weights, "all", 2),
        )
    }
    assert len(keys) == 5
    made = references(recipe, run.manifest, names[:8], 2, 0, tmp_path)
    fresh = references(dataclasses.replace(recipe, initial=None), run.manifest, names[:8], 2, 0, tmp_path)
    assert not same(made[0].model.state_dict(), fresh[0].model.state_dict())


def test_twins_begin_with_the_public_weights(private, train_run, public_run, monkeypatch) -> None:
    run_dir = train_run(private(privacy={"seed": None, "delta": 1e-5}))
    found = []

    class Stopped(Exception):
        pass

    def twin(model, *_, **__):
        found.append(model)
        raise Stopped

    monkeypatch.setattr(canaries, "Twin", twin)
    cfg = load_run(run_dir).config
    audit = dataclasses.replace(cfg.audit, canaries=dataclasses.replace(cfg.audit.canaries, m=400, kinds=["side"]))
    with pytest.raises(Stopped):
        canaries.audit_canaries(run_dir, dataclasses.replace(cfg, audit=audit))
    assert same(found[0].state_dict(), trained_model(load_run(public_run())).state_dict())


def test_the_public_run_costs_the_private_cohort_nothing(private, configure, train_run) -> None:
    """The same mechanism, the same ε and the same entry as without public weights."""
    begins = load_run(train_run(private(privacy={"seed": None}), "begins"))
    scratch = load_run(train_run(configure("vae", privacy={"seed": None}), "scratch"))
    assert dataclasses.replace(begins.plan, public=None) == scratch.plan
    assert begins.plan.event() == scratch.plan.event() and begins.plan.epsilon == scratch.plan.epsilon
    one, other = Ledger(begins.config.privacy.ledger).entries(begins.manifest.fingerprint)
    assert one.event == other.event == begins.plan.event() and one.epsilon == other.epsilon < np.inf


# What is refused -----------------------------------------------------------------------------------------------------


def refusals(cfg: Config, run_dir: Path) -> str:
    """All faults, of a run that left nothing behind but a lock."""
    with pytest.raises(InputError) as caught:
        loop.train(cfg, run_dir, model_factory(cfg.model))
    left = {path.name for path in run_dir.iterdir()}
    assert left <= {".lock", "run_id.txt"} and not Ledger(cfg.privacy.ledger).cohorts()
    return "\n".join(f"{fault.where}: {fault}" for fault in caught.value.faults)


def test_a_private_run_is_never_public(private, public_run, tmp_path) -> None:
    protected = public_run(privacy={"mode": "dp", "noise_multiplier": 1.5})
    assert "second spend" in refusals(private(init={"run": str(protected)}), tmp_path / "run")


def test_a_cohort_that_somebody_protected_is_not_public(
    private, public_run, configure, public_cohort, tmp_path
) -> None:
    cfg = private()
    event = PrivacyPlan.from_json(read_json(tmp_plan(configure, tmp_path))).event()
    fingerprint = load_run(public_run()).manifest.fingerprint
    Ledger(cfg.privacy.ledger).open_entry(fingerprint, event, run="r", epsilon=3.0, delta=1e-2)
    with pytest.raises(InputError, match="the ledger knows from private runs"):
        loop.train(cfg, tmp_path / "run", model_factory(cfg.model))


@pytest.mark.parametrize(
    "issuers", [("H", " h "), (None, "H"), ("G", "H")], ids=["one issuer", "unknown", "two issuers"]
)
def test_patients_whom_somebody_protected_under_another_name_are_not_public(
    issuers, configure, private, public_run, tmp_path, capsys
) -> None:
    """A part of them, in a cohort with another name, is enough where it is certain that they are the same persons."""
    theirs, ours = issuers
    ledger = Ledger(configure("vae").privacy.ledger)
    public = public_run(privacy={"ledger": str(ledger.folder)}, data={"issuer": ours})
    hospital = Patients(frozenset({"q003", "q017", "somebody"}), theirs)
    ledger.open_entry("hospital", histogram_event(1.0), run="r", epsilon=1.0, delta=1e-2, patients=hospital)
    found = read_privately(opened(public), configure("vae"))
    assert (found or "").startswith("2 patients of cohort hospital") == (issuers == ("H", " h "))
    assert ("2 patients of cohort hospital" in capsys.readouterr().err) == (theirs is None)
    if found:
        with pytest.raises(InputError, match="2 patients of cohort hospital, which the ledger knows from private runs"):
            loop.train(private(init={"run": str(public)}), tmp_path / "run", model_factory(configure("vae").model))


def test_images_that_somebody_protected_are_not_public_whoever_numbers_them(configure, public_run) -> None:
    others = opened(public_run())
    ledger = Ledger(configure("vae").privacy.ledger)
    images = Patients(frozenset({others.manifest.items[4].digest, "0" * 64}))
    ledger.open_entry("other", DpEvent.NonPrivateDpEvent(), run="a", epsilon=math.inf, delta=1e-2, unit="image",
                      patients=images)  # fmt: skip
    assert read_privately(others, configure("vae")) is None
    ledger.open_entry("one", histogram_event(1.0), run="b", epsilon=1.0, delta=1e-2, unit="image", patients=images)
    assert "1 images of cohort one" in str(read_privately(others, configure("vae")))


def opened(run_dir: Path) -> Others:
    run = load_run(run_dir)
    return Others("init.run", run.manifest, run.config.data, "")


def tmp_plan(configure, tmp_path: Path) -> Path:
    cfg = configure("vae", privacy={"ledger": str(tmp_path / "elsewhere"), "seed": None})
    return loop.train(cfg, tmp_path / "other", model_factory(cfg.model)) / "plan.json"


def test_words_are_needed_and_the_run_is_finished_and_first(private, public_run, tmp_path) -> None:
    assert "init.public" in refusals(private(init={"public": None}), tmp_path / "run")
    half = shutil.copytree(public_run(), tmp_path / "half")
    content = load_checkpoint(half / "checkpoints" / "last.pt")
    content["state"]["step"] = 4
    save_checkpoint(half / "checkpoints" / "last.pt", {k: v for k, v in content.items() if k != "format"})
    assert "a run at step 4 of 9" in refusals(private(init={"run": str(half)}), tmp_path / "run")
    assert "no such file" in refusals(private(init={"run": str(tmp_path / "nowhere")}), tmp_path / "run")
    second = private(privacy=NOT_PRIVATE, data={"root": str(write_cohort(tmp_path / "x.npz", 8, "r"))})
    chained = loop.train(second, tmp_path / "chained", model_factory(second.model))
    cfg = private(init={"run": str(chained)}, privacy={"ledger": str(tmp_path / "new")})
    assert "itself began with weights from elsewhere" in refusals(cfg, tmp_path / "run")


def test_every_difference_of_the_models_is_named_and_none_that_does_not_matter(private, tmp_path) -> None:
    cfg = private(preprocess={"shape": [16, 16]}, data={"classes": ["1", "0"]})
    cfg = dataclasses.replace(cfg, model={**cfg.model, "latent": 3, "widest": 2, "beta": 0.5})
    said = refusals(cfg, tmp_path / "run")
    for where in ("preprocess.shape", "data.classes", "model.latent", "model.widest"):
        assert f"{where}: " in said
    assert "beta" not in said
    gan = private("gan", init={"run": private("vae").init.run})
    assert "model: model: got GAN; expected VAE" in refusals(gan, tmp_path / "other")
    cfg = private()
    loop.train(dataclasses.replace(cfg, model={**cfg.model, "beta": 0.5}), tmp_path / "run", model_factory(cfg.model))


def test_a_list_among_settings_is_said_as_a_command_line_takes_it(configure, public_run, tmp_path) -> None:
    public = public_run("diffusion", privacy={"query_noise_multiplier": None})
    cfg = configure("diffusion", init={"run": str(public), "public": WORDS}, trainer={"steps_before": 0})
    cfg = dataclasses.replace(
        cfg, model={**cfg.model, "warm_up": []}, trainer=dataclasses.replace(cfg.trainer, steps_before=0)
    )
    said = refusals(cfg, tmp_path / "run")
    assert "got []; expected [means]" in said and "Try: model.warm_up=[means]" in said


def test_one_image_in_both_cohorts_is_refused(private, cohort, public_cohort, tmp_path) -> None:
    """Whoever's it is said to be there, and whatever split it is in."""
    ours, theirs = dict(np.load(cohort)), np.load(public_cohort)
    ours["images"][5] = theirs["images"][11]
    np.savez(tmp_path / "mixed.npz", **ours)
    assert "1 images that are in the private" in refusals(
        private(data={"root": str(tmp_path / "mixed.npz")}), tmp_path / "run"
    )


@pytest.mark.parametrize(
    ("issuers", "word"),
    [(("A", "a "), "refused"), (("A", "B"), "silent"), (("A", None), "warned"), ((None, "B"), "warned")],
)
def test_the_same_ids_are_the_same_patients_where_one_issuer_gave_them_out(
    issuers, word, configure, public_run, tmp_path, capsys
) -> None:
    """Public and private cohorts number their patients alike."""
    root = write_cohort(tmp_path / "images.npz", 9)
    begins = {"run": str(public_run(data={"issuer": issuers[0]})), "public": WORDS}
    cfg = configure("vae", init=begins, data={"root": str(root), "issuer": issuers[1]})
    if word == "refused":
        assert "30 patient ids of the same issuer" in refusals(cfg, tmp_path / "run")
        return
    capsys.readouterr()
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    said = "".join(capsys.readouterr())
    assert ("patient ids that are in the private cohort too" in " ".join(said.split())) == (word == "warned")


@pytest.mark.parametrize(
    ("issuers", "word"), [(("A", "a"), "refused"), (("A", "B"), "silent"), (("A", None), "warned")]
)
def test_ids_hashed_with_two_keys_are_refused_where_one_issuer_gave_them_out(
    issuers, word, configure, public_run, tmp_path, capsys, monkeypatch
) -> None:
    begins = {"run": str(public_run(data={"issuer": issuers[0]})), "public": WORDS}
    root = write_cohort(tmp_path / "images.npz", 9)
    monkeypatch.setattr(keyed, "fresh_key", lambda: bytes(keyed.KEY_WIDTH))
    ledger = {"ledger": str(tmp_path / "another")}
    cfg = configure("vae", init=begins, data={"root": str(root), "issuer": issuers[1]}, privacy=ledger)
    if word == "refused":
        assert "hashed with the key of another ledger" in refusals(cfg, tmp_path / "run")
        return
    capsys.readouterr()
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    said = "".join(capsys.readouterr())
    assert ("hashed with the key of another ledger" in " ".join(said.split())) == (word == "warned")


def test_one_name_of_two_cohorts_is_refused(configure, public_run, tmp_path) -> None:
    begins = {"run": str(public_run(data={"cohort": "ward"})), "public": WORDS}
    cfg = configure("vae", init=begins, data={"cohort": "ward"})
    assert "data.cohort" in refusals(cfg, tmp_path / "run")


def test_a_plan_without_words_or_digest_is_none(private, tmp_path, monkeypatch) -> None:
    at_step_0(private(), tmp_path, monkeypatch)
    plan = read_json(tmp_path / "run" / "plan.json")
    assert PrivacyPlan.from_json(plan).to_json() == plan
    for change in ({"images": " "}, {"images": "two\nlines"}, {"digest": "abc"}, {"images": "x" * 301}):
        with pytest.raises(InputError):
            PrivacyPlan.from_json({**plan, "public": {**plan["public"], **change}})
    del plan["public"]
    write_json(tmp_path / "old.json", plan)
    assert PrivacyPlan.from_json(read_json(tmp_path / "old.json")).public is None


def test_begun_without_public_weights_is_left_alone() -> None:
    model = model_factory({"_target_": "imgsynth.models.VAE", "latent": 2})((8, 8), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert begun(model, None) is model and same(model.state_dict(), before)


# What learns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["vae", "gan"])
@pytest.mark.parametrize("init", [{"rank": 2}, {"train": ["head"]}], ids=["adapters", "heads"])
def test_frozen_weights_never_move_and_what_learns_does(model, init, private, public_run, train_run) -> None:
    """In the networks of the last step, and in the average as well."""
    cfg = private(model, init=init)
    run = load_run(train_run(cfg))
    public = trained_model(load_run(public_run(model))).state_dict()
    for network in (run.model, trained_model(run)):
        moved = {name for name, value in network.state_dict().items()
                 if not torch.equal(value, public.get(name.replace(".layer.", "."), torch.zeros(())))}  # fmt: skip
        private_names = {name for name in moved if model == "vae" or name.startswith("D.")}
        expected = (".A.", ".B.") if "rank" in init else (".head.",)
        assert private_names and all(any(part in name for part in expected) for name in private_names)
        if model == "gan":
            assert {name for name in network.state_dict() if name.startswith("G.")} <= moved
    last = trained_model(run).state_dict()
    assert all(value.abs().max() > 0 for name, value in last.items() if ".B." in name)


def test_adapters_run_and_resume_as_one(private, tmp_path, monkeypatch) -> None:
    cfg = private("gan", init={"rank": 2})
    whole = load_run(loop.train(cfg, tmp_path / "whole", model_factory(cfg.model)))
    update, calls = loop.private_update, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return update(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(loop, "private_update", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model))
    assert same(load_run(tmp_path / "run").model.state_dict(), whole.model.state_dict())


# Models that hold a public generator ---------------------------------------------------------------------------------


@pytest.fixture
def voting(private):
    """Private Evolution over the public VAE."""

    def make(init=None, **source) -> Config:
        once = {"optimizer": "summary", "learning_rate": 1.0, "steps": 2}
        cfg = private("vae", init=init, privacy={"batch_patients": None, "sampling_rate": 1.0}, trainer=once)
        model = {"_target_": "imgsynth.models.Evolution", "candidates": 3, "rounds": 2, "frequencies": 8}
        return dataclasses.replace(cfg, model={**model, "source": {**cfg.model, **source}})

    return make


def test_a_public_generator_inside_a_model_has_the_public_weights_and_keeps_them(
    voting, public_run, train_run, tmp_path
) -> None:
    run = load_run(train_run(voting()))
    public = trained_model(load_run(public_run())).state_dict()
    assert run.model.public_part is not run.model
    assert same(run.model.public_part.state_dict(), public)
    recipe, names = Recipe.of(run), run.manifest.patients("train")
    model = train_reference(recipe, recipe.images(run.manifest, names), names, 1)
    assert same(model.state_dict(), run.model.state_dict())


@pytest.mark.parametrize("held", [True, False])
def test_a_public_generator_that_was_held_to_moments_leaves_its_answer_behind(
    held, voting, make_config, public_cohort, train_run, tmp_path
) -> None:
    gan = make_config("gan").model
    theirs = make_config(
        "gan", privacy={**NOT_PRIVATE, "ledger": str(tmp_path / "ledger0")}, data={"root": str(public_cohort)},
        trainer={"steps_before": 2},
    )  # fmt: skip
    theirs = dataclasses.replace(theirs, model={**gan, "warm_up": ["moments"]})
    public = load_run(loop.train(theirs, tmp_path / "public", model_factory(theirs.model)))
    cfg = voting(init={"run": str(public.root)})
    source = theirs.model if held else gan
    run = load_run(train_run(dataclasses.replace(cfg, model={**cfg.model, "source": source})))
    assert same(run.model.public_part.G.state_dict(), trained_model(public).G.state_dict())
    assert trained_model(public).moments.mean.weight.any()
    assert not held or not run.model.public_part.moments.mean.weight.any()


def test_a_public_generator_of_random_numbers_or_of_another_kind_is_refused(voting, tmp_path) -> None:
    assert "init.run" in refusals(voting(init={"run": None, "public": None}), tmp_path / "run")
    assert "another VAE" in refusals(voting(latent=3), tmp_path / "run")
    gan = {"_target_": "imgsynth.models.GAN", "latent": 2, "channels": 2, "widest": 4}
    cfg = voting()
    cfg = dataclasses.replace(cfg, model={**cfg.model, "source": gan})
    assert "got GAN; expected VAE" in refusals(cfg, tmp_path / "run")
