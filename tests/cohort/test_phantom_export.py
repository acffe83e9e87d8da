"""What make_phantoms writes: real CT objects, exact in HU, with the traps of clinical exports and without losses."""

import csv
import errno
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import imgsynth.cohort.phantom as phantom
from imgsynth.cohort.phantom import make_phantoms, phantom_volume
from imgsynth.cohort.phantom_anatomy import SCANNERS
from imgsynth.cohort.phantom_dicom import round_field
from imgsynth.cohort.phantom_export import draw_job
from imgsynth.cohort.phantom_plan import TRAPS, Job, config_key, plan_cohort
from imgsynth.schema import PhantomConfig
from imgsynth.types import InputError
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series

CONFIG = PhantomConfig(patients=24, size=16, seed=5)
BESIDE = {"labels.csv", "README.txt", "phantoms.json"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "cohort", CONFIG)


@pytest.fixture(scope="module")
def objects(cohort: Path) -> dict[Path, Dataset]:
    """Every DICOM file of the cohort, by path."""
    paths = [p for p in cohort.rglob("*") if p.is_file() and p.suffix != ".txt" and p.name not in BESIDE]
    return {path: pydicom.dcmread(path) for path in paths}


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def series_by_hand(objects: dict[Path, Dataset]) -> dict[str, list[Dataset]]:
    """Axial slices of each series, each SOP instance once, from feet to head."""
    series: dict[str, dict[str, Dataset]] = defaultdict(dict)
    for d in objects.values():
        if d.ImageType[2] != "LOCALIZER":
            series[d.SeriesInstanceUID][d.SOPInstanceUID] = d
    return {uid: sorted(found.values(), key=lambda d: d.ImagePositionPatient[2]) for uid, found in series.items()}


def planned() -> dict[str, Job]:
    return {job.patient: job for job in plan_cohort(CONFIG)}


def test_every_series_reads_back_to_the_rendered_volume(objects: dict[Path, Dataset]) -> None:
    jobs, studies_seen = planned(), defaultdict(int)
    for slices in series_by_hand(objects).values():
        job = jobs[slices[0].PatientID]
        anatomy, studies = draw_job(job)
        number = [job.uid("series", n) for n in range(job.studies)].index(slices[0].SeriesInstanceUID)
        studies_seen[job.patient] += 1
        volume = phantom_volume(anatomy, studies[number], CONFIG.size)
        assert len(slices) == CONFIG.size
        for k, d in enumerate(slices):
            hu = d.pixel_array.astype(float) * float(d.RescaleSlope) + float(d.RescaleIntercept)
            keep = round_field(CONFIG.size) if "PixelPaddingValue" in d else np.ones_like(hu, bool)
            for row, column in np.argwhere(keep)[:: 7 if k % 4 else 1]:
                along, down = np.array(d.ImageOrientationPatient).reshape(2, 3)
                lps = (
                    np.array(d.ImagePositionPatient)
                    + d.PixelSpacing[1] * column * along
                    + d.PixelSpacing[0] * row * down
                )
                i, j, n = np.rint(np.linalg.solve(volume.affine, [-lps[0], -lps[1], lps[2], 1])[:3]).astype(int)
                assert n == k and hu[row, column] == volume.array[i, j, n]
            if not keep.all():
                assert (d.pixel_array[~keep] == d.PixelPaddingValue).all()
    assert dict(studies_seen) == {patient: job.studies for patient, job in jobs.items()}


def test_the_tree_reads_back_through_the_clinical_reader(cohort: Path) -> None:
    index = read_dicom_folder(cohort)
    jobs = planned()
    assert sorted(s.meta["PatientID"] for s in index.series) == sorted(
        p for p, j in jobs.items() for _ in range(j.studies)
    )
    for series in index.series:
        job = jobs[series.meta["PatientID"]]
        anatomy, studies = draw_job(job)
        number = [job.uid("series", n) for n in range(job.studies)].index(series.uid)
        expected = phantom_volume(anatomy, studies[number], CONFIG.size)
        got = read_dicom_series(series)
        assert got.unit == "HU"
        index_ijk = np.stack(np.meshgrid(*[np.arange(CONFIG.size)] * 3, indexing="ij")).reshape(3, -1)
        ras = got.affine[:3, :3] @ index_ijk + got.affine[:3, 3:]
        i, j, k = np.rint(np.linalg.inv(expected.affine[:3, :3]) @ (ras - expected.affine[:3, 3:])).astype(int)
        want = expected.array[i, j, k].reshape(got.array.shape)
        inside = round_field(CONFIG.size)[i, j].reshape(got.array.shape) | ("padding" not in job.traps)
        assert np.array_equal(got.array[inside], want[inside])
        assert (got.array[~inside] <= -900).all()  # padding is air, not -2000 or -3024


