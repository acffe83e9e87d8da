"""From the command of a sweep to its cells: who is run with what, and all that is wrong, before any work."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from imgsynth.sweep.cells import Cell, SweepFolder
from imgsynth.sweep.design import Design, design, own_config
from imgsynth.types import InputError

TINY = ("data.phantom.patients=60", "data.phantom.size=16", "preprocess.shape=[16,16,16]",
        "preprocess.spacing=[24,24,24]", "privacy.delta=1e-3", "privacy.batch_patients=8")  # fmt: skip

GAN_AND_FREE = "curve.overrides={*/gan/*:['trainer.learning_rate=5e-4'],*/*/inf:['trainer.steps=9']}"
WRONG = "*/vae/8:['trainer.stesp=3'],*/vaee/*:['trainer.steps=3'],*/gan/*:['model.nothing=1']"


def designed(folder: Path, *overrides: str) -> Design:
    given = list(overrides)
    return design(own_config(given), given, SweepFolder(folder))


def faults(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        designed(folder, *overrides)
    return [f"{fault.where}: {fault.got}; {fault.expected}; {fault.remedy}" for fault in caught.value.faults]


def test_each_cell_is_the_command_with_its_own_model_and_epsilon(tmp_path: Path) -> None:
    found = designed(tmp_path, *TINY, "curve.epsilons=[1,inf]", "curve.models=[vae,gan]", "curve.repetitions=2",
                     "trainer.steps=7", GAN_AND_FREE,
                     f"output={tmp_path}").cells  # fmt: skip
    assert len(found) == 8 and len({config.output for config in found.values()}) == 8
    vae, gan, free = (found[Cell("run", *what)] for what in (("vae", 1.0, 1), ("gan", 1.0, 2), ("vae", math.inf, 1)))
    assert vae.model["_target_"].endswith("VAE") and gan.model["_target_"].endswith("GAN")
    assert (vae.privacy.mode, vae.privacy.epsilon) == ("dp", 1.0)
    assert (free.privacy.mode, free.privacy.epsilon) == ("none", None)
    assert gan.trainer.learning_rate == 5e-4 and vae.trainer.learning_rate == 1e-3
    assert vae.trainer.steps == 7 and free.trainer.steps == 7  # what the command says itself holds for all
    assert vae.output == str(tmp_path / "cells" / "run-vae-eps1-1")
    assert vae.data.phantom.patients == 60 and vae.evaluate.shared == free.evaluate.shared


def test_without_models_it_is_the_configurations_own(tmp_path: Path) -> None:
    (cell,) = designed(tmp_path, *TINY, "model=gan", "curve.epsilons=[2.5]").cells
    assert cell.name == "run-gan-eps2.5-1"


def test_the_command_may_say_what_only_the_sweeps_models_take(tmp_path: Path) -> None:
    """VAEs, which a run without a model would be, have no steps after the private one."""
    after = ["trainer.steps_after=7", "curve.epsilons=[1]"]
    (one,) = designed(tmp_path, *TINY[:-1], *after, "curve.models=[merf]").cells.values()
    assert one.trainer.steps_after == 7
    (told,) = faults(tmp_path, *TINY[:-1], *after, "curve.models=[merf,vae]")
    assert told.startswith("run/vae/1") and "trainer.steps_after" in told
    for wrong in ("trainer.stesp=3", "sweep=slurm"):
        told = faults(tmp_path, *TINY[:-1], wrong, "curve.models=[merf]")
        assert any(wrong.partition("=")[0] in one for one in told)


def test_several_cohorts_each_by_their_own_overrides(tmp_path: Path) -> None:
    few = "few:['data.phantom.patients=30']"
    many = "many:['data.phantom.patients=90','experiment=curve']"
    cells = designed(tmp_path, *TINY[1:], f"curve.cohorts={{{few},{many}}}", "curve.epsilons=[1]",
                     "curve.overrides={few/*/*:['trainer.steps=3']}").cells  # fmt: skip
    sizes = {cell.cohort: (config.data.phantom.patients, config.trainer.steps) for cell, config in cells.items()}
    assert sizes == {"few": (30, 3), "many": (90, 100)}


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    said = faults(tmp_path, *TINY, "curve.epsilons=[1,8]", "curve.models=[vae,gan]",
                  f"curve.overrides={{{WRONG}}}")  # fmt: skip
    assert len(said) == 3
    assert any("run/vae/8: trainer.stesp" in one for one in said)
    assert any("run/gan/1: model.nothing" in one for one in said)  # once, though at both ε
    assert any("*/vaee/*" in one and "a pattern that fits" in one for one in said)


@pytest.mark.parametrize("override", ["privacy.epsilon=3", "privacy=none", "privacy.noise_multiplier=2", "sweep=local"])
def test_what_the_sweep_says_itself_is_not_said_beside_it(tmp_path: Path, override: str) -> None:
    given = [*TINY, override]
    with pytest.raises(InputError, match=override.partition("=")[0]):
        design(own_config(list(TINY)), given, SweepFolder(tmp_path))


@pytest.mark.parametrize(
    ("override", "word"),
    [("curve.epsilons=[1,1]", "different"), ("curve.epsilons=[0]", "above 0"), ("curve.epsilons=[]", "above 0"),
     ("curve.repetitions=0", "1 or more"),
     ("curve.cohorts={a:3}", "lists of overrides"), ("curve.overrides={a:[b]}", "lists of overrides"),
     ("curve.epsilons=[1,1.0000001]", "first six digits"), ("curve.cohorts={a/../b:['data=phantom']}", "for files"),
     ("curve.public={a:''}", "whose images"), ("curve.models=[vae,vae]", "different names")],
)  # fmt: skip
def test_a_wrong_section_is_told(tmp_path: Path, override: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        designed(tmp_path, *TINY, override)


def test_private_patients_are_not_shown_without_privacy_unless_by_name(tmp_path: Path) -> None:
    base = ["data=nifti", f"data.root={tmp_path}", *TINY[2:], "curve.epsilons=[1,inf]"]
    (said,) = faults(tmp_path, *base)
    assert "run is private" in said and "curve.unbounded=[run]" in said and "curve.public.run" in said
    assert designed(tmp_path, *base, "curve.unbounded=[run]").public == {"run": None}
    public = designed(tmp_path, *base, "curve.public={run:'radiographs of Example 2019, CC BY'}").public
    assert public == {"run": "radiographs of Example 2019, CC BY"}
    assert designed(tmp_path, *base[:-1], "curve.epsilons=[1,3]").public == {"run": None}


def test_a_seed_of_the_noise_is_refused_where_runs_without_privacy_are(tmp_path: Path) -> None:
    """Its ε is ∞ in the ledger; in the command and in a pattern's overrides."""
    base = ["data=nifti", f"data.root={tmp_path}", *TINY[2:], "curve.epsilons=[1,3]"]
    for seeded in ("privacy.seed=0", "curve.overrides={*/*/3:['privacy.seed=5']}"):
        (said,) = faults(tmp_path, *base, seeded)
        assert said.startswith("privacy.seed: a seed, and run is private")
        assert len(designed(tmp_path, *base, seeded, "curve.unbounded=[run]").cells) == 2
        assert len(designed(tmp_path, *TINY, "curve.epsilons=[1,3]", seeded).cells) == 2  # phantoms


