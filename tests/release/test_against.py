"""verify --against: inside the house a string, a copy, or another ledger is found, and what is found stays local."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imgsynth import pipeline
from imgsynth.audit.against import compare
from imgsynth.files import read_json
from imgsynth.release.facts import facts_of
from imgsynth.release.read import images_of_release
from imgsynth.release.sample import sample_release
from imgsynth.release.verify import Check
from imgsynth.schema import DataConfig, PreprocessConfig
from imgsynth.training.run import load_run
from imgsynth.types import CheckFailed, InputError

SENTINEL = "ZQXJSENTINEL"


@pytest.fixture(scope="module")
def house(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on forty smooth radiographs with a release of thirty; left as it is by every test."""
    source = tmp_path_factory.mktemp("source") / SENTINEL
    source.mkdir()
    random = np.random.default_rng(0)
    images = np.kron(random.integers(0, 256, (40, 4, 4)), np.ones((4, 4))).astype(np.uint8)
    np.savez(source / "images.npz", images=images)
    data = DataConfig(kind="npz", root=str(source / "images.npz"), modality="DX", unit="image")
    run_dir = make_run(data, PreprocessConfig([16, 16], fit="resize", intensity="minmax", low=0, high=255),
                       sample={"n": 30, "formats": ["nifti"]})  # fmt: skip
    sample_release(run_dir, load_run(run_dir).config)
    return run_dir


@pytest.fixture
def release(house: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(house / "release", tmp_path / "release"))


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_sound_release_passes_and_the_images_come_back(house: Path, release: Path, tmp_path: Path) -> None:
    checks = by_name(compare(release, house / "manifest.json"))
    assert {name: check.faults for name, check in checks.items()} == dict.fromkeys(
        ("source strings", "copies", "ledger"), ()
    )
    assert "30 images" in checks["copies"].said and "none" in checks["source strings"].said
    local = read_json(house / "local" / "verify_against.json")
    assert local["local_only"] and local["copies"]["invariant"]["n_synthetic"] == 30
    x_C = next(images_of_release(release, facts_of(release), 1))
    stored = nib.load(release / "nifti" / "SYN-000001.nii.gz").get_fdata()
    np.testing.assert_allclose((x_C[0] + 1) / 2 * 255, stored[:, :, 0], atol=1e-3)
    report = tmp_path / "checked.json"
    pipeline.verify(release, against=house / "manifest.json", report=report)
    said = read_json(report)
    assert said["passed"] and said["local_only"] and {"source strings", "copies"} <= {c["name"] for c in said["checks"]}


def test_a_string_of_the_source_is_found_and_not_repeated(house: Path, release: Path) -> None:
    (release / "LICENSE.txt").write_text(f"as {SENTINEL.lower()} said")
    with pytest.raises(CheckFailed, match="folder of the source") as caught:
        pipeline.verify(release, against=house / "manifest.json")
    assert SENTINEL.lower() not in str(caught.value).lower()
    found = read_json(house / "local" / "verify_against.json")["strings"]
    assert {entry["file"] for entry in found} == {"LICENSE.txt"} and SENTINEL in json.dumps(found)


def test_a_name_of_this_machine_is_found(house: Path, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ward7-gpu-box")
    assert by_name(compare(release, house / "manifest.json"))["source strings"].faults == ()
    (release / "README.md").write_text("made on WARD7-GPU-BOX, thanks")
    (fault,) = by_name(compare(release, house / "manifest.json"))["source strings"].faults
    assert "this machine, host" in fault.got


def test_copies_of_patients_are_found(house: Path, release: Path) -> None:
    """Every image of the release becomes one of training, mirrored."""
    manifest = load_run(house).manifest
    images = np.load(Path(manifest.root) / "images.npz")["images"]
    train = [item.row for item in manifest.items if item.split == "train"]
    for index, path in enumerate(sorted(release.rglob("*.nii.gz"))):
        image = nib.load(path)
        pixels = images[train[index % len(train)]].astype(np.float32)[:, ::-1]
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255
        nib.save(nib.Nifti1Image(pixels[..., None], image.affine, image.header), path)
    check = by_name(compare(release, house / "manifest.json"))["copies"]
    assert len(check.faults) == 1 and "nearer to one who was trained on" in check.said


def test_a_release_of_another_run_and_a_manifest_that_is_none(house: Path, release: Path) -> None:
    made = json.loads((release / "provenance.json").read_text())
    made["ledger_entry"]["sha256"] = "0" * 64
    (release / "provenance.json").write_text(json.dumps(made))
    (fault,) = by_name(compare(release, house / "manifest.json"))["ledger"].faults
    assert fault.expected.startswith("0" * 64)
    with pytest.raises(InputError, match=r"manifest\.json"):
        compare(release, release / "manifest.json")


def test_without_the_runs_configuration_the_manifest_and_the_release_suffice(
    house: Path, release: Path, tmp_path: Path
) -> None:
    (tmp_path / "local").mkdir()
    for name in ("manifest.json", "local/files.json"):
        shutil.copy(house / name, tmp_path / name)
    checks = by_name(compare(release, tmp_path / "manifest.json"))
    assert all(not check.faults for check in checks.values()) and "not asked" in checks["ledger"].said
    (release / "README.md").write_text(SENTINEL)
    assert by_name(compare(release, tmp_path / "manifest.json"))["source strings"].faults
