"""The door: everything that is wrong is reported together, and nothing misspelt gets through."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from imgsynth import config
from imgsynth.config_rules import RULES
from imgsynth.files import write_json
from imgsynth.schema import Config
from imgsynth.types import InputError


def faults(*overrides: str) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        config.from_overrides("train", list(overrides))
    return {fault.where: str(fault) for fault in caught.value.faults}


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_pass_and_name_an_output() -> None:
    checked = config.from_overrides("train", [])
    assert checked.privacy.epsilon == 8.0 and checked.output is not None and checked.output.startswith("runs/")


NEEDS = {
    "dicomweb": ["data.dicomweb.url=https://pacs.example.org/dicom-web"],
    "table": ["data.table=images.csv"],
    "pix2pix": ["data=nifti", "data.masks=[lesion]"],
}


@pytest.mark.parametrize("group", ["data", "preprocess", "model", "privacy", "trainer", "encoder", "audit"])
def test_every_choice_of_every_group_composes(group: str) -> None:
    Path("scans").mkdir()
    Path("images.csv").touch()
    for choice in (config.config_folder() / group).glob("*.yaml"):
        config.from_overrides("train", [f"{group}={choice.stem}", "data.root=scans", *NEEDS.get(choice.stem, [])])


@pytest.mark.parametrize("by_path", [True, False])
def test_a_config_file_that_is_no_yaml_is_said_with_its_line(
    by_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "configs" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\nexperiment: mine\ncurve: {models: [a=[b]]}\n")
    with pytest.raises(InputError, match=r"mine\.yaml, line 3, column 20(.|\n)*quotes around"):
        config.from_overrides("sweep", [f"experiment={path if by_path else 'mine'}"])


def test_every_experiment_composes_to_known_keys() -> None:
    for choice in (config.config_folder() / "experiment").glob("*.yaml"):
        found = {}
        try:
            config.from_overrides("run", [f"experiment={choice.stem}"])
        except InputError as error:
            found = {fault.where for fault in error.faults}
        assert set(found) <= {"data.root", "data.table"}, choice.stem  # these depend on the machine


def test_all_faults_are_reported_at_once() -> None:
    found = faults(
        "privacy.noise_multplier=4",
        "privacy.epsilon=-1",
        "trainer.steps=many",
        "model.latnet=8",
        "data=nifti",
        "data.root=/nowhere",
        "preprocess.extra=[{_target_: monai.transforms.RandFlip, porb: 0.5}]",
        "privacy.n=100",
        "privacy.delta=0.02",
        "privacy.batch_patients=200",
    )
    assert set(found) == {
        "privacy.noise_multplier", "privacy.epsilon", "trainer.steps", "model.latnet", "data.root",
        "preprocess.extra[0]", "privacy.delta", "privacy.batch_patients",
    }  # fmt: skip
    assert "noise_multiplier" in found["privacy.noise_multplier"]  # the right spelling is offered
    assert "below 1/n" in found["privacy.delta"]


def test_a_misspelt_key_in_a_file_is_refused_too() -> None:
    raw = OmegaConf.to_container(config.compose("train", []))
    assert isinstance(raw, dict)
    raw["privacy"]["noise_multplier"] = 4.0
    raw["privcy"] = {}
    with pytest.raises(InputError) as caught:
        config.check(raw)
    assert {fault.where for fault in caught.value.faults} == {"privacy.noise_multplier", "privcy"}


def test_numbers_written_as_text_are_numbers_and_nonsense_is_not() -> None:
    checked = config.from_overrides("train", ["privacy.delta='1e-6'", "trainer.steps='20'", "privacy.clipping_norm=1"])
    assert (checked.privacy.delta, checked.trainer.steps, checked.privacy.clipping_norm) == (1e-6, 20, 1.0)
    found = faults("trainer.steps=1.5", "data.images_per_patient=true", "data.classes=lesion", "sample.n=null")
    assert set(found) == {"trainer.steps", "data.images_per_patient", "data.classes", "sample.n"}


def test_epsilon_and_noise_multiplier_exclude_each_other() -> None:
    assert set(faults("privacy.noise_multiplier=1.0")) == {"privacy.epsilon"}
    checked = config.from_overrides("train", ["privacy.noise_multiplier=1.0", "privacy.epsilon=null"])
    assert checked.privacy.noise_multiplier == 1.0
    assert set(faults("privacy=none", "privacy.epsilon=3")) == {"privacy.mode"}


def test_an_adaptive_norm_needs_noise_and_its_count_needs_an_adaptive_norm() -> None:
    assert set(faults("privacy=none", "privacy.clipping_quantile=0.5")) == {"privacy.clipping_quantile"}
    assert set(faults("privacy.count_noise_multiplier=3")) == {"privacy.count_noise_multiplier"}
    assert set(faults("privacy.clipping_quantile=1.5")) == {"privacy.clipping_quantile"}
    checked = config.from_overrides("train", ["privacy.clipping_quantile=0.5", "privacy.count_noise_multiplier=3"])
    assert (checked.privacy.clipping_quantile, checked.privacy.count_noise_multiplier) == (0.5, 3.0)


def test_what_training_begins_with_is_checked_but_for_the_folder_that_a_begun_run_no_longer_needs() -> None:
    for alone in ("init.public=mine", "init.rank=2", "init.train=[head]"):
        assert set(faults(alone)) == {alone.partition("=")[0]}
    checked = config.from_overrides("train", ["init.run=gone", "init.public=mine", "init.train=[head]", "init.rank=2"])
    assert (checked.init.run, checked.init.train, checked.init.rank) == ("gone", ["head"], 2)
    for wrong in ("init.rank=-1", "init.train=some", "init.train=[]", "init.train=['(']", "init.train=[heart]",
                  "init.train=3", "init.public=' '"):  # fmt: skip
        assert set(faults("init.run=gone", wrong)) == {wrong.partition("=")[0]}, wrong


def test_choices_of_training_are_known_by_name() -> None:
    chosen = ("privacy.fakes=separate", "trainer.optimizer=adamw", "trainer.precision=fp16",
              "trainer.second_moment_floor=0", "data.augmentation_multiplicity=0")  # fmt: skip
    assert set(faults(*chosen)) == {key.split("=")[0] for key in chosen}


def test_a_model_with_two_private_objectives_is_refused_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    from imgsynth.models import VAE

    objectives = VAE.objectives
    monkeypatch.setattr(VAE, "objectives", lambda self: [*objectives(self), *objectives(self)])
    for privacy in ("dp", "none"):
        assert "2 private ones (elbo, elbo)" in faults(f"privacy={privacy}")["model, objectives"]


def test_unknown_groups_and_grammar_are_input_errors() -> None:
    assert "nifty" in next(iter(faults("data=nifty").values()))
    assert faults("privacy.epsilon")
    assert faults("trainer.steps=${nowhere}")


def test_a_network_that_breaks_the_guarantee_is_refused_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from imgsynth.models import VAE

    original = VAE.__init__

    def with_batch_norm(self: VAE, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        self.encoder.add_module("norm", torch.nn.BatchNorm3d(1))

    monkeypatch.setattr(VAE, "__init__", with_batch_norm)
    assert "BatchNorm" in next(iter(faults("model._target_=imgsynth.models.VAE").values()))
    assert config.from_overrides("train", ["privacy=none"]).privacy.mode == "none"


def test_a_generator_whose_fakes_would_enter_the_patients_units_is_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from imgsynth.models import GAN

    original = GAN.__init__

    def with_batch_norm(self: GAN, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        self.G.trunk.append(torch.nn.BatchNorm3d(1))

    monkeypatch.setattr(GAN, "__init__", with_batch_norm)
    found = faults("model=gan")
    assert any("BatchNorm" in got for got in found.values())
    assert any(where.startswith("model, layer G.trunk") for where in found)
    for accepted in (["privacy.fakes=plain"], ["privacy=none"]):
        config.from_overrides("train", ["model=gan", *accepted])


def test_the_users_configs_are_found_first() -> None:
    folder = Path("configs/privacy")
    folder.mkdir(parents=True)
    (folder / "strict.yaml").write_text("epsilon: 0.5\ndelta: 1.0e-6\n")
    (folder / "dp.yaml").write_text("epsilon: 2.0\n")
    assert config.from_overrides("train", ["privacy=strict"]).privacy.epsilon == 0.5
    assert config.from_overrides("train", []).privacy.epsilon == 2.0


def test_saved_configuration_is_the_base_of_later_verbs() -> None:
    first = config.from_overrides("train", ["privacy.epsilon=3", "trainer.steps=7", "output=run"])
    write_json(Path("run/config.json"), dataclasses.asdict(first))
    assert config.from_overrides("sample", ["output=run"]) == first
    later = config.from_overrides("evaluate", ["output=run", "sample.n=5", "encoder=random_conv"])
    assert (later.trainer.steps, later.sample.n, later.encoder.name) == (7, 5, "random_conv")
    anew = config.from_overrides("train", ["output=run", "privacy=none"])  # names a group: a configuration of its own
    assert anew.trainer.steps == Config().trainer.steps
    assert set(faults("output=run", "sample.m=5")) == {"sample.m"}


def test_verbs_that_need_a_run_take_the_latest() -> None:
    for age, steps in enumerate((5, 6)):
        path = write_json(
            Path(f"runs/{steps}/config.json"),
            dataclasses.asdict(config.from_overrides("train", [f"trainer.steps={steps}", f"output=runs/{steps}"])),
        )
        os.utime(path, (1e9 - age, 1e9 - age))
    assert config.from_overrides("sample", []).output == "runs/5"
    assert config.from_overrides("sample", ["output=runs/6"]).trainer.steps == 6
    assert config.from_overrides("train", []).output not in ("runs/5", "runs/6")


def test_a_saved_configuration_reads_as_what_it_was() -> None:
    first = config.from_overrides("train", ["privacy.delta=1e-6", "data.classes=[a,b]", "output=run"])
    assert config.check(OmegaConf.load(config.save(first, Path("run/config.yaml")))) == first


def test_every_rule_names_a_key_that_exists() -> None:
    for path, _, _ in RULES:
        value = Config()
        for name in path.split("."):
            assert name in {field.name for field in dataclasses.fields(value)}, path  # type: ignore[arg-type]
            value = getattr(value, name)


@pytest.mark.parametrize(
    "override",
    [
        "data={kind: tape, root: .}", "data.splits.holdout=0.9", "data.splits.official=true",
        "preprocess.shape=[4,4,4]", "preprocess.low=900",
        "privacy.delta=2",
        "preprocess.orientation=XYZ", "trainer.ema=1", "sample.formats=[png]", "sample.dicom=multi",
        "sample.transfer_syntax=jpeg", "sample.uid_root=1.2.", "audit.primary=soul", "audit.alpha=0.7",
        "audit.references=3", "audit.references=2", "audit.overfit_steps=-1", "audit.bootstrap=99",
        "evaluate.bootstrap=1",
        "audit={attacks: [logan, lira/logan], primary: logan}",
        "preprocess.spacing=[1]", "preprocess.spacing=null", "data.classes=[a,a]", "data.pattern='('",
        "sample={n: 3, labels: histogram, histogram_epsilon: 9}", "privacy.epsilon=inf", "privacy.epsilon=0",
        "evaluate.parts=[fid]", "evaluate.parts=[]", "evaluate.classifiers=[small_cnn,small_cnn]",
        "data.phantom.patients=2", "model=null", "model._target_=os.system", "model._target_=imgsynth.models.Nothing",
    ],
)  # fmt: skip
def test_out_of_range_values_are_refused(override: str) -> None:
    assert len(faults(override)) == 1


def test_official_splits_leave_nothing_to_draw(tmp_path: Path) -> None:
    (tmp_path / "x.npz").touch()
    overrides = ["data=medmnist", "data.root=x.npz", "data.splits.official=true"]
    config.from_overrides("train", overrides)
    drawn = ["data.splits.test=0.2", "data.splits.holdout=0.1", "data.splits.seed=1"]
    assert set(faults(*overrides, *drawn)) == {"data.splits.test", "data.splits.holdout", "data.splits.seed"}
    assert set(faults("data=phantom", "data.splits.official=true")) == {"data.splits.official"}


@pytest.mark.parametrize(
    ("overrides", "where"),
    [(["data.modality=DX", "sample.dicom=enhanced", "sample.burned_in='NO'"], "sample.dicom"),
     (["sample.burned_in='YES'", "sample.dicom=enhanced"], "sample.dicom"),
     (["sample.burned_in=null", "sample.dicom=enhanced"], "sample.dicom"),
     (["privacy=none", "sample.dicom=enhanced", "sample.burned_in='NO'"], "sample.dicom"),
     (["preprocess.shape=[64,31,64]", "sample.transfer_syntax=jpeg2000_lossless"], "sample.transfer_syntax")],
)  # fmt: skip
def test_dicom_that_could_not_hold_the_images_is_refused_before_training(overrides: list[str], where: str) -> None:
    assert where in faults(*overrides)
    assert where not in faults(*overrides, "sample.formats=[nifti]", "trainer.ema=1")
    assert where not in faults(overrides[0], "trainer.ema=1")
    fits = ["sample.dicom=enhanced", "sample.burned_in='NO'", "sample.transfer_syntax=jpeg2000_lossless"]
    assert where not in faults(*fits, "trainer.ema=1")


PAIRS = ["data=nifti", "data.root=."]


def test_masks_tell_the_model_how_many_structures_it_makes() -> None:
    checked = config.from_overrides("train", [*PAIRS, "data.masks=[a,{name: b, value: 7}]"])
    assert checked.model["structures"] == 2
    again = config.check(dataclasses.asdict(checked))  # as a run's config.json has it
    assert again.model == checked.model
    assert "structures" not in config.from_overrides("train", PAIRS).model
    evolved = config.from_overrides("train", [*PAIRS, "model=evolution", "data.masks=[a]"])
    assert evolved.model["structures"] == 1


def test_a_model_without_masks_is_refused_by_name() -> None:
    found = faults(*PAIRS, "model=mepf", "data.masks=[a]")
    assert "MEPF, which makes images alone" in found["data.masks"]
    able = "CodeGAN, Diffusion, Evolution, GAN, LatentDiffusion, LatentNoise, MERF, PATEGAN, Pix2Pix, VAE, VAEGAN"
    assert able in found["data.masks"]


def test_a_model_that_paints_onto_masks_is_refused_without_them() -> None:
    assert "data.masks=[lesion]" in faults(*PAIRS, "model=pix2pix")["data.masks"]
    checked = config.from_overrides("train", [*PAIRS, "model=pix2pix", "data.masks=[a]"])
    assert checked.model["structures"] == 1 and checked.trainer.generator_learning_rate < checked.trainer.learning_rate


@pytest.mark.parametrize(("masks", "told"), [("null", 1), ("[a,b]", 1)])
def test_what_the_model_is_told_otherwise_is_refused(masks: str, told: int) -> None:
    assert "leave model.structures out" in faults(*PAIRS, f"data.masks={masks}", f"model.structures={told}")[
        "model.structures"
    ]  # fmt: skip


def test_unfit_masks_and_transforms_are_reported_with_the_rest() -> None:
    extra = "[{_target_: monai.transforms.ToTensor}, {_target_: monai.transforms.RandFlip}]"
    found = faults(*PAIRS, "data.masks=[a,a]", "trainer.steps=0", f"preprocess.extra={extra}")
    assert set(found) == {"data.masks", "trainer.steps", "preprocess.extra[0]"}
