"""What is on the shelf of a release, and of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from imgsynth import cli, pipeline
from imgsynth.cohort.build import build_manifest
from imgsynth.keyed import keyed
from imgsynth.release.patients import SyntheticPatient, write_cohort
from imgsynth.schema import Config, DataConfig, PreprocessConfig
from imgsynth.show.server import ShowServer
from imgsynth.show.shelf import shelf_of
from imgsynth.types import Grid, InputError
from imgsynth.volumes.nifti import write_nifti
from imgsynth.volumes.volume import Volume

GRID = Grid((4, 5, 6), (1.0, 2.0, 3.0), "RAS", "CT", "HU", -1000.0, 600.0)

KEY = bytes(32)


def none_further(config: object) -> list[object]:
    return []


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    for number in (1, 2):
        volume = Volume(np.full((4, 5, 6), 10 * number, np.float32), np.diag([1.0, 2, 3, 1]), "CT", "HU")
        write_nifti(volume, folder / "nifti" / f"SYN-{number}.nii.gz")
    patients = [SyntheticPatient(f"SYN-{n}", "lesion", nifti=(f"nifti/SYN-{n}.nii.gz",)) for n in (1, 2)]
    write_cohort(folder, patients, GRID, ["normal", "lesion"], ["nifti"])
    return folder


def test_a_release_alone_is_synthetic_patients_and_nobody_else(release: Path) -> None:
    shelf = shelf_of(release, none_further)
    assert [(entry.kind, entry.name, entry.label) for entry in shelf.entries] == [
        ("synthetic", "SYN-1", "lesion"),
        ("synthetic", "SYN-2", "lesion"),
    ]
    assert not shelf.local and shelf.window == (-1000, 600) and shelf.listing()["local"] is False
    assert shelf.entries[1].read().array.max() == 20


@pytest.fixture
def run(tmp_path: Path, release: Path) -> Path:
    """A run of radiographs, each brightest in its first row and column, that has released CT (as none would)."""
    images = np.zeros((6, 16, 16), np.uint8)
    images[:, 0, 0] = 200
    np.savez(
        tmp_path / "images.npz", images=images + np.arange(6, dtype=np.uint8)[:, None, None], ids=np.arange(6) // 2
    )
    config = Config(
        data=DataConfig(kind="npz", root=str(tmp_path / "images.npz"), modality="DX", patient="ids"),
        preprocess=PreprocessConfig([16, 16], fit="resize", intensity="minmax", low=0, high=255),
    )
    folder = tmp_path / "run"
    manifest, _ = build_manifest(config.data)
    manifest.hashed(KEY).save(folder / "manifest.json")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    release.rename(folder / "release")
    return folder


def test_a_run_has_its_real_patients_beside_its_release(run: Path) -> None:
    shelf = shelf_of(run, none_further)
    real = [entry for entry in shelf.entries if entry.kind == "real"]
    known = [keyed(KEY, "patient", str(patient)).hex()[:12] for patient in (0, 1, 2)]
    assert [entry.name for entry in real] == [f"{patient} ({n}/2)" for patient in known for n in (1, 2)]
    assert {entry.note for entry in real} == {"train", "holdout", "test"}
    assert len(shelf.entries) == 8 and shelf.local and shelf.window == (0, 255)
    volume = real[3].read()
    right, _, superior = (volume.affine @ [*np.unravel_index(volume.array.argmax(), volume.array.shape), 1])[:3]
    assert (right, superior) == (7.5, 7.5) and volume.array.max() == 255  # upper left on the film: the patient's right


def test_further_transforms_of_a_run_are_shown(run: Path) -> None:
    shelf = shelf_of(run, lambda config: [lambda x_C: x_C * 0 + 1])
    assert shelf.entries[0].read().array.min() == 255


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="imgsynth show RUN"):
        shelf_of(tmp_path, none_further)


@pytest.mark.parametrize("how", ["up", "absolute", "link"])
def test_a_release_that_names_files_outside_itself_is_refused(release: Path, how: str) -> None:
    outside = write_nifti(Volume(np.zeros((2, 2, 2), np.float32), np.eye(4), "CT", "HU"), release.parent / "o.nii.gz")
    name = {"up": "nifti/../../o.nii.gz", "absolute": str(outside), "link": "nifti/link.nii.gz"}[how]
    (release / "nifti" / "link.nii.gz").symlink_to(outside)
    write_cohort(release, [SyntheticPatient("SYN-1", "lesion", nifti=(name,))], GRID, ["normal", "lesion"], ["nifti"])
    with pytest.raises(InputError, match="a file of the release"):
        shelf_of(release, none_further)


def ended(self: ShowServer, *_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("options", [[], ["--no-browser"]], ids=["browser", "no_browser"])
def test_the_verb_prints_the_address_and_ends_on_ctrl_c(
    release: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(pipeline.webbrowser, "open", opened.append)
    monkeypatch.setattr(ShowServer, "serve_forever", ended)
    told = CliRunner().invoke(cli.app, ["show", str(release), *options])
    said = told.stdout
    assert told.exit_code == 0 and "2 images of release release: http://127.0.0.1:" in said and "Ended." in said
    assert [url for url in opened if url in said] == opened and len(opened) == (0 if options else 1)


def test_a_taken_port_is_a_fault(release: Path) -> None:
    with ShowServer(shelf_of(release, none_further)) as server, pytest.raises(InputError, match="free port"):
        pipeline.show(release, server.server_port, browser=False)
