"""The parts of training that stand alone: average, checkpoint file, metrics files, run folder, device."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import pickle
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imgsynth.files import write_json
from imgsynth.models import VAE
from imgsynth.schema import Config, TrainerConfig
from imgsynth.training.checkpoint import load_checkpoint, save_checkpoint
from imgsynth.training.device import choose_device, lay_out
from imgsynth.training.disk import writing
from imgsynth.training.ema import Ema
from imgsynth.training.folder import RunFolder, claimed, refuse_other_run
from imgsynth.training.metrics import Metrics, read_rows
from imgsynth.types import InputError


def tiny_vae() -> VAE:
    return VAE((8, 8), 2, latent=2, channels=2, widest=4)


# --- the average -----------------------------------------------------------------------------------------------------


def test_the_average_is_the_normalised_exponential_window() -> None:
    model, decay, history = tiny_vae(), 0.9, []
    ema = Ema(model, decay)
    for _ in range(7):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        history.append({k: v.clone() for k, v in model.generator.named_parameters()})
        ema.update(model)
    weights = torch.tensor([decay ** (6 - i) for i in range(7)], dtype=torch.float64)
    weights /= weights.sum()  # the initial weights have none
    for name, average in ema.model.generator.named_parameters():
        expected = sum(w * h[name].double() for w, h in zip(weights, history, strict=True))
        torch.testing.assert_close(average.double(), expected, atol=1e-6, rtol=0)


def test_an_average_that_is_restored_goes_on_as_if_never_stopped() -> None:
    model = tiny_vae()
    unbroken, first = Ema(model, 0.9), Ema(model, 0.9)
    second = Ema(tiny_vae(), 0.9)
    for step in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        unbroken.update(model)
        if step < 2:
            first.update(model)
        if step == 1:
            second.load_state_dict(first.state_dict())
        if step >= 2:
            second.update(model)
    for a, b in zip(unbroken.model.generator.parameters(), second.model.generator.parameters(), strict=True):
        assert torch.equal(a, b) and not a.requires_grad


# --- the checkpoint file ---------------------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return print, ("executed",)


def test_a_checkpoint_comes_back_and_executes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a" / "last.pt"
    content = {"w": torch.arange(5.0), "random": {"big": 2**127 + 1}, "rows": [{"step": 3, "epsilon": None}], "t": "ü"}
    save_checkpoint(path, content)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.pop("w"), torch.arange(5.0))
    assert loaded == {"format": 1, **{k: v for k, v in content.items() if k != "w"}}
    for bad in (Malicious(), {"format": 1, "evil": Malicious()}):
        torch.save(bad, path)
        with pytest.raises(InputError, match="does not load"):
            load_checkpoint(path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"format": 1})[:9]])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(InputError, match="checkpoint of format 1"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="format 99"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process can grow beyond 100 kB: the kernel answers EFBIG as it answers ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_older_checkpoint_and_says_what_to_do(tmp_path: Path, small_disk: None) -> None:
    path = save_checkpoint(tmp_path / "last.pt", {"step": 1})
    before = path.read_bytes()
    with pytest.raises(InputError, match="make room") as caught, writing(tmp_path):
        save_checkpoint(path, {"step": 2, "w": torch.zeros(100_000)})
    assert str(tmp_path) in str(caught.value)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_only_the_disk_is_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="interrupted"), writing(tmp_path):
        raise OSError(errno.EINTR, "interrupted")


# --- metrics ---------------------------------------------------------------------------------------------------------


def add(metrics: Metrics, steps: range) -> None:
    for step in steps:
        metrics.add({"step": step, "a": step / 2, "epsilon": None}, {"step": step, "loss": 7.0})


def steps_of(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


def test_nothing_is_written_before_it_is_published(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, [], releasable=True)
    add(metrics, range(1, 4))
    assert steps_of(tmp_path / "metrics.jsonl") == []
    metrics.publish()
    assert steps_of(tmp_path / "metrics.jsonl") == steps_of(tmp_path / "local" / "metrics.jsonl") == [1, 2, 3]
    assert "loss" not in (tmp_path / "metrics.jsonl").read_text()
    assert "LOCAL ONLY" in (tmp_path / "local" / "README.txt").read_text()
    metrics.close()


@pytest.mark.parametrize("written", [0, 2])
def test_rows_that_only_the_checkpoint_has_are_written_once(tmp_path: Path, written: int) -> None:
    """Killed between the checkpoint and the files, or in the middle of a file."""
    metrics = Metrics(tmp_path, 0, [], releasable=True)
    add(metrics, range(1, 3))
    metrics.publish()
    metrics.close()
    unpublished = [{"step": step, "a": step / 2} for step in range(3, 6)]
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write("".join(json.dumps(row) + "\n" for row in unpublished[:written]) + '{"step": 5, "a"')
    resumed = Metrics(tmp_path, 5, unpublished, releasable=True)
    add(resumed, range(6, 8))
    resumed.publish()
    resumed.close()
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5, 6, 7]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("a")] == [(s, s / 2) for s in range(1, 8)]
    assert board.Tags()["scalars"] == ["a"]


def test_tensorboard_files_tell_neither_time_nor_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take as long as their batch is large: the same scalars give the same bytes, whenever and wherever."""
    for name, host, clock in (("a", "ward-7", 1.7e9), ("b", "elsewhere", 1.8e9)):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        metrics = Metrics(tmp_path / name, 0, [], releasable=True)
        add(metrics, range(1, 4))
        metrics.publish()
        metrics.close()
    (one,), (other,) = ([*(tmp_path / name / "tensorboard").iterdir()] for name in "ab")
    assert one.name == other.name == "events.out.tfevents.imgsynth" and one.read_bytes() == other.read_bytes()
    board = EventAccumulator(str(one.parent)).Reload()
    assert [(e.wall_time, e.step, e.value) for e in board.Scalars("a")] == [(s, s, s / 2) for s in (1, 2, 3)]