def test_headers_are_those_of_a_scanner(objects: dict[Path, Dataset]) -> None:
    for d in objects.values():
        assert d.Modality == "CT" and list(d.ImageType[:2]) == ["ORIGINAL", "PRIMARY"]
        assert d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID
        assert all(u.is_valid for u in (d.SOPInstanceUID, d.SeriesInstanceUID, d.StudyInstanceUID))
        assert d.SOPInstanceUID.startswith("2.25.") and int(d.SOPInstanceUID[5:]) < 2**128
        assert d.PatientID.startswith("PHANTOM-") and "PHANTOM" in d.InstitutionName
        assert d.PatientSex in ("F", "M") and len(d.PatientAge) == 4 and d.PatientAge.endswith("Y")
        assert list(d.PixelSpacing) == [24.0, 24.0]
        assert d.get("SliceLocation") == d.ImagePositionPatient[2]


def test_the_traps_are_there(cohort: Path, objects: dict[Path, Dataset]) -> None:
    series, jobs = series_by_hand(objects), planned()
    found: dict[str, set[str]] = defaultdict(set)
    names: dict[str, list[str]] = defaultdict(list)
    for path, d in objects.items():
        names[d.SOPInstanceUID].append(path.name)
        if d.ImageType[2] == "LOCALIZER":
            assert d.SeriesInstanceUID in series and d.ImageOrientationPatient == [1, 0, 0, 0, 0, -1]
            found["localizer"].add(d.PatientID)
    for slices in series.values():
        first = slices[0]
        numbers = np.diff([d.InstanceNumber for d in slices])
        facts = {
            "instance_reversed": (numbers == -1).all(),
            "instance_shuffled": len(set(np.sign(numbers))) == 2,
            "mixed_rescale": len({(d.RescaleSlope, d.RescaleIntercept) for d in slices}) > 1,
            "unsigned": first.PixelRepresentation == 0 and first.RescaleIntercept == -1024,
            "padding": "PixelPaddingValue" in first,
            "feet_first": first.PatientPosition == "FFS" and first.ImageOrientationPatient[0] == -1,
            "rle": first.file_meta.TransferSyntaxUID.is_compressed,
            "implicit": first.file_meta.TransferSyntaxUID.is_implicit_VR,
            "duplicate": any(len(names[d.SOPInstanceUID]) == 2 for d in slices),
        }
        for name, present in facts.items():
            if present:
                found[name].add(first.PatientID)
    found["report"] = {p.parts[-2 - (p.parent.parent != cohort)] for p in cohort.rglob("report_*.txt")}
    found["one_folder"] = {p for p, job in jobs.items() if not any(x.is_dir() for x in (cohort / p).iterdir())}
    for name in TRAPS:
        wanted = {p for p, job in jobs.items() if name in job.traps}
        if name == "implicit":  # RLE Lossless is explicit by definition
            wanted -= found["rle"]
        if name == "instance_reversed":
            wanted -= found["instance_shuffled"]
        assert found[name] == wanted, name
        assert wanted, f"no patient has the trap {name}"
    assert any(jobs[p].studies > 1 for p in found["one_folder"])
    in_order = [sorted(paths) == sorted(paths, key=lambda p: objects[p].ImagePositionPatient[2])
                for paths in _folders(objects).values()]  # fmt: skip
    assert not any(in_order)  # file names tell nothing


def _folders(objects: dict[Path, Dataset]) -> dict[Path, list[Path]]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in objects:
        folders[path.parent].append(path)
    return folders


