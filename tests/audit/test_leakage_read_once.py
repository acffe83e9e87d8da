"""The source's strings are read once in a process, but never at the price of a file that changed meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imgsynth.audit.leakage import scan
from imgsynth.audit.leakage.scan import source_strings
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Manifest
from imgsynth.schema import Config, DataConfig, DicomwebConfig

NEW = "Wqjzx-7741-Brand"


@pytest.fixture
def source(tmp_path: Path) -> tuple[Manifest, Config]:
    for i in range(3):
        image = nib.Nifti1Image(np.full((8, 8, 8), i, dtype=np.int16), np.eye(4))
        nib.save(image, tmp_path / f"case{i}.nii")
        (tmp_path / f"case{i}.json").write_text(json.dumps({"Modality": "MR", "Station": f"Station-{i:010d}"}))
    table = tmp_path / "table.csv"
    table.write_text("file,ward\ncase0.nii,Northern wing\n")
    (tmp_path / "ids.txt").write_text("P-0001\n")
    ids = DicomwebConfig(patients=str(tmp_path / "ids.txt"))
    config = Config(data=DataConfig(kind="nifti", root=str(tmp_path), modality="MR", table=str(table), dicomweb=ids))
    manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(tmp_path), modality="MR", unit="image"))
    assert len(manifest.items) == 3
    scan._LAST.clear()
    return manifest, config


def sidecar(root: Path) -> None:
    """As long as before, and with the time of before: what a careful tool leaves behind."""
    path = root / "case1.json"
    before, text = path.stat(), path.read_text()
    path.write_text(text.replace("Station-0000000001", NEW.ljust(18, "x")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns


def header(root: Path) -> None:
    image = nib.load(root / "case2.nii")
    assert isinstance(image, nib.Nifti1Image)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    image.header["descrip"] = NEW.encode()
    nib.save(image, root / "case2.nii")


def table(root: Path) -> None:
    (root / "table.csv").write_text(f"file,ward\ncase0.nii,{NEW}\n")


def added(root: Path) -> None:
    (root / "participants.tsv").write_text(f"participant_id\tremark\nsub-1\t{NEW}\n")


def phenotype(root: Path) -> None:
    (root / "phenotype").mkdir()
    (root / "phenotype" / "scores.tsv").write_text(f"participant_id\tremark\nsub-1\t{NEW}\n")


def sessions(root: Path) -> None:
    (root / "sub-1").mkdir()
    (root / "sub-1" / "sub-1_sessions.tsv").write_text(f"session_id\tremark\nses-1\t{NEW}\n")


def asked(root: Path) -> None:
    (root / "ids.txt").write_text(f"{NEW}\n")


def test_what_did_not_change_is_read_once(source: tuple[Manifest, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    first = source_strings(*source)
    assert "Station-0000000001" in first[0].origin
    monkeypatch.setattr(scan, "collect", lambda *_: pytest.fail("read again"))
    assert source_strings(*source) is first


@pytest.mark.parametrize(
    "change", [sidecar, header, table, added, phenotype, sessions, asked], ids=lambda f: f.__name__
)
def test_what_changed_or_was_added_is_read_again(
    change: Callable[[Path], None], source: tuple[Manifest, Config], tmp_path: Path
) -> None:
    before, _ = source_strings(*source)
    assert not any(text.startswith(NEW) for text in before.origin)
    change(tmp_path)
    after, unread = source_strings(*source)
    assert any(text.startswith(NEW) for text in after.origin) and not unread


def test_a_file_that_is_gone_is_said_to_be_unread(source: tuple[Manifest, Config], tmp_path: Path) -> None:
    assert source_strings(*source)[1] == []
    (tmp_path / "case0.nii").unlink()
    assert "1 of" in source_strings(*source)[1][0]
