"""The same weights, settings and seed give the same bytes: with any number of writers, and after any interruption."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from imgsynth.files import read_json
from imgsynth.release import generate, sample, writers
from imgsynth.release import images as images_module
from imgsynth.release.partial import JOURNAL, Partial
from imgsynth.release.sample import sample_release, weights_digest
from imgsynth.release.streams import Streams
from imgsynth.release.verify import verify_release
from imgsynth.release.writers import writers_for
from imgsynth.training.run import load_run
from imgsynth.types import Fault, Grid, InputError


@pytest.fixture(params=["ct", "mr", "dx"])
def any_run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_run")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and several tasks, also of few small images."""
    monkeypatch.setattr(generate, "BLOCK", 3)
    monkeypatch.setattr(writers, "TASK_VOXELS", 1)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def released(run_dir: Path, **settings: object) -> dict[str, bytes]:
    cfg = load_run(run_dir).config
    return tree(sample_release(run_dir, dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, **settings))))


def images_and_uids(run_dir: Path) -> tuple[set[bytes], set[str]]:
    """Pixels of every image in ``run_dir/release``, and every UID but those of the format."""
    pixels, uids = set(), set()
    for path in (run_dir / "release").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        pixels.add(dataset.PixelData)
        uids |= {str(dataset.get(name)) for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")}
    return pixels, uids


def test_one_seed_gives_one_release_and_another_shares_nothing_with_it(any_run: Path) -> None:
    first = released(any_run, seed=7, n=5)
    pixels, uids = images_and_uids(any_run)
    assert released(any_run, seed=7, n=5) == first
    assert len(pixels) == len(list((any_run / "release").rglob("*.dcm")))  # no image, no slice twice
    released(any_run, seed=8, n=5)
    others = images_and_uids(any_run)
    assert not pixels & others[0] and not uids & others[1]
    verify_release(any_run / "release")
    assert read_json(any_run / "release" / "provenance.json")["sampling_seed"] == 8


def _killed(run_dir: Path, settings: dict[str, object], arrange: Callable[[], None]) -> None:
    arrange()
    released(run_dir, **settings)


def kill(run_dir: Path, arrange: Callable[[], None], **settings: object) -> None:
    """Sample in a process that ``arrange`` makes kill itself, and see that it did, and that a part is left."""
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(run_dir, settings, arrange))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert (run_dir / ".release.partial" / JOURNAL).is_file()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after_four_patients() -> None:
    record = Partial.record

    def dying(self: Partial, key: str, piece: dict) -> None:
        record(self, key, piece)
        if len(self.done) == 4:
            die()

    Partial.record = dying  # type: ignore[method-assign]


def within_the_fifth_patients_file() -> None:
    write, calls = images_module.write_nifti, []

    def half(volume: object, path: Path, *rest: object) -> Path:
        calls.append(path)
        if len(calls) == 5:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half a file")
            path.with_name(f".{path.name}.1.partial").write_bytes(b"a quarter")
            die()
        return write(volume, path, *rest)

    images_module.write_nifti = half


def within_a_line_of_the_journal() -> None:
    record = Partial.record

    def torn(self: Partial, key: str, piece: dict) -> None:
        if len(self.done) == 4:
            with (self.root / JOURNAL).open("a") as handle:
                handle.write(json.dumps({"key": key, **piece})[:-9])
            die()
        record(self, key, piece)

    Partial.record = torn  # type: ignore[method-assign]


def before_the_checksums() -> None:
    sample.seal = lambda *_: die()