def test_labels_table_agrees_with_headers_and_plan(cohort: Path, objects: dict[Path, Dataset]) -> None:
    with (cohort / "labels.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    jobs = planned()
    assert [row["patient"] for row in rows] == list(jobs)
    assert [row["label"] for row in rows] == ["lesion" if job.has_lesion else "normal" for job in jobs.values()]
    assert sum(row["label"] == "lesion" for row in rows) == round(CONFIG.lesion_share * CONFIG.patients)
    assert sum(row["studies"] != "1" for row in rows) == round(CONFIG.extra_studies * CONFIG.patients)
    headers = {(d.PatientID, d.PatientSex, f"{int(d.PatientAge[:3])}", d.InstitutionName) for d in objects.values()}
    assert headers == {(row["patient"], row["sex"], row["age"], row["site"]) for row in rows}
    assert "NO PATIENT" in (cohort / "README.txt").read_text()


def test_the_same_configuration_makes_the_same_bytes_in_any_number_of_processes(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom, "_PATIENTS_PER_PROCESS", 12)
    monkeypatch.setattr(phantom.os, "cpu_count", lambda: 2)
    again = make_phantoms(tmp_path / "again", CONFIG)
    assert contents(again) == contents(cohort)


def test_another_seed_makes_other_people_and_other_uids() -> None:
    one, other = (plan_cohort(PhantomConfig(patients=4, seed=seed)) for seed in (0, 1))
    assert draw_job(one[0])[0].cavity_a != draw_job(other[0])[0].cavity_a
    assert one[0].uid("study", 0) != other[0].uid("study", 0) != other[1].uid("study", 0)
    longer = plan_cohort(PhantomConfig(patients=9, seed=0))
    assert draw_job(longer[2])[0].cavity_a == draw_job(one[2])[0].cavity_a  # a patient does not depend on the others


def test_no_two_patients_and_no_two_studies_are_the_same() -> None:
    drawn = [draw_job(job) for job in plan_cohort(CONFIG)]
    assert len({anatomy.cavity_a for anatomy, _ in drawn}) == CONFIG.patients
    studies = [study for _, own in drawn for study in own]
    assert len(studies) > CONFIG.patients
    assert len({s.noise_seed for s in studies}) == len({s.shift for s in studies}) == len(studies)
    assert {s.scanner.site for s in studies} == {scanner.site for scanner in SCANNERS}


def test_without_traps_the_export_is_plain(tmp_path: Path) -> None:
    root = make_phantoms(tmp_path / "plain", PhantomConfig(patients=2, size=8, traps=False))
    paths = sorted((root / "PHANTOM-0001" / "study-1").iterdir())
    assert [p.name for p in paths] == [f"IM{n:04d}.dcm" for n in range(1, 9)]
    assert [pydicom.dcmread(p).InstanceNumber for p in paths] == list(range(1, 9))


def test_a_whole_cohort_is_reused_and_another_is_never_overwritten(tmp_path: Path) -> None:
    config = PhantomConfig(patients=2, size=8)
    root = make_phantoms(tmp_path / "c", config)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert make_phantoms(root, config) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    with pytest.raises(InputError, match="another configuration"):
        make_phantoms(root, PhantomConfig(patients=3, size=8))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="files that imgsynth did not make"):
        make_phantoms(tmp_path / "mine", config)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PhantomConfig(patients=3, size=8)
    real = phantom.write_patient

    def full(root: Path, job: Job) -> dict[str, str]:
        if job.index == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(root, job)

    monkeypatch.setattr(phantom, "write_patient", full)
    with pytest.raises(InputError, match="No space left"):
        make_phantoms(tmp_path / "c", config)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(list(make_phantoms(tmp_path / "c", config).glob("PHANTOM-*"))) == 3


def test_what_a_killed_run_left_is_cleared_but_not_a_running_one(tmp_path: Path) -> None:
    old, young = tmp_path / ".c.dead.partial", tmp_path / ".c.alive.partial"
    old.mkdir(), young.mkdir()
    os.utime(old, (0, 0))
    make_phantoms(tmp_path / "c", PhantomConfig(patients=1, size=8))
    assert not old.exists() and young.exists()


def test_all_faults_of_a_configuration_are_told_at_once(tmp_path: Path) -> None:
    bad = PhantomConfig(patients=0, size=4, lesion_share=1.5, extra_studies=float("nan"), seed=-1)
    with pytest.raises(InputError) as caught:
        make_phantoms(tmp_path / "c", bad)
    assert {fault.where.split(".")[-1] for fault in caught.value.faults} == {
        "patients", "size", "lesion_share", "extra_studies", "seed"}  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_key_covers_every_setting() -> None:
    changes = ({}, {"seed": 6}, {"traps": False}, {"size": 24}, {"patients": 25}, {"lesion_share": 0.5},
               {"extra_studies": 0.5})  # fmt: skip
    assert len({config_key(replace(CONFIG, **change)) for change in changes}) == len(changes)
