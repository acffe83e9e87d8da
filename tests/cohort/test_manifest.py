from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Item, Manifest, content_fingerprint
from imgsynth.keyed import key_check, keyed
from imgsynth.schema import DataConfig
from imgsynth.types import InputError

KEY = bytes(range(32))


def test_what_is_saved_is_what_is_loaded(cohort: Manifest, tmp_path: Path) -> None:
    item = dataclasses.replace(cohort.items[0], affine=(1.5,) * 16, frames=(1, 0), array="images", row=3, mask="m.nii")
    whole = Manifest("npz", "/x", "image", ("a b", "ü"), (item,), ("note",), ids="case")
    for manifest in (cohort.hashed(KEY), whole.hashed(KEY)):
        assert Manifest.load(manifest.save(tmp_path / "manifest.json")) == manifest


def test_ids_in_the_clear_are_not_saved_and_not_hashed_twice(cohort: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ids in the clear"):
        cohort.save(tmp_path / "manifest.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="hashed already"):
        cohort.hashed(KEY).hashed(KEY)


def test_hashes_are_those_of_the_ledger_and_take_the_key(cohort: Manifest) -> None:
    hashed = cohort.hashed(KEY)
    assert hashed.patients() == [keyed(KEY, "patient", f"p{n}").hex() for n in range(6)]
    assert hashed.key == key_check(KEY) and hashed.fingerprint == cohort.fingerprint
    other = cohort.hashed(bytes(32))
    for mine, theirs, clear in zip(hashed.items, other.items, cohort.items, strict=True):
        ids = [(item.patient, item.study, item.series) for item in (mine, theirs, clear)]
        assert len({name for three in ids for name in three}) == 9  # no two alike: keys and kinds are parted
        assert dataclasses.replace(mine, patient="", study="", series="") == dataclasses.replace(
            clear, patient="", study="", series=""
        )
    assert [item.split for item in hashed.items] == [item.split for item in cohort.items]


def test_one_text_as_patient_study_and_series_has_three_hashes(make_item: Callable[..., Item]) -> None:
    item = dataclasses.replace(make_item("7"), study="7", series="7")
    (hashed,) = Manifest("nifti", "/", "patient", ("all",), (item,)).hashed(KEY).items
    assert len({hashed.patient, hashed.study, hashed.series}) == 3
    (hashed,) = (
        Manifest("nifti", "/", "patient", ("all",), (dataclasses.replace(item, study="", series=""),)).hashed(KEY).items
    )
    assert hashed.study == hashed.series == ""  # none is none


def test_hashes_know_an_id_however_it_is_typed_and_paths_as_they_are(make_item: Callable[..., Item]) -> None:
    def hashes(unit: str, *names: str) -> set[str]:
        items = tuple(make_item(name, n) for n, name in enumerate(names))
        return set(Manifest("nifti", "/", unit, ("all",), items).hashed(KEY).patients())  # type: ignore[arg-type]

    assert len(hashes("patient", "Zo\u00eb1", " zoe\u03081 ")) == 1  # composed or not, in capitals or not
    assert len(hashes("image", "a.png", "A.png")) == 2


def test_the_manifest_names_no_id_and_no_file_and_the_names_are_for_their_owner(bids: Path, tmp_path: Path) -> None:
    clear, _ = build_manifest(DataConfig(kind="bids", root=str(bids)))
    saved = clear.hashed(KEY).save(tmp_path / "run" / "manifest.json")
    text, names = saved.read_text(), saved.parent / "local" / "files.json"
    secrets = {*clear.patients(), *(name for item in clear.items for name in (*item.files, item.mask)), clear.root}
    secrets |= {item.study for item in clear.items} | {item.series for item in clear.items}
    assert {"sub-01", "sub-01/anat/sub-01_mask.nii.gz"} < secrets
    assert not [secret for secret in secrets if secret and secret in text]
    assert not any(one in names.read_text() for one in Manifest.load(saved).patients())
    assert names.stat().st_mode & 0o077 == 0


def test_a_manifest_without_the_names_of_its_files_is_refused(cohort: Manifest, tmp_path: Path) -> None:
    path = cohort.hashed(KEY).save(tmp_path / "manifest.json")
    names = tmp_path / "local" / "files.json"
    content = names.read_text()
    names.write_text(content.replace(cohort.fingerprint, "0" * 64))
    with pytest.raises(InputError, match=r"files\.json: got the files of another cohort"):
        Manifest.load(path)
    names.unlink()
    with pytest.raises(InputError, match=r"files\.json: got no such file"):
        Manifest.load(path)


def test_the_fingerprint_does_not_depend_on_order_names_or_splits(cohort: Manifest) -> None:
    assert content_fingerprint(cohort.items[::-1]) == cohort.fingerprint
    moved = [dataclasses.replace(item, files=("elsewhere",), split="test", series="x") for item in cohort.items]
    assert content_fingerprint(moved) == cohort.fingerprint
    renamed = [dataclasses.replace(item, patient=f"new {item.patient}") for item in cohort.items]
    assert content_fingerprint(renamed) == cohort.fingerprint


@pytest.mark.parametrize("change", [{"digest": "other"}, {"patient": "p1"}, {"label": "ill"}, {"label": None}])
def test_the_fingerprint_changes_with_one_voxel_label_or_whose_image_it_is(
    cohort: Manifest, change: dict[str, str]
) -> None:
    changed = [dataclasses.replace(cohort.items[0], **change), *cohort.items[1:]]
    assert cohort.items[0].label == "well"
    assert content_fingerprint(changed) != cohort.fingerprint
    assert content_fingerprint(cohort.items[1:]) != cohort.fingerprint


def test_a_manifest_that_was_edited_is_refused(cohort: Manifest, tmp_path: Path) -> None:
    path = cohort.hashed(KEY).save(tmp_path / "manifest.json")
    value = json.loads(path.read_text())
    value["items"][0]["label"] = "ill"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="do not give its fingerprint"):
        Manifest.load(path)
    path.write_text(json.dumps(value | {"format": "imgsynth-manifest-1"}))
    with pytest.raises(InputError, match=r"imgsynth-manifest-2.* remove this file, which names patients"):
        Manifest.load(path)


def test_a_patient_has_the_last_class_that_any_image_has(make_item: Callable[..., Item]) -> None:
    items = (make_item("a", 0, "severe"), make_item("a", 1, "well"), make_item("b", 0, "mild", split="test"))
    manifest = Manifest("nifti", "/", "patient", ("well", "mild", "severe"), items)
    assert manifest.patient_classes() == {"a": 2, "b": 1}
    assert manifest.class_counts() == [0, 1, 1]
    assert manifest.class_counts("train") == [0, 0, 1]
    assert (manifest.patients(), manifest.patients("test")) == (["a", "b"], ["b"])
    assert [item.study for item in manifest.by_patient["a"]] == ["study0", "study1"]