@pytest.mark.parametrize(
    "arrange",
    [after_four_patients, within_the_fifth_patients_file, within_a_line_of_the_journal, before_the_checksums],
)
def test_a_killed_release_goes_on_to_the_same_bytes(
    ct_run: Path, arrange: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = released(ct_run, seed=3, n=8)
    kill(ct_run, arrange, seed=3, n=8)
    assert tree(ct_run / "release") == whole  # the older one, until the new one is complete
    shutil.rmtree(ct_run / "release")
    made = []
    write = writers.Recipe.write
    monkeypatch.setattr(writers.Recipe, "write", lambda self, one: made.append(one.number) or write(self, one))
    assert released(ct_run, seed=3, n=8) == whole
    assert made == ([] if arrange is before_the_checksums else [5, 6, 7, 8])
    assert f"{8 - len(made)} of 8 patients are written" in capsys.readouterr().out
    assert not (ct_run / ".release.partial").exists()


def test_two_writers_killed_and_gone_on_with_give_the_bytes_of_one(dx_run: Path) -> None:
    whole = released(dx_run, seed=3, n=8, writers=1)
    kill(dx_run, after_four_patients, seed=3, n=8, writers=2)
    shutil.rmtree(dx_run / "release")
    assert released(dx_run, seed=3, n=8, writers=2) == whole


def test_a_killed_release_without_a_seed_goes_on_with_its_own_which_nobody_keeps(ct_run: Path) -> None:
    kill(ct_run, after_four_patients, n=8)
    seed = json.loads((ct_run / ".release.partial" / JOURNAL).read_text().splitlines()[0])["seed"]
    gone_on = released(ct_run, n=8)
    assert seed > 2**64
    for path in ct_run.rglob("*"):
        assert path.is_dir() or not any(
            form in path.read_bytes() for form in (str(seed).encode(), f"{seed:x}".encode(), seed.to_bytes(16, "big"))
        )
    volumes = {name: content for name, content in gone_on.items() if name.endswith(".nii.gz")}
    again = released(ct_run, n=8, seed=seed)
    assert volumes == {name: again[name] for name in volumes} and len(volumes) == 8


@pytest.mark.parametrize("change", [{"seed": 4}, {"n": 9}, {"formats": ["nifti"]}, {"uid_root": "1.2.3"}])
def test_other_settings_begin_anew(ct_run: Path, change: dict, capsys: pytest.CaptureFixture[str]) -> None:
    kill(ct_run, after_four_patients, seed=3, n=8)
    changed = released(ct_run, **({"seed": 3, "n": 8} | change))
    assert "Going on" not in capsys.readouterr().out
    assert released(ct_run, **({"seed": 3, "n": 8} | change)) == changed


def test_other_weights_begin_anew_and_share_no_uid(
    ct_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill(ct_run, after_four_patients, seed=3, n=8)
    other = Path(shutil.copytree(ct_run, tmp_path / "run"))
    path = other / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    for value in content["state"]["ema"].values():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value += 0.05
    torch.save(content, path)
    released(other, seed=3, n=8)
    assert "Going on" not in capsys.readouterr().out
    released(ct_run, seed=3, n=8)
    assert not images_and_uids(ct_run)[1] & images_and_uids(other)[1]


def test_the_digest_of_weights_tells_bytes_names_and_shapes() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4, bias=False)
    digest = weights_digest(layer)
    assert weights_digest(torch.nn.Linear(4, 4, bias=False).requires_grad_(False)) != digest
    turned = torch.nn.Linear(8, 2, bias=False)
    turned.weight.data = layer.weight.data.reshape(2, 8)
    named = torch.nn.ParameterDict({"w": layer.weight})
    assert len({digest, weights_digest(turned), weights_digest(named)}) == 3
    layer.weight.data[3, 3] += 1e-6
    assert weights_digest(layer) != digest


def test_faults_of_a_writer_arrive_whole() -> None:
    fault = Fault("here", "this", "that", "do so")
    assert pickle.loads(pickle.dumps(InputError(fault, fault))).faults == (fault, fault)


def test_blocks_are_of_a_size_that_only_the_shape_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sizes = {shape: generate.block_size(shape) for shape in [(28, 28), (64, 64, 64), (128, 128, 128), (288, 288, 181)]}
    assert list(sizes.values()) == [64, 16, 2, 1]


def test_an_image_is_the_same_whichever_others_are_wanted(dx_run: Path) -> None:
    model, labels, streams = load_run(dx_run).model, np.array([0, 1, 1, 0, 1, 0, 0, 1]), Streams(5, "")
    every = dict(generate.images_in_blocks(model, labels, streams, lambda _: True))
    some = dict(generate.images_in_blocks(model, labels, streams, lambda index: index in (1, 5, 7)))
    assert sorted(some) == [1, 5, 7] and all((some[index] == every[index]).all() for index in some)
    expected = generate.images_of(model, labels[3:6], streams.images(1))
    np.testing.assert_array_equal(np.stack([every[3], every[4], every[5]]), expected)


def test_streams_are_apart() -> None:
    streams = Streams(1, "this")
    seeds = {streams.images(block).initial_seed() for block in range(20_000)}
    assert len(seeds) == 20_000 and max(seeds) < 2**32  # torch would silently drop what is above
    spread = np.histogram(list(seeds), bins=16, range=(0, 2**32))[0]
    assert spread.min() > 1000
    draws = {
        Streams(seed, made_of).uids(patient).bytes(16)
        for seed in (1, 2)
        for made_of in ("a", "b")
        for patient in (1, 11)
    }
    assert len(draws) == 8
    assert Streams(1, "a").labels().bytes(8) == Streams(1, "b").labels().bytes(8) != Streams(2, "a").labels().bytes(8)
    assert Streams(1, "a").images(3).initial_seed() == Streams(1, "b").images(3).initial_seed()


def test_processes_are_started_where_they_pay() -> None:
    grid = Grid((64, 64, 64), (1.0,) * 3, "RAS", "CT", "HU", -1000, 600)
    assert writers_for(None, 16, grid, ["dicom"]) == 1 and writers_for(5, 1, grid, ["dicom"]) == 5
    assert writers_for(None, 5000, grid, ["dicom"]) == len(os.sched_getaffinity(0))
