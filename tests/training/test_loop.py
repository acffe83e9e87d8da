"""The loop: what it records before it touches data, what it writes, what it refuses, and that it learns."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imgsynth import console
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Manifest
from imgsynth.models.gan import Discriminator
from imgsynth.models.vae import VAE, NegativeELBO
from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import training_event
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import Config, DataConfig
from imgsynth.training import begin, loop, publish
from imgsynth.training.checkpoint import load_checkpoint, same_networks
from imgsynth.training.folder import RunFolder
from imgsynth.training.metrics import read_rows
from imgsynth.training.run import load_run, model_factory, read_config, trained_model
from imgsynth.training.state import TrainingState
from imgsynth.training.steps import post_processing_updates, private_update
from imgsynth.types import CheckFailed, Fault, InputError, PatientBatch

Configure = Callable[..., Config]
Train = Callable[..., Path]


def cohort_of(run_dir: Path) -> str:
    return str(json.loads((run_dir / "manifest.json").read_text())["fingerprint"])


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(configure: Configure, train_run: Train) -> None:
    cfg = configure("gan")
    run_dir = train_run(cfg)
    rows, local = read_rows(run_dir / "metrics.jsonl"), read_rows(run_dir / "local" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in local] == list(range(1, 10))
    assert set().union(*rows) == {"step", "noise_multiplier", "gradient_norm", "generator_loss", "epsilon"}
    assert {"patients", "loss", "clipped_share", "seconds"} <= set().union(*local)
    assert [row["step"] for row in rows if "generator_loss" in row] == [2, 4, 6, 8]  # every 2 steps
    assert sorted(p.name for p in (run_dir / "samples").iterdir()) == ["step-000006.png", "step-000009.png"]
    with Image.open(run_dir / "samples" / "step-000009.png") as sheet:
        assert np.asarray(sheet).std() > 1
    board = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == {"noise_multiplier", "gradient_norm", "generator_loss", "epsilon"}
    plan = PrivacyPlan.from_json(json.loads((run_dir / "plan.json").read_text()))
    (entry,) = Ledger(cfg.privacy.ledger).entries(cohort_of(run_dir))
    assert (entry.epsilon, entry.state, entry.unit) == (math.inf, "closed", "patient")  # a seed protects from nobody
    assert entry.event == plan.ledger_event() != plan.event() and math.isfinite(plan.epsilon)


def test_epsilon_so_far_is_what_was_published_with_the_row(configure: Configure, train_run: Train) -> None:
    rows = read_rows(train_run(configure("vae")) / "metrics.jsonl")
    stairs = [4, 4, 4, 4, 6, 6, 8, 8, 9]  # checkpoints at 4 and 8, a sheet at 6, the end at 9
    n = 26  # training patients of 36
    for row, step in zip(rows, stairs, strict=True):
        proven = epsilon(training_event(8 / n, 1.5, step), 1e-2)
        assert proven <= row["epsilon"] <= 1.5 * proven  # by the quicker accountant
    assert rows[-1]["epsilon"] == epsilon(training_event(8 / n, 1.5, 9), 1e-2)


def test_a_released_run_uses_the_averaged_weights(configure: Configure, train_run: Train) -> None:
    run_dir = train_run(configure("gan"))
    run = load_run(run_dir)
    state = load_checkpoint(run_dir / "checkpoints" / "last.pt")["state"]
    assert run.finished and run.step == 9 and not run.model.training
    name = "stem.weight"
    found = run.model.generator.state_dict()[name]
    assert torch.equal(found, state["ema"][f"generator.{name}"])
    assert not torch.equal(found, state["model"][f"G.{name}"])
    assert run.config == read_config(run_dir / "config.json") == configure("gan")
    images = run.model.sample(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, *run.grid.shape)


def test_a_half_trained_run_opens_too_and_an_empty_folder_says_what_is_missing(
    configure: Configure, train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish.Metrics, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(configure("gan"))
    assert load_run(tmp_path / "run").step == 4 and not load_run(tmp_path / "run").finished
    with pytest.raises(InputError) as caught:
        load_run(tmp_path / "nothing")
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize("target", ["os.system", "imgsynth.models.Nothing", "no_such_module.Model", "Model"])
def test_a_checkpoint_cannot_name_any_function_as_its_model(target: str) -> None:
    with pytest.raises(InputError, match="GenerativeModel"):
        model_factory({"_target_": target})


# --- privacy ---------------------------------------------------------------------------------------------------------


def test_the_spend_is_recorded_before_an_image_is_opened(
    configure: Configure, train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, seen = configure("gan"), []

    def open_images(manifest: object, *_: object, **__: object) -> None:
        seen.append([entry.state for entry in Ledger(cfg.privacy.ledger).entries(cohort_of(tmp_path / "run"))])
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "PatientDataset", open_images)
    with pytest.raises(KeyboardInterrupt):
        train_run(cfg)
    assert seen == [["open"]]


def test_the_budget_is_kept_and_a_refused_run_binds_nothing(configure: Configure, train_run: Train) -> None:
    cfg = configure("gan", privacy={"budget_epsilon": 1.7, "seed": None})
    train_run(cfg, "first")  # ε is 1.4 or so
    with pytest.raises(InputError, match="budget"):
        train_run(cfg, "second")
    smaller = configure("gan", privacy={"budget_epsilon": 1.7, "noise_multiplier": 6.0, "seed": None})
    assert load_run(train_run(smaller, "second")).finished


def test_the_label_histogram_is_part_of_the_plan_and_drawn_once(configure: Configure, train_run: Train) -> None:
    cfg = configure("vae", sample={"labels": "histogram", "histogram_epsilon": 0.7}, privacy={"seed": None})
    run_dir = train_run(cfg)
    drawn = json.loads((run_dir / "label_histogram.json").read_text())
    assert drawn["classes"] == ["0", "1"] and drawn["epsilon"] == 0.7 and all(n >= 0 for n in drawn["counts"])
    plan = PrivacyPlan.from_json(json.loads((run_dir / "plan.json").read_text()))
    assert plan.histogram_epsilon == 0.7
    train_run(cfg)
    assert json.loads((run_dir / "label_histogram.json").read_text()) == drawn
    (run_dir / "label_histogram.json").unlink()
    with pytest.raises(InputError, match="label_histogram"):
        train_run(cfg)
    assert not (run_dir / "label_histogram.json").exists()


def test_the_checkpoint_of_an_unseeded_run_holds_no_random_state(configure: Configure, train_run: Train) -> None:
    run_dir = train_run(configure("gan", privacy={"seed": None}))
    state = load_checkpoint(run_dir / "checkpoints" / "last.pt")["state"]
    assert state["random"] is None and state["noise"] == {"random": None}
    assert state["sampler"] == {"drawn": 9, "random": None}


def test_a_declared_cohort_size_sets_the_rate_and_not_who_is_drawn(configure: Configure, train_run: Train) -> None:
    """26 patients, declared as 80: each is drawn at 60/80, and nobody who does not exist."""
    run_dir = train_run(configure("vae", privacy={"n": 80, "batch_patients": 60}))
    drawn = [row["patients"] for row in read_rows(run_dir / "local" / "metrics.jsonl")]
    assert load_run(run_dir).plan.normaliser == 60
    assert all(10 <= count <= 26 for count in drawn)  # 19.5 ± 2.2


def test_a_batch_normalised_private_network_is_refused_before_anything(configure: Configure, tmp_path: Path) -> None:
    def factory(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        model = model_factory(configure("gan").model)(shape, classes)
        model.D.trunk.append(torch.nn.BatchNorm1d(4))
        return model

    cfg = configure("gan")
    with pytest.raises(InputError, match="BatchNorm"):
        loop.train(cfg, tmp_path / "run", factory)
    assert (
        not (tmp_path / "run" / "config.json").exists()
        and not (Path(str(cfg.privacy.ledger)) / "ledger.sqlite").exists()
    )


def test_post_processing_steps_its_own_network_and_leaves_no_gradient_in_the_private_one(configure: Configure) -> None:
    cfg = configure("gan")
    plan = make_plan(cfg.privacy, n=26, steps=9, images_per_patient=1, unit="patient")
    model = model_factory(cfg.model)((8, 8), 2)
    state = TrainingState(model, plan, cfg.trainer, patients=26, seed=1, device=torch.device("cpu"))
    state.step = 2
    for parameter in model.D.parameters():  # as after a private step
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert post_processing_updates(state, 8).keys() == {"generator_loss"}
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("D."))
    assert all(not torch.equal(before[name], after[name]) for name in after if name.startswith("G."))
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.D.parameters())


SENTINEL = "SENTINEL"


@pytest.fixture
def marked_scans(tmp_path: Path) -> Path:
    """Single CT slices of 24 patients with a sentinel in names, ids, free text, a private tag and paths."""
    random = np.random.default_rng(0)
    folder = tmp_path / f"{SENTINEL}path"
    for index in range(24):
        ds = pydicom.Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (generate_uid() for _ in range(3))
        ds.PatientID, ds.PatientName = f"{SENTINEL}id{index}", f"{SENTINEL}name^{index}"
        ds.StudyDescription = ds.InstitutionName = ds.SeriesDescription = f"{SENTINEL}text"
        ds.Modality, ds.ImageType, ds.PatientAge, ds.PatientSex = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "050Y", "F"
        ds.private_block(0x0029, f"{SENTINEL}maker", create=True).add_new(1, "LO", f"{SENTINEL}private")
        ds.Rows = ds.Columns = 8
        ds.PixelSpacing, ds.SliceThickness = [4, 4], 4
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
        ds.PixelData = random.integers(-1000, 1000, (8, 8)).astype("<i2").tobytes()
        path = folder / f"{SENTINEL}file{index}.dcm"
        path.parent.mkdir(exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
    return folder


def test_nothing_of_headers_or_paths_is_in_what_may_be_shown(
    marked_scans: Path, configure: Configure, train_run: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    ledger = str(marked_scans / "ledger")
    cfg = configure("gan", privacy={"ledger": ledger, "seed": None}, preprocess={"low": -1000, "high": 1000},
                    data={"kind": "dicom", "root": str(marked_scans), "classes": None, "modality": None,
                          "cohort": f"{SENTINEL}cohort"})  # fmt: skip
    run_dir = train_run(cfg)
    assert SENTINEL in (run_dir / "local" / "files.json").read_text()  # the sentinels were read
    shown = [run_dir / "checkpoints" / "last.pt", run_dir / "metrics.jsonl", run_dir / "plan.json",
             *(run_dir / "tensorboard").iterdir(), *(run_dir / "samples").iterdir()]  # fmt: skip
    assert len(shown) == 6 and not (run_dir / "metrics.LOCAL-ONLY.txt").exists()
    for path in shown:
        content = path.read_bytes()
        for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
            assert SENTINEL.encode(encoding) not in content, path
        assert str(run_dir).encode() not in content, path
    assert "loss" not in "".join(capfd.readouterr())


# --- going on, and refusing to ---------------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_is_left_alone(
    configure: Configure, train_run: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure("gan")
    run_dir = train_run(cfg)
    before = {p: p.stat().st_mtime_ns for p in run_dir.rglob("*") if p.is_file() and p.name != ".lock"}
    assert train_run(cfg) == run_dir
    assert "finished" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in run_dir.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_folder_of_another_config_is_refused(configure: Configure, train_run: Train) -> None:
    run_dir = train_run(configure("gan"))
    before = (run_dir / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(InputError) as caught:
        train_run(configure("vae", trainer={"steps": 20, "threads": 2}, privacy={"noise_multiplier": 0.5}))
    assert {"model._target_", "model.every", "trainer.steps", "privacy.noise_multiplier"} == {
        fault.where for fault in caught.value.faults
    }
    assert (run_dir / "checkpoints" / "last.pt").read_bytes() == before


def test_settings_of_an_earlier_version_are_refused_by_name(configure: Configure, train_run: Train) -> None:
    """Of a run whose model no longer knows what it was told."""
    run_dir = train_run(configure("diffusion"))
    path = run_dir / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    content["model"]["warm_up"] = True
    torch.save(content, path)
    with pytest.raises(InputError, match=r"last\.pt(.|\n)*warm_up: True(.|\n)*the version that trained it"):
        load_run(run_dir)


def test_other_errors_while_weights_are_loaded_are_told_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), same_networks(tmp_path / "last.pt"):
        raise RuntimeError("CUDA out of memory")


def test_weights_of_an_earlier_versions_layers_are_refused_by_name(
    configure: Configure, train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that is opened, of its networks, and of one that goes on: it stays as it was."""
    cfg = configure("vae")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publish.Metrics, "publish", stop)
        train_run(cfg)
    run_dir, as_it_was = tmp_path / "run", VAE.__init__
    run, weights = load_run(run_dir), (run_dir / "checkpoints" / "last.pt").read_bytes()
    assert 0 < run.step < cfg.trainer.steps

    def with_a_later_part(self: VAE, *arguments: Any, **settings: Any) -> None:
        as_it_was(self, *arguments, **settings)
        self.register_buffer("later", torch.zeros(1))

    with monkeypatch.context() as patch:
        patch.setattr(VAE, "__init__", with_a_later_part)
        for again in (lambda: load_run(run_dir), lambda: trained_model(run), lambda: train_run(cfg)):
            with pytest.raises(InputError, match=r"other layers (.|\n)*\"later\"(.|\n)*the version that trained it"):
                again()
    assert (run_dir / "checkpoints" / "last.pt").read_bytes() == weights
    train_run(cfg)
    assert load_run(run_dir).finished