def test_no_override_makes_a_cell_anything_but_its_epsilon(tmp_path: Path) -> None:
    base = ["data=nifti", f"data.root={tmp_path}", *TINY[2:], "curve.epsilons=[1]"]
    for override in ("privacy=none", "privacy.epsilon=50"):
        (config,) = designed(tmp_path, *base, f"curve.overrides={{*/*/*:['{override}']}}").cells.values()
        assert (config.privacy.mode, config.privacy.epsilon) == ("dp", 1.0)
    for override in ("privacy.mode=none", "privacy.noise_multiplier=0.01"):
        assert "run/vae/1: privacy" in faults(tmp_path, *base, f"curve.overrides={{*/*/*:['{override}']}}")[0]


def test_one_phantom_cell_does_not_make_a_cohort_public(tmp_path: Path) -> None:
    base = ["data=nifti", f"data.root={tmp_path}", *TINY[2:], "curve.epsilons=[1,inf]"]
    cohort = ["curve.cohorts={ward:['data=nifti']}", "curve.overrides={ward/*/1:['data=phantom']}"]
    assert "ward is private" in faults(tmp_path, *base[1:], *cohort)[0]
    two = "curve.cohorts={ward:['data=nifti'],clinic:['data=nifti']}"
    (said,) = faults(tmp_path, *base[1:], two, "curve.unbounded=[clinic]")
    assert "ward is private" in said  # named was the other


def test_no_two_cells_share_a_folder(tmp_path: Path) -> None:
    cohorts = "curve.cohorts={a:['data.phantom.patients=60'],b:['data.phantom.patients=70']}"
    found = designed(tmp_path, *TINY[1:], cohorts, "curve.models=[vae,gan]", "curve.epsilons=[1,10,inf]",
                     "curve.repetitions=2").cells  # fmt: skip
    assert len(found) == len({config.output for config in found.values()}) == 24
    shared = {(cell.cohort, cell.repetition): config.evaluate.shared for cell, config in found.items()}
    assert len({config.evaluate.shared for config in found.values()}) == len(shared) == len(set(shared.values())) == 4


def test_phantoms_are_public(tmp_path: Path) -> None:
    assert designed(tmp_path, *TINY, "curve.epsilons=[inf]").public == {"run": "digital phantoms, which are nobody"}


def test_a_cohort_whose_data_are_missing_is_refused_or_left_out_by_name(tmp_path: Path) -> None:
    cohorts = "curve.cohorts={here:['data=phantom'],there:['data=nifti','data.root=${curve.root}/none']}"
    base = [*TINY, cohorts, "curve.epsilons=[1]"]
    (said,) = faults(tmp_path, *base)
    assert "there: data.root" in said and "data/none" in said and "curve.leave_out=[there]" in said
    found = designed(tmp_path, *base, "curve.leave_out=[there]")
    assert {cell.cohort for cell in found.cells} == {"here"} and found.left_out == ["there"]
    assert "names of curve.cohorts" in faults(tmp_path, *base, "curve.leave_out=[nowhere]")[0]


@pytest.mark.parametrize("name", ["curve", "leaderboard"])
def test_the_experiments_that_come_with_it_are_sound(tmp_path: Path, name: str) -> None:
    absent = (
        ["curve.leave_out=[pneumoniamnist,nih,hippocampus,phantoms1000,phantoms5000]", "curve.epsilons=[8]"]
        if name == "leaderboard"
        else []
    )
    cells = designed(tmp_path, f"experiment={name}", *absent).cells
    assert cells and all(math.isinf(c.epsilon) == (config.privacy.mode == "none") for c, config in cells.items())


def test_no_ledger_protects_what_is_another_cohorts_public_generator() -> None:
    """Each public cohort of the leaderboard is read by private runs, and is what another one's runs begin with."""
    curve = own_config(["experiment=leaderboard", "curve.root=DATA"]).curve
    ledgers = [line for name in curve.public for line in curve.cohorts[name] if line.startswith("privacy.ledger=")]
    assert len(curve.public) == len(ledgers) == len(set(ledgers))