def test_only_a_run_that_is_not_releasable_says_that_its_numbers_are_local(tmp_path: Path) -> None:
    Metrics(tmp_path / "dp", 0, [], releasable=True).close()
    Metrics(tmp_path / "not", 0, [], releasable=False).close()
    assert not (tmp_path / "dp" / "metrics.LOCAL-ONLY.txt").exists()
    assert "metrics.jsonl" in (tmp_path / "not" / "metrics.LOCAL-ONLY.txt").read_text()


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, [], releasable=True)
    metrics.add({"step": 1, "a": float("inf")}, {"step": 1, "loss": float("nan")})
    metrics.publish()
    metrics.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "a": None}]
    assert read_rows(tmp_path / "local" / "metrics.jsonl") == [{"step": 1, "loss": None}]


def test_local_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, [], releasable=True)
    add(metrics, range(1, 6))
    metrics.publish()
    metrics.close()
    Metrics(tmp_path, 3, [{"step": 3, "a": 1.5}], releasable=True).close()
    assert steps_of(tmp_path / "local" / "metrics.jsonl") == [1, 2, 3]


# --- the run folder --------------------------------------------------------------------------------------------------


def _try_to_claim(root: Path, answer: multiprocessing.Queue) -> None:
    try:
        with claimed(root):
            answer.put("claimed")
    except InputError as error:
        answer.put(str(error))


def test_one_process_works_in_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    with claimed(tmp_path / "run"):
        other = context.Process(target=_try_to_claim, args=(tmp_path / "run", answer))
        other.start()
        assert "another process" in answer.get(timeout=120)
        other.join()
    _try_to_claim(tmp_path / "run", answer)
    assert answer.get(timeout=120) == "claimed"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output=DIR"), claimed(tmp_path / "file" / "run"):
        pass
    with pytest.raises(InputError, match="output=DIR"), claimed(Path("/sys/kernel/imgsynth-run")):
        pass


def test_the_run_id_is_drawn_once(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "a").run_id()
    assert RunFolder(tmp_path / "a").run_id() == first != RunFolder(tmp_path / "b").run_id()


def test_every_binding_key_that_differs_is_named_with_both_values(tmp_path: Path) -> None:
    folder, cfg = RunFolder(tmp_path), Config(model={"_target_": "imgsynth.models.VAE", "latent": 4})
    other = dataclasses.replace(
        cfg,
        model={"_target_": "imgsynth.models.VAE", "latent": 5, "beta": 2.0},
        trainer=dataclasses.replace(cfg.trainer, steps=999, threads=3),
        privacy=dataclasses.replace(cfg.privacy, delta=1e-7, budget_epsilon=4.0),
        data=dataclasses.replace(cfg.data, phantom=dataclasses.replace(cfg.data.phantom, patients=7)),
        audit=dataclasses.replace(cfg.audit, n=3),
    )
    refuse_other_run(folder, other)  # nothing was begun here yet
    write_json(folder.config, dataclasses.asdict(cfg))
    refuse_other_run(folder, cfg)
    with pytest.raises(InputError) as caught:
        refuse_other_run(folder, other)
    faults = {fault.where: fault for fault in caught.value.faults}
    assert set(faults) == {"model.latent", "model.beta", "trainer.steps", "privacy.delta", "data.phantom.patients"}
    assert faults["trainer.steps"].got == "999" and faults["trainer.steps"].expected.startswith("300")


def test_outputs_without_their_checkpoint_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.refuse_lost_checkpoint()
    (tmp_path / "metrics.jsonl").write_text("")
    folder.refuse_lost_checkpoint()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(InputError, match="restore the checkpoint"):
        folder.refuse_lost_checkpoint()
    save_checkpoint(folder.checkpoint, {})
    folder.refuse_lost_checkpoint()
    folder.refuse_older_checkpoint(1)
    with pytest.raises(InputError, match="no checkpoint beside"):
        folder.refuse_older_checkpoint(0)


# --- device ----------------------------------------------------------------------------------------------------------


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    assert choose_device(TrainerConfig(device="auto", threads=1)).type == "cpu"
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
    with pytest.raises(InputError, match=r"trainer\.device=auto"):
        choose_device(TrainerConfig(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert choose_device(TrainerConfig(device="cpu", precision="bf16")).type == "cpu"
        if able:
            assert choose_device(TrainerConfig(precision="bf16")).type == "cuda"
            continue
        with pytest.raises(InputError, match=r"an old GPU.*trainer\.precision=float32"):
            choose_device(TrainerConfig(precision="bf16"))
    assert choose_device(TrainerConfig()).type == "cuda" and choose_device(TrainerConfig(device="cpu")).type == "cpu"


def test_weights_are_laid_out_by_their_dimensions() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.Conv3d(2, 3, 3), torch.nn.Conv1d(2, 3, 3), torch.nn.GroupNorm(1, 3)
    )
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    flat, deep, line = (network[index].weight for index in range(3))
    assert lay_out(network, "channels_last") is network and network[0].weight is flat
    assert flat.is_contiguous(memory_format=torch.channels_last) and not flat.is_contiguous()
    assert deep.is_contiguous(memory_format=torch.channels_last_3d) and not deep.is_contiguous()
    assert line.is_contiguous() and all(torch.equal(before[name], w) for name, w in network.state_dict().items())
    lay_out(network, "contiguous")
    assert flat.is_contiguous() and deep.is_contiguous()