def test_a_folder_whose_checkpoint_was_deleted_is_refused(configure: Configure, train_run: Train) -> None:
    cfg = configure("gan")
    (train_run(cfg) / "checkpoints" / "last.pt").unlink()
    with pytest.raises(InputError, match="restore the checkpoint"):
        train_run(cfg)


def test_a_cohort_that_cannot_be_used_leaves_the_folder_free(configure: Configure, train_run: Train) -> None:
    with pytest.raises(InputError):
        train_run(configure("gan", data={"root": "/no/such/file.npz"}))
    with pytest.raises(InputError, match="delta"):
        train_run(configure("gan", privacy={"delta": 0.5}))
    assert load_run(train_run(configure("gan"))).finished


def test_a_disk_that_fills_up_ends_cleanly_and_the_run_goes_on_after(
    configure: Configure, train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure("gan")
    unbroken = train_run(cfg, "unbroken")
    write, calls = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(".next.pt"):
            calls.append(path)
            if len(calls) == 2:
                write(path, bytes(content)[:100])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match="No space left"):
            train_run(cfg)
    run_dir = tmp_path / "run"
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["last.pt"]
    assert load_run(run_dir).step == 4 and read_rows(run_dir / "metrics.jsonl")[-1]["step"] == 4
    train_run(cfg)
    ours, theirs = (load_checkpoint(d / "checkpoints" / "last.pt")["state"]["model"] for d in (run_dir, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_divergence_ends_the_run_for_good(configure: Configure, train_run: Train, tmp_path: Path) -> None:
    """Before the first checkpoint and after it, in the folder and in a copy made before."""
    for name, every in (("early", 100), ("late", 1)):
        cfg = configure("gan", trainer={"generator_learning_rate": 1e30, "checkpoint_every": every, "sheet_every": 100})
        with pytest.raises(CheckFailed, match="learning_rate"):
            train_run(cfg, name)
        run_dir = tmp_path / name
        assert (run_dir / "checkpoints" / "last.pt").exists() == (name == "late")
        (entry,) = [
            e for e in Ledger(cfg.privacy.ledger).entries(cohort_of(run_dir)) if e.run == RunFolder(run_dir).run_id()
        ]
        assert entry.state == "closed"
        with pytest.raises(
            InputError, match=r"one of its steps ended \(step \d: a .* of (nan|inf)\).*what this one spent stays spent"
        ):
            train_run(cfg, name)
        (run_dir / "diverged.json").unlink()  # as in a copy that was made before
        with pytest.raises(InputError, match="finished"):
            train_run(cfg, name)


def test_a_step_that_is_refused_in_mid_run_ends_the_run_for_good(
    configure: Configure, train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a step is refused may depend on whom it drew: here, a buffer that changes in the fifth."""
    cfg, forward = configure("vae", privacy={"seed": None}), NegativeELBO.forward

    def counting(self: NegativeELBO, *inputs: torch.Tensor) -> torch.Tensor:
        if len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 4:
            self.register_buffer("seen", torch.ones(1))
        return forward(self, *inputs)

    monkeypatch.setattr(NegativeELBO, "forward", counting)
    with pytest.raises(InputError, match="values that change in the forward pass"):
        train_run(cfg)
    monkeypatch.undo()
    (entry,) = Ledger(cfg.privacy.ledger).entries(cohort_of(tmp_path / "run"))
    assert load_run(tmp_path / "run").step == 4 and entry.state == "closed"
    with pytest.raises(InputError, match=r"one of its steps ended \(seen"):
        train_run(cfg)


def test_copies_of_a_run_are_not_trained_at_the_same_time(
    configure: Configure, train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, refused, update = configure("vae"), [], loop.private_update

    def meanwhile(*arguments: object) -> object:
        if not refused:
            shutil.copytree(tmp_path / "run", tmp_path / "copy")
            with pytest.raises(InputError, match="another process trains in another folder") as caught:
                train_run(cfg, "copy")
            refused.append(caught.value)
        return update(*arguments)

    monkeypatch.setattr(loop, "private_update", meanwhile)
    assert load_run(train_run(cfg)).finished and refused
    assert load_run(train_run(cfg, "another")).finished  # other runs on the same ledger are not held up


def test_the_manifest_says_whose_ids_the_plan_is_about(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("vae")
    for whose in ("patient", "case"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(begin, "build_manifest", lambda data, whose=whose: _with_ids(data, whose))
            _, plan, _ = begin.settle(RunFolder(tmp_path), cfg, model_factory(cfg.model))
        assert plan.ids == whose


def _with_ids(data: DataConfig, whose: str) -> tuple[Manifest, list[Fault]]:
    manifest, faults = build_manifest(data)
    return dataclasses.replace(manifest, ids=whose), faults


def test_arguments_of_extra_transforms_are_not_in_the_checkpoint(configure: Configure, tmp_path: Path) -> None:
    extra = [{"_target_": "some.Transform", "path": f"/{SENTINEL}"}]
    cfg = configure("vae", preprocess={"extra": extra})
    loop.train(cfg, tmp_path / "run", model_factory(cfg.model), (Invert(),))
    assert SENTINEL.encode() not in (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes()
    assert load_run(tmp_path / "run").config.preprocess.extra == extra


@pytest.mark.parametrize(("model", "fakes"), [("vae", "joint"), ("gan", "joint"), ("gan", "plain")])
def test_what_draws_for_no_patient_does_not_follow_the_batch_size(model: str, fakes: str, configure: Configure) -> None:
    cfg = configure(model, privacy={"fakes": fakes})
    plan = make_plan(cfg.privacy, n=26, steps=9, images_per_patient=1, unit="patient")
    shared, own = [], []
    for patients in (0, 3):
        network = model_factory(cfg.model)((8, 8), 2)
        state = TrainingState(network, plan, cfg.trainer, patients=26, seed=1, device=torch.device("cpu"))
        x_PKC, y_PK = torch.zeros(patients, 1, 1, 8, 8), torch.zeros(patients, 1, dtype=torch.long)
        private_update(state, plan, PatientBatch(x_PKC, y_PK, torch.ones(patients, 1)))
        shared.append(state.random.get_state())
        own.append(state.random_real.get_state())
    assert torch.equal(*shared)
    assert torch.equal(*own) == (fakes == "plain")  # the VAE draws for every real image, joint fakes for every patient
    assert not torch.equal(shared[0], own[0])


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_an_adaptive_norm_and_its_optimizer_go_on_where_they_were(
    model: str, configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded: in the same weights, norms and moments, whether the run was stopped at step 4 or not."""
    cfg = configure(model, privacy={"clipping_quantile": 0.6, "count_noise_multiplier": 2.0},
                    trainer={"optimizer": "adam_bc"})  # fmt: skip

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    unbroken = train_run(cfg, "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(publish.Metrics, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(cfg, "broken")
    broken = train_run(cfg, "broken")
    states = [load_checkpoint(run / "checkpoints" / "last.pt")["state"] for run in (unbroken, broken)]
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name])
    assert states[0]["clipping"] == states[1]["clipping"] and states[0]["clipping"]["value"] != 1.0
    shown = [[row["clipping_norm"] for row in read_rows(run / "metrics.jsonl")] for run in (unbroken, broken)]
    assert shown[0] == shown[1] and len(set(shown[0])) == 9 and shown[0][0] == 1.0


def test_a_pace_is_shown_and_goes_on_where_it_was(
    configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded: n_D rises, and the generator steps at the same steps whether the run was stopped at step 4 or not."""
    cfg = configure("gan")
    cfg.model = {**cfg.model, "adaptive": True, "every": 1, "patience": 2}
    monkeypatch.setattr("imgsynth.models.gan.known_as_fake", lambda logit_B: logit_B.sigmoid().mean())  # about a half

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    unbroken = train_run(cfg, "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(publish.Metrics, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(cfg, "broken")
    broken = train_run(cfg, "broken")
    rows = [read_rows(run / "metrics.jsonl") for run in (unbroken, broken)]
    paces = [
        {row["step"]: row["private_steps_per_generator_step"] for row in r if "generator_loss" in row} for r in rows
    ]
    assert paces[0] == paces[1] == {1: 1, 2: 2, 4: 2, 6: 5}
    assert all(0.3 < row["accuracy_on_fakes"] < 0.6 for row in rows[0] if "generator_loss" in row)
    states = [load_checkpoint(run / "checkpoints" / "last.pt")["state"]["model"] for run in (unbroken, broken)]
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def test_the_optimizer_is_told_the_noise_of_the_step(configure: Configure) -> None:
    """Φ = (σ_g C_t / (q n))², with the C of the step and not of the next one."""
    cfg = configure("vae", privacy={"clipping_quantile": 0.6, "clipping_norm": 0.2}, trainer={"optimizer": "adam_bc"})
    plan = make_plan(cfg.privacy, n=26, steps=9, images_per_patient=1, unit="patient")
    state = TrainingState(
        model_factory(cfg.model)((8, 8), 2), plan, cfg.trainer, patients=26, seed=1, device=torch.device("cpu")
    )
    for _ in range(3):
        norm = state.clipping.value
        private_update(
            state, plan, PatientBatch(torch.zeros(2, 1, 1, 8, 8), torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1))
        )
        expected = plan.gradient_noise_multiplier * norm / 8
        assert state.optimizers["elbo"].noise_std == pytest.approx(expected) and norm != state.clipping.value


@pytest.mark.parametrize("mode", ["dp", "none"])
def test_bf16_trains_on_weights_in_float32(
    mode: str, configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward pass is autocast, the real images' and the plain fakes'; gradients stay near those of float32."""
    seen: dict[str, set[bool]] = {"float32": set(), "bf16": set()}
    norms = {}
    for precision in seen:
        privacy = {"mode": mode, "fakes": "plain", "noise_multiplier": 1e-3, "engine": "functional"}
        cfg = configure("gan", privacy=privacy, trainer={"precision": precision, "steps": 2})
        forward = Discriminator.forward

        def spy(self: Discriminator, *inputs: torch.Tensor, precision: str = precision) -> torch.Tensor:
            seen[precision].add(torch.is_autocast_enabled("cpu"))
            return forward(self, *inputs)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(Discriminator, "forward", spy)
            run_dir = train_run(cfg, f"{mode}-{precision}")
        norms[precision] = read_rows(run_dir / "metrics.jsonl")[0]["gradient_norm"]
        state = load_checkpoint(run_dir / "checkpoints" / "last.pt")["state"]
        assert all(weight.dtype == torch.float32 for weight in state["model"].values())
    assert seen == {"float32": {False}, "bf16": {True}}
    assert norms["bf16"] != norms["float32"] and norms["bf16"] == pytest.approx(norms["float32"], rel=0.02)


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_channels_last_changes_nothing_but_the_format(
    name: str, configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All networks are in it, after a resumption too, which may choose the other format."""
    update = loop.private_update
    formats: dict[str, list[bool]] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for run, first, then in [
        ("one", "contiguous", "contiguous"),
        ("other", "channels_last", "channels_last"),
        ("both", "channels_last", "contiguous"),
    ]:
        seen: list[bool] = []

        def stepped(
            state: TrainingState, *given: Any, until: int, seen: list[bool] = seen
        ) -> tuple[dict[str, float], dict[str, float]]:
            if state.step > until:
                raise KeyboardInterrupt
            weights = [w for model in (state.model, state.ema.model) for w in model.parameters() if w.dim() == 4]
            told = [w for w in weights if w.shape[1] > 1]  # else the two are one
            seen.append(all(w.is_contiguous(memory_format=torch.channels_last) for w in told))
            assert told and seen[-1] != any(w.is_contiguous() for w in told)
            return update(state, *given)

        trainer = {"memory_format": first, "checkpoint_every": 4, "steps": 9}
        cfg = configure(name, preprocess={"shape": [16, 16]}, trainer=trainer)
        monkeypatch.setattr(loop, "private_update", partial(stepped, until=6))
        with pytest.raises(KeyboardInterrupt):
            train_run(cfg, run)
        monkeypatch.setattr(loop, "private_update", partial(stepped, until=9))
        cfg = dataclasses.replace(cfg, trainer=dataclasses.replace(cfg.trainer, memory_format=then))
        formats[run], rows[run] = seen, read_rows(train_run(cfg, run) / "metrics.jsonl")
    assert formats == {"one": [False] * 9, "other": [True] * 9, "both": [True] * 6 + [False] * 3}
    for run in ("other", "both"):
        for row, expected in zip(rows[run], rows["one"], strict=True):
            assert row == pytest.approx(expected, rel=1e-3)


def test_copies_of_images_reach_the_step(
    configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, seen = configure("vae", data={"images_per_patient": 2, "augmentation_multiplicity": 3}), []
    update = loop.private_update

    def spy(state: object, plan: object, batch: PatientBatch) -> object:
        seen.append(batch.w_PK)
        return update(state, plan, batch)

    monkeypatch.setattr(loop, "private_update", spy)
    train_run(cfg)
    w_PK = torch.cat(seen)
    assert w_PK.shape[1] == 6 and len(w_PK) > 20
    torch.testing.assert_close(w_PK.sum(1), torch.ones(len(w_PK)))


class Invert:
    """An extra transform, as the configuration's ``preprocess.extra`` gives them."""

    def __call__(self, x_C: torch.Tensor) -> torch.Tensor:
        return -x_C


def test_extra_transforms_reach_the_images(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, seen = configure("vae", trainer={"steps": 1}, data={"cache": "disk"}), []
    update = loop.private_update

    def spy(state: object, plan: object, batch: PatientBatch) -> object:
        seen.append(batch.x_PKC)
        return update(state, plan, batch)

    monkeypatch.setattr(loop, "private_update", spy)
    for name, extra in (("plain", ()), ("inverted", (Invert(),))):
        loop.train(cfg, tmp_path / name, model_factory(cfg.model), extra)
        assert list((tmp_path / name / "local" / "cache").rglob("*.pt"))  # private images stay in the local folder
    assert seen[0].numel() and torch.equal(seen[0], -seen[1])


def test_the_bar_shows_steps_and_ε(configure: Configure, train_run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(console, "err", terminal)
    train_run(configure("gan"))
    last = shown.getvalue().replace("\r", "\n").split("\n")
    bars = [line for line in last if "training" in line]
    assert any("9/9" in line and "ε = " in line for line in bars)
    words = set(re.findall(r"[a-zε]{2,}|ε", re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", "".join(bars))))
    assert words <= {"training", "ε"}


# --- does it learn? --------------------------------------------------------------------------------------------------


def test_without_noise_the_classes_are_learned(configure: Configure, train_run: Train) -> None:
    """Class 1 is bright on the left half: the averaged generator's class means differ there and not elsewhere."""
    cfg = configure("vae", privacy={"mode": "none"}, data={"images_per_patient": 2},
                    trainer={"steps": 150, "learning_rate": 0.02, "checkpoint_every": 150, "sheet_every": 150,
                             "ema": 0.9})  # fmt: skip
    run_dir = train_run(cfg)
    run = load_run(run_dir)
    assert "LOCAL ONLY" in (run_dir / "metrics.LOCAL-ONLY.txt").read_text()
    assert not run.plan.releasable and math.isinf(run.plan.epsilon)
    assert read_rows(run_dir / "metrics.jsonl")[-1]["epsilon"] is None
    random = torch.Generator().manual_seed(0)
    healthy, ill = (run.model.sample(torch.full((64,), y), random).mean(0)[0] for y in (0, 1))
    difference = (ill - healthy) * 127.5
    assert difference[:, :4].mean() > 50  # 80 grey levels in the data
    assert abs(difference[:, 4:].mean()) < 15
    losses = [row["loss"] for row in read_rows(run_dir / "local" / "metrics.jsonl")]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
