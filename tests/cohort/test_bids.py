"""BIDS datasets through pybids: which images, whose, which masks, what the tables say; and what is asked back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgsynth.cohort.build import build_manifest
from imgsynth.config import from_overrides
from imgsynth.schema import DataConfig
from imgsynth.types import InputError

pytest.importorskip("bids", reason="no pybids: the extra intake is not installed")
MNI = "MNI152NLin2009cAsym"


def ask(root: Path, **more: object) -> DataConfig:
    return DataConfig(kind="bids", root=str(root), **more)  # type: ignore[arg-type]


def test_subjects_sessions_tables_and_masks(bids: Path) -> None:
    manifest, faults = build_manifest(ask(bids))
    assert manifest.patients() == [f"sub-{n:02d}" for n in range(6)]
    assert Counter(item.patient for item in manifest.items)["sub-00"] == 2
    assert len({item.study for item in manifest.by_patient["sub-00"]}) == 2
    assert [manifest.by_patient[f"sub-{n:02d}"][0].age_band for n in (0, 1, 5)] == ["20-29", "30-39", "90+"]
    assert [manifest.by_patient[f"sub-{n:02d}"][0].sex for n in (0, 1)] == ["M", "F"]
    assert manifest.by_patient["sub-01"][0].mask == "sub-01/anat/sub-01_mask.nii.gz"
    assert [item.mask for item in manifest.by_patient["sub-00"]] == [None, None]
    assert (manifest.classes, manifest.modality, manifest.kind) == (("all",), "MR", "bids")
    assert (manifest.notes, manifest.ids) == ((), "patient")
    assert [fault.where for fault in faults] == ["sub-01/func/sub-01_task-rest_bold.nii.gz"]
    assert not any("derivatives" in item.files[0] for item in manifest.items)


def test_labels_of_participants_phenotype_and_sessions(bids: Path) -> None:
    labelled, _ = build_manifest(ask(bids, label="group", classes=["well", "ill"]))
    assert labelled.patient_classes() == {f"sub-{n:02d}": int(n < 3) for n in range(6)}
    (bids / "phenotype").mkdir()
    rows = "".join(f"sub-{n:02d}\t{n % 2}\n" for n in range(6))
    (bids / "phenotype" / "scores.tsv").write_text(f"participant_id\tdepressed\n{rows}sub-77\t1\n")
    scored, faults = build_manifest(ask(bids, label="depressed", classes=["no", "yes"]))
    assert scored.patient_classes() == {f"sub-{n:02d}": n % 2 for n in range(6)}
    assert len(faults) == 1  # a subject of phenotype/ need not be in this cohort
    (bids / "sub-00" / "sub-00_sessions.tsv").write_text("session_id\tage\tgroup\nses-02\t61\twell\n")
    visited, _ = build_manifest(ask(bids, label="group", classes=["well", "ill"]))
    first, second = sorted(visited.by_patient["sub-00"], key=lambda item: item.study)
    assert [(i.study, i.age_band, i.label) for i in (first, second)] == [
        ("ses-02", "60-69", "well"),
        ("ses-1", "20-29", "ill"),
    ]


def test_tables_that_are_wrong(bids: Path) -> None:
    table = bids / "participants.tsv"
    whole = table.read_text()
    table.write_text(whole + "sub-99\t40\tM\till\n")
    _, faults = build_manifest(ask(bids))
    assert any("1 rows without an image: sub-99" in fault.got for fault in faults)
    table.write_text(whole.replace("sub-03\t64\tF\twell\n", ""))
    with pytest.raises(InputError, match="no group for 1 of 6"):
        build_manifest(ask(bids, label="group", classes=["well", "ill"]))
    table.write_text(whole + "sub-00\t40\tM\till\n")
    with pytest.raises(InputError, match="two rows for sub-00"):
        build_manifest(ask(bids))
    table.write_text(whole.replace("participant_id", "id"))
    with pytest.raises(InputError, match="a column participant_id"):
        build_manifest(ask(bids))
    with pytest.raises(InputError, match=r"a column of .*participants\.tsv"):
        table.write_text(whole)
        build_manifest(ask(bids, label="diagnosis", classes=["a", "b"]))


def test_a_mixture_is_asked_back(bids: Path, write_nifti: Callable[..., Path]) -> None:
    for n in range(6):
        write_nifti(bids / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_T2w.nii.gz", 30 + n)
        write_nifti(bids / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_acq-thick_T2w.nii.gz", 40 + n)
    with pytest.raises(InputError) as caught:
        build_manifest(ask(bids))
    (fault,) = caught.value.faults
    assert (fault.where, fault.got) == ("data.entities.suffix", "a mixture: T2w (12), T1w (7)")
    assert len(build_manifest(ask(bids, entities={"suffix": "T1w"}))[0].items) == 7
    with pytest.raises(InputError, match=r"data\.entities\.acquisition: got a mixture: .*thick \(6\)") as caught:
        build_manifest(ask(bids, entities={"suffix": "T2w"}))
    thin, faults = build_manifest(ask(bids, entities={"suffix": "T2w", "acquisition": None}))
    assert {item.series.split("_")[1] for item in thin.items} == {"T2w"}
    assert len(faults) == 7 + 6 + 1  # T1w, thick T2w and the functional image
    assert len(build_manifest(ask(bids, entities={"suffix": "T2w", "acquisition": "*"}))[0].items) == 12
    both = {"suffix": ["T1w", "T2w"], "acquisition": None}
    assert len(build_manifest(ask(bids, entities=both))[0].items) == 13


def test_entities_are_chosen_as_they_are_written(bids: Path) -> None:
    late, _ = build_manifest(ask(bids, entities={"session": [None, "02"]}))
    assert len(late.items) == 7
    with pytest.raises(InputError, match=r"data\.entities\.session: got 2; .*null \(7\), 02 \(1\)"):
        build_manifest(ask(bids, entities={"session": 2}))
    with pytest.raises(InputError, match=r"data\.entities\.sesion.*Try: data\.entities\.session=02"):
        build_manifest(ask(bids, entities={"sesion": "02"}))
    with pytest.raises(InputError, match=r"data\.entities\.suffix: got FLAIR; .*T1w \(7\)"):
        build_manifest(ask(bids, entities={"suffix": "FLAIR"}))


def test_derivatives_only_when_asked_with_their_space_and_masks(bids: Path) -> None:
    manifest, faults = build_manifest(ask(bids, derivatives="prepared", label="group", classes=["well", "ill"]))
    assert faults == []
    item = manifest.by_patient["sub-04"][0]
    assert item.files == (f"derivatives/prepared/sub-04/anat/sub-04_space-{MNI}_desc-preproc_T1w.nii.gz",)
    assert item.mask == f"derivatives/prepared/sub-04/anat/sub-04_space-{MNI}_desc-brain_mask.nii.gz"
    assert (item.label, item.age_band) == ("well", "70-79")
    same, _ = build_manifest(ask(bids, derivatives="prepared", entities={"space": MNI}))
    assert same.patients() == manifest.patients()
    with pytest.raises(InputError, match=r"one of prepared.*data\.derivatives=prepared"):
        build_manifest(ask(bids, derivatives="prepaired"))
    for name in ("..", "../../bids", "."):
        with pytest.raises(InputError, match=r"data\.derivatives"):
            build_manifest(ask(bids, derivatives=name))


def test_masks_go_to_their_own_image(bids: Path, write_nifti: Callable[..., Path]) -> None:
    anat = bids / "sub-02" / "anat"
    write_nifti(anat / "sub-02_dseg.nii.gz", 1, dtype=np.uint8)
    write_nifti(anat / "sub-02_mask.nii.gz", 2, dtype=np.uint8)
    write_nifti(bids / "sub-03" / "anat" / "sub-03_acq-other_dseg.nii.gz", 3, dtype=np.uint8)
    write_nifti(bids / "sub-04" / "anat" / "sub-04_dseg.nii.gz", 4, (5, 5, 5), dtype=np.uint8)
    for label in ("left", "right"):
        write_nifti(bids / "sub-05" / "anat" / f"sub-05_label-{label}_mask.nii.gz", 5, dtype=np.uint8)
    manifest, faults = build_manifest(ask(bids))
    masks = {patient: items[0].mask for patient, items in manifest.by_patient.items()}
    assert masks["sub-02"] == "sub-02/anat/sub-02_dseg.nii.gz"
    assert masks["sub-01"] == "sub-01/anat/sub-01_mask.nii.gz"
    assert masks["sub-00"] is masks["sub-03"] is masks["sub-04"] is masks["sub-05"] is None
    told = [f"{fault.where}: {fault.got}" for fault in faults]
    assert any(line.startswith("sub-04/anat/sub-04_dseg.nii.gz: (5, 5, 5) voxels") for line in told)
    assert any("sub-05_label-left_mask.nii.gz, sub-05_label-right_mask.nii.gz" in line for line in told)


def test_a_mask_of_another_space_is_no_mask(bids: Path) -> None:
    anat = bids / "derivatives" / "prepared" / "sub-04" / "anat"
    (anat / f"sub-04_space-{MNI}_desc-brain_mask.nii.gz").rename(anat / "sub-04_desc-brain_mask.nii.gz")
    manifest, _ = build_manifest(ask(bids, derivatives="prepared"))
    assert manifest.by_patient["sub-04"][0].mask is None and manifest.by_patient["sub-03"][0].mask


def test_names_that_are_not_of_bids_are_left_out_by_name(bids: Path, write_nifti: Callable[..., Path]) -> None:
    for name in ("sub-01/anat/sub-01_weird.nii.gz", "sub-01/anat/brain.nii.gz", "extra/sub-02_T1w.nii.gz"):
        write_nifti(bids / name, 90)
    manifest, faults = build_manifest(ask(bids))
    assert len(manifest.items) == 7
    odd = {fault.where for fault in faults if "not of BIDS" in fault.got}
    assert odd == {"sub-01/anat/sub-01_weird.nii.gz", "sub-01/anat/brain.nii.gz", "extra/sub-02_T1w.nii.gz"}
    assert all(fault.files == (fault.where,) for fault in faults)


def test_what_is_no_bids_dataset(bids: Path, tmp_path: Path) -> None:
    description = bids / "dataset_description.json"
    with pytest.raises(InputError, match=r"a BIDS dataset.*Try: data=bids$"):
        build_manifest(DataConfig(kind="nifti", root=str(bids), modality="MR"))
    for content, got in (("{}", "no Name or no BIDSVersion"), ("[]", "no Name"), ("{", "unreadable JSON")):
        description.write_text(content)
        with pytest.raises(InputError, match=got):
            build_manifest(ask(bids))
    description.unlink()
    with pytest.raises(InputError, match=r"no such file.*at the root of a BIDS dataset"):
        build_manifest(ask(bids))
    with pytest.raises(InputError, match=r"with a dataset_description\.json"):
        build_manifest(DataConfig(kind="nifti", root=str(bids), modality="MR"))
    with pytest.raises(InputError, match="no such file"):
        build_manifest(ask(bids / "sub-00"))


def test_the_modality_is_that_of_inherited_sidecars(bids: Path) -> None:
    (bids / "T1w.json").write_text(json.dumps({"Modality": "CT"}))
    assert build_manifest(ask(bids))[0].modality == "CT"
    with pytest.raises(InputError, match="CT, which the source states"):
        build_manifest(ask(bids, modality="MR"))


def test_on_the_command_line(bids: Path) -> None:
    config = from_overrides("train", ["data=bids", f"data.root={bids}", "data.entities.suffix=T1w"])
    assert config.data.entities == {"suffix": "T1w"}
    whole, _ = build_manifest(ask(bids))
    assert build_manifest(config.data)[0] == whole
    for overrides in (["data=nifti", "data.entities.suffix=T1w"], ["data=bids", "data.entities=T1w"]):
        with pytest.raises(InputError, match=r"data\.entities"):
            from_overrides("train", [f"data.root={bids}", *overrides])
    with pytest.raises(InputError, match=r"data\.derivatives"):
        from_overrides("train", [f"data.root={bids}", "data=nifti", "data.derivatives=prepared"])
