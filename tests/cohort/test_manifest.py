from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imgsynth.cohort.manifest import Item, Manifest, content_fingerprint
from imgsynth.types import InputError


def test_what_is_saved_is_what_is_loaded(cohort: Manifest, tmp_path: Path) -> None:
    item = dataclasses.replace(cohort.items[0], affine=(1.5,) * 16, frames=(1, 0), array="images", row=3, mask="m.nii")
    whole = Manifest("npz", "/x", "image", ("a b", "ü"), (item,), ("note",), ids="case")
    for manifest in (cohort, whole):
        assert Manifest.load(manifest.save(tmp_path / "manifest.json")) == manifest


def test_a_manifest_that_does_not_say_whose_ids_it_has_claims_no_patients(cohort: Manifest, tmp_path: Path) -> None:
    path = cohort.save(tmp_path / "manifest.json")
    value = json.loads(path.read_text())
    assert value.pop("ids") == "patient"
    path.write_text(json.dumps(value))
    assert Manifest.load(path).ids == "case"


def test_the_fingerprint_does_not_depend_on_order_names_or_splits(cohort: Manifest) -> None:
    assert content_fingerprint(cohort.items[::-1]) == cohort.fingerprint
    moved = [dataclasses.replace(item, files=("elsewhere",), split="test", series="x") for item in cohort.items]
    assert content_fingerprint(moved) == cohort.fingerprint


@pytest.mark.parametrize("change", [{"digest": "other"}, {"patient": "other"}, {"label": "ill"}, {"label": None}])
def test_the_fingerprint_changes_with_one_voxel_patient_or_label(cohort: Manifest, change: dict[str, str]) -> None:
    changed = [dataclasses.replace(cohort.items[0], **change), *cohort.items[1:]]
    assert cohort.items[0].label == "well"
    assert content_fingerprint(changed) != cohort.fingerprint
    assert content_fingerprint(cohort.items[1:]) != cohort.fingerprint


def test_a_manifest_that_was_edited_is_refused(cohort: Manifest, tmp_path: Path) -> None:
    path = cohort.save(tmp_path / "manifest.json")
    value = json.loads(path.read_text())
    value["items"][0]["label"] = "ill"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="do not give its fingerprint"):
        Manifest.load(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="imgsynth-manifest"):
        Manifest.load(path)


def test_a_patient_has_the_last_class_that_any_image_has(make_item: Callable[..., Item]) -> None:
    items = (make_item("a", 0, "severe"), make_item("a", 1, "well"), make_item("b", 0, "mild", split="test"))
    manifest = Manifest("nifti", "/", "patient", ("well", "mild", "severe"), items)
    assert manifest.patient_classes() == {"a": 2, "b": 1}
    assert manifest.class_counts() == [0, 1, 1]
    assert manifest.class_counts("train") == [0, 0, 1]
    assert (manifest.patients(), manifest.patients("test")) == (["a", "b"], ["b"])
    assert [item.study for item in manifest.by_patient["a"]] == ["study0", "study1"]
