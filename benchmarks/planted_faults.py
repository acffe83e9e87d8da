"""Faults planted in clean cohorts, and what the preflight finds: python benchmarks/planted_faults.py [--only NAME]

Three small cohorts without a patient behind them: phantom CT series (8 patients, 16³ voxels, DICOM), drawn radiographs
(8, DICOM), random blobs (8, NIfTI). Each fault is a function that breaks a copy of one of them. A line for each:
the codes that it should be found under, those that were found, and whether they are the same, neither more nor less.
The clean cohorts come first. Takes about a minute; no seed (the cohorts are fixed).
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from scipy.ndimage import gaussian_filter

from imgsynth.cohort.build import survey_source
from imgsynth.cohort.phantom import make_phantoms
from imgsynth.cohort.preflight import Preflight, preflight
from imgsynth.schema import DataConfig, PhantomConfig

SIZE, PATIENTS = 16, 8


# Clean cohorts ------------------------------------------------------------------------------------------------------


def clean_ct(root: Path) -> None:
    make_phantoms(root, PhantomConfig(patients=PATIENTS, size=SIZE, traps=False))
    for name in ("README.txt", "phantoms.json"):
        (root / name).unlink()
    shutil.move(root / "labels.csv", root.with_suffix(".csv"))


def clean_dx(root: Path) -> None:
    root.mkdir(parents=True)
    for n in range(PATIENTS):
        write(root / f"film{n}.dcm", _film(n))


def clean_mr(root: Path) -> None:
    root.mkdir(parents=True)
    for n in range(PATIENTS):
        blob = gaussian_filter(np.random.default_rng(n).normal(size=(12, 12, 12)), 1.5)
        write_nifti(root / f"p{n}.nii", (400 + 2000 * blob).astype(np.int16))


def _film(n: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        f"1.2.{k}.{n + 1}" for k in (3, 4, 5)
    )
    dataset.ImageType, dataset.Modality, dataset.PatientID = ["ORIGINAL", "PRIMARY"], "DX", f"R{n}"
    dataset.PatientOrientation, dataset.ImagerPixelSpacing = ["L", "F"], [2.0, 2.0]
    blob = gaussian_filter(np.random.default_rng(n).normal(size=(128, 96)), 12)
    _set_pixels(dataset, (1500 + 8000 * blob).clip(0, 4095).astype(np.uint16))
    return dataset


def _set_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"


@dataclasses.dataclass(frozen=True)
class Base:
    make: Callable[[Path], None]
    settings: dict[str, Any]


BASES = {
    "ct": Base(clean_ct, {"kind": "dicom", "modality": "CT"}),
    "dx": Base(clean_dx, {"kind": "dicom"}),
    "mr": Base(clean_mr, {"kind": "nifti", "modality": "MR", "pattern": r"(?P<patient>p\d)"}),
}
TABLE = {"key": "patient", "label": "label", "classes": ["normal", "lesion"]}


# Tools to break things with -------------------------------------------------------------------------------------------


def write(path: Path, dataset: Dataset) -> None:
    """A new file: files of a planted cohort are hard links to those of the clean one, which must stay as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dcmwrite(path, dataset, enforce_file_format=True)


def write_nifti(path: Path, array: np.ndarray) -> None:
    path.unlink(missing_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1.0])), path)


def series(root: Path, patient: int = 0, study: int = 0) -> list[Path]:
    """Files of a study, feet to head."""
    return sorted(sorted(sorted(root.glob("PHANTOM-*"))[patient].iterdir())[study].glob("*.dcm"))


def several(root: Path) -> int:
    """A patient with several studies."""
    return next(n for n, folder in enumerate(sorted(root.glob("PHANTOM-*"))) if len(list(folder.iterdir())) > 1)


def change(paths: Sequence[Path], edit: Callable[[Dataset, int], object] | None = None, **elements: Any) -> None:
    """Rewrite files with elements set (None: deleted), and ``edit`` called with each data set and its number."""
    for k, path in enumerate(paths):
        dataset = dcmread(path)
        _set(dataset, elements)
        if edit is not None:
            edit(dataset, k)
        write(path, dataset)


def again(paths: Sequence[Path], folder: Path, edit: Callable[[Dataset, int], object] | None = None,
          new: Sequence[str] = ("Series", "SOP"), **elements: Any) -> None:  # fmt: skip
    """Write the files once more into ``folder``, under new UIDs of ``new``, changed as by ``change``."""
    for k, path in enumerate(paths):
        dataset = dcmread(path)
        for level in new:
            number = {"Study": 1, "Series": 2, "SOP": 100 + k}[level]
            setattr(dataset, f"{level}InstanceUID", f"1.2.99.{abs(hash(folder.name)) % 10**6}.{number}")
        _set(dataset, elements)
        if edit is not None:
            edit(dataset, k)
        write(folder / f"copy{k:02d}.dcm", dataset)


def _set(dataset: Dataset, elements: dict[str, Any]) -> None:
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def pixels(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Dataset, int], None]:
    """An edit that changes the stored values."""

    def edit(dataset: Dataset, k: int) -> None:
        _set_pixels(dataset, np.ascontiguousarray(function(dataset.pixel_array).astype(np.int16)))

    return edit


def corner(value: int) -> Callable[[np.ndarray], np.ndarray]:
    """A change of pixels that sets a corner to ``value``."""

    def pad(stored: np.ndarray) -> np.ndarray:
        stored[:3, :3] = value
        return stored

    return pad


other_pixels = pixels(lambda stored: stored + 7)


def shift(axis: int, mm: Callable[[int], float]) -> Callable[[Dataset, int], None]:
    """An edit that moves slice k by mm(k) along an axis of LPS+."""

    def edit(dataset: Dataset, k: int) -> None:
        dataset.ImagePositionPatient[axis] = float(dataset.ImagePositionPatient[axis]) + mm(k)

    return edit


def rle(dataset: Dataset, k: int) -> None:
    dataset.compress(uid.RLELossless)


# The faults ----------------------------------------------------------------------------------------------------------

Plant = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Fault:
    plant: Plant
    codes: frozenset[str]
    base: str
    settings: dict[str, Any]


FAULTS: dict[str, Fault] = {}


def fault(*codes: str, base: str = "ct", **settings: Any) -> Callable[[Plant], Plant]:
    """What is found when this is planted in ``base``, read with ``settings`` of data.*"""

    def keep(plant: Plant) -> Plant:
        FAULTS[plant.__name__] = Fault(plant, frozenset(codes), base, settings)
        return plant

    return keep


@fault("missing_slices")
def missing_slice(root: Path) -> None:
    series(root)[7].unlink()


@fault("irregular_spacing")
def slice_out_of_step(root: Path) -> None:
    change(series(root)[5:6], shift(2, lambda k: 9.0))


@fault("overlapping_slices")
def two_phases_in_a_series(root: Path) -> None:
    again(series(root), root / "phase", other_pixels, new=["SOP"])


@fault("gantry_tilt")
def tilted_gantry(root: Path) -> None:
    change(series(root), shift(1, lambda k: 3.0 * k))


@fault("mixed_orientations", "orientations_differ")
def sagittal_reformat_in_the_series(root: Path) -> None:
    def turn(dataset: Dataset, k: int) -> None:
        other_pixels(dataset, k)
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        dataset.ImagePositionPatient = [24.0 * k, -180.0, 180.0]

    again(series(root), root / "sagittal", turn, new=["SOP"])


@fault("split_series")
def two_matrices_in_a_series(root: Path) -> None:
    again(series(root), root / "small", pixels(lambda stored: stored[:, 2:-2] + 7), new=["SOP"])


@fault("localizer")
def scout_in_the_series(root: Path) -> None:
    again(series(root)[:1], root / "scout", new=["SOP"], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


@fault("derived_image")
def reformat_among_originals(root: Path) -> None:
    again(series(root), root / "mpr", other_pixels, ImageType=["DERIVED", "SECONDARY", "MPR"])


@fault("secondary_capture")
def screen_capture(root: Path) -> None:
    again(series(root)[:1], root / "screen", SOPClassUID=uid.SecondaryCaptureImageStorage)


@fault("multiframe")
def cine_of_another_kind(root: Path) -> None:
    again(series(root)[:1], root / "cine", NumberOfFrames=2)


@fault("enhanced")
def multi_frame_ct(root: Path) -> None:
    frames = [dcmread(path) for path in series(root)]
    dataset = dcmread(series(root)[0])
    _set_pixels(dataset, np.stack([frame.pixel_array for frame in frames]))
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.EnhancedCTImageStorage, "1.2.98.1"
    dataset.NumberOfFrames, measures, plane, scale = len(frames), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = dataset.PixelSpacing, dataset.SliceThickness
    plane.ImageOrientationPatient = dataset.ImageOrientationPatient
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, 0, "HU"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([plane])
    shared.PixelValueTransformationSequence = Items([scale])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    places = [Dataset() for _ in frames]
    for place, frame in zip(places, frames, strict=True):
        position = Dataset()
        position.ImagePositionPatient = frame.ImagePositionPatient
        place.PlanePositionSequence = Items([position])
    dataset.PerFrameFunctionalGroupsSequence = Items(places)
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleType"):
        delattr(dataset, keyword)
    for path in series(root):
        path.unlink()
    write(root / "PHANTOM-0001" / "enhanced.dcm", dataset)


@fault("colour_image")
def colour_overlay(root: Path) -> None:
    again(series(root)[:1], root / "colour", PhotometricInterpretation="RGB", SamplesPerPixel=3)


@fault("other_object")
def structure_set(root: Path) -> None:
    again(series(root)[:1], root / "contours", SOPClassUID=uid.RTStructureSetStorage)


@fault("other_modality")
def mr_among_ct(root: Path) -> None:
    again(series(root), root / "mr", other_pixels, Modality="MR", SOPClassUID=uid.MRImageStorage)


@fault("mixed_modalities", modality=None)
def mr_among_ct_unasked(root: Path) -> None:
    mr_among_ct(root)


@fault("not_an_image", "hidden_file")
def letters_beside_the_images(root: Path) -> None:
    (root / "report.txt").write_text("Thorax CT of the phantom.")
    (root / ".DS_Store").write_bytes(b"Bud1")


@fault("broken_header")
def damaged_file(root: Path) -> None:
    (root / "damaged.dcm").write_bytes(series(root)[0].read_bytes()[:150] + b"\xff" * 300)


@fault("unreadable")
def damaged_archive_of_a_file(root: Path) -> None:
    dataset = dcmread(series(root)[0])
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    write(root / "deflated.dcm", dataset)
    content = (root / "deflated.dcm").read_bytes()
    (root / "deflated.dcm").write_bytes(content[: len(content) // 2 + 200])


@fault("truncated")
def truncated_file(root: Path) -> None:
    path = series(root)[0]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-100])


@fault("broken_pixels")
def truncated_compressed_pixels(root: Path) -> None:
    def cut(dataset: Dataset, k: int) -> None:
        rle(dataset, k)
        dataset.PixelData = dataset.PixelData[:90] + b"\0" * (len(dataset.PixelData) - 90)

    change(series(root)[:1], cut)


@fault("no_pixels")
def image_without_pixels(root: Path) -> None:
    change(series(root)[:1], PixelData=None)


@fault("no_geometry")
def image_without_position(root: Path) -> None:
    change(series(root)[:1], ImagePositionPatient=None)


@fault("broken_header")
def image_with_a_word_for_a_number(root: Path) -> None:
    path = series(root)[0]
    content = path.read_bytes().replace(b"24.000000\\24.000000 ", b"24.000000\\twenty-f ")
    path.unlink()
    path.write_bytes(content)


@fault("unsafe_zip")
def zip_with_a_way_out(root: Path) -> None:
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("../escaped.dcm", series(root)[0].read_bytes())


@fault("duplicate_file")
def file_exported_twice(root: Path) -> None:
    shutil.copy(series(root)[3], root / "again.dcm")


@fault("duplicate_uid")
def one_uid_for_two_contents(root: Path) -> None:
    again(series(root)[3:4], root / "other", other_pixels, new=[])


@fault("duplicate_uid")
def one_uid_in_two_series(root: Path) -> None:
    again(series(root), root / "other", other_pixels, new=["Series"])


@fault("duplicate_image")
def compressed_copy_of_a_series(root: Path) -> None:
    again(series(root), root / "rle", rle)


@fault("shared_slices")
def part_of_a_series_again(root: Path) -> None:
    again(series(root)[:12], root / "part")


@fault("image_two_patients")
def compressed_copy_under_another_id(root: Path) -> None:
    again(series(root), root / "PHANTOM-X", rle, new=["Study", "Series", "SOP"], PatientID="X-17")


@fault("image_two_patients")
def part_of_a_series_under_another_id(root: Path) -> None:
    again(series(root)[3:], root / "PHANTOM-X", new=["Study", "Series", "SOP"], PatientID="X-17")


@fault("uids_two_patients")
def study_under_two_ids(root: Path) -> None:
    again(series(root), root / "PHANTOM-X", other_pixels, PatientID="X-17")


@fault("lookalike_ids")
def id_in_another_case(root: Path) -> None:
    change(series(root, several(root), 1), PatientID=sorted(root.glob("PHANTOM-*"))[several(root)].name.lower())


@fault("lookalike_ids")
def id_with_a_blank(root: Path) -> None:
    own = sorted(root.glob("PHANTOM-*"))[several(root)].name
    change(series(root, several(root), 1), PatientID=f" {own[:8]} {own[8:]} ")


@fault("no_patient_id")
def image_without_id(root: Path) -> None:
    change(series(root), PatientID="")


@fault("same_name_and_birth")
def one_name_under_two_ids(root: Path) -> None:
    for patient, name in ((0, "Doe^Jane"), (1, "DOE^JANE ")):
        change(series(root, patient), PatientName=name, PatientBirthDate="19600101")


@fault("demographic_clash")
def two_sexes_under_one_id(root: Path) -> None:
    for study, sex in ((0, "F"), (1, "M")):
        change(series(root, several(root), study), PatientSex=sex)


@fault("demographic_clash", **TABLE)
def two_sexes_behind_a_table_that_has_one(root: Path) -> None:
    _table(root, lambda rows: rows)
    two_sexes_under_one_id(root)


@fault("demographic_clash")
def two_years_of_birth_under_one_id(root: Path) -> None:
    for study, age in ((0, "031Y"), (1, "064Y")):
        change(series(root, several(root), study), PatientAge=age)


@fault("rescale_type")
def ct_not_in_hu(root: Path) -> None:
    change(series(root), RescaleType="US")


@fault("mixed_units")
def one_slice_in_another_unit(root: Path) -> None:
    change(series(root)[4:5], RescaleType="US")


@fault("no_scale")
def ct_without_rescale(root: Path) -> None:
    change(series(root), RescaleSlope=None, RescaleIntercept=None)


@fault("implausible_hu", "outlier_intensity")
def lost_intercept(root: Path) -> None:
    change(series(root), pixels(lambda stored: stored + 1024))


@fault("outlier_intensity")
def metal_or_a_wrong_slope(root: Path) -> None:
    change(series(root), pixels(lambda stored: np.where(stored > 0, 10 * stored, stored)))


@fault("padding")
def padding_that_nobody_declared(root: Path) -> None:
    change(series(root), pixels(corner(-2000)))


@fault("padding")
def padded_corners(root: Path) -> None:
    def declare(dataset: Dataset, k: int) -> None:
        pixels(corner(-900))(dataset, k)
        dataset.add_new("PixelPaddingValue", "SS", -900)

    change(series(root), declare)


@fault("empty_image")
def constant_image(root: Path) -> None:
    change(series(root), pixels(np.zeros_like))


@fault("blank_slices")
def blank_slice(root: Path) -> None:
    change(series(root)[8:9], pixels(lambda stored: np.full_like(stored, -1000)))


@fault("outlier_spacing")
def thick_slices(root: Path) -> None:
    for path in series(root)[1::2]:
        path.unlink()


@fault("outlier_shape")
def short_series(root: Path) -> None:
    for path in series(root)[6:]:
        path.unlink()


@fault("instance_order")
def shuffled_instance_numbers(root: Path) -> None:
    change(series(root), lambda dataset, k: setattr(dataset, "InstanceNumber", 7 * k % 16))


@fault("orientations_differ")
def rows_and_columns_turned(root: Path) -> None:
    def turn(dataset: Dataset, k: int) -> None:
        pixels(lambda stored: stored[::-1])(dataset, k)
        dataset.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
        dataset.ImagePositionPatient[1] = -float(dataset.ImagePositionPatient[1])

    change(series(root), turn)


@fault("face")
def head(root: Path) -> None:
    change(series(root), BodyPartExamined="HEAD")


@fault("text_by_header")
def declared_annotation(root: Path) -> None:
    change(series(root), BurnedInAnnotation="YES")


@fault("text_in_pixels", base="dx")
def burned_in_name(root: Path) -> None:
    def draw(stored: np.ndarray) -> np.ndarray:
        mask = Image.new("L", stored.shape[::-1])
        ImageDraw.Draw(mask).text((4, 4), "DOE JANE", fill=255, font=ImageFont.load_default(size=15))
        return np.where(np.asarray(mask) > 99, 4095, stored)

    change([root / "film3.dcm"], pixels(draw))


@fault("spacing_assumed", "outlier_shape", "outlier_spacing", base="dx")
def radiograph_without_pixel_size(root: Path) -> None:
    change([root / "film3.dcm"], ImagerPixelSpacing=None)


@fault("not_finite", base="mr")
def not_a_number(root: Path) -> None:
    write_nifti(root / "p3.nii", np.where(np.eye(12)[..., None] > 0, np.nan, 400.0) * np.ones(12))


@fault("outlier_intensity", base="mr")
def another_unit_of_mr(root: Path) -> None:
    write_nifti(root / "p3.nii", np.asarray(nib.load(root / "p3.nii").dataobj) / 4000.0)


@fault("image_two_patients", base="mr")
def float_copy_under_another_id(root: Path) -> None:
    write_nifti(root / "p9.nii", np.asarray(nib.load(root / "p3.nii").dataobj, dtype=np.float32))


@fault("image_twice", base="mr", unit="image", pattern=None)
def copy_where_the_unit_is_the_image(root: Path) -> None:
    float_copy_under_another_id(root)


@fault("unmatched_path", base="mr")
def file_with_another_name(root: Path) -> None:
    (root / "p3.nii").rename(root / "q3.nii")


@fault("incomplete_table", **TABLE)
def patient_missing_in_the_table(root: Path) -> None:
    _table(root, lambda rows: rows[:-1])


@fault("unknown_label", **TABLE)
def label_that_nobody_declared(root: Path) -> None:
    _table(root, lambda rows: [rows[0].replace("normal", "maybe").replace("lesion", "maybe"), *rows[1:]])


@fault("contradictory_table", **TABLE)
def rows_that_contradict(root: Path) -> None:
    _table(root, lambda rows: [*rows, rows[0].replace("normal", "lesion2").replace("lesion,", "normal,")])


@fault("rows_without_image", **TABLE)
def row_without_images(root: Path) -> None:
    _table(root, lambda rows: [*rows, "PHANTOM-9999,normal,F,50,PHANTOM GENERAL,1"])


@fault("unknown_sex_or_age")
def patient_without_age(root: Path) -> None:
    change(series(root), PatientAge="", PatientSex="")


def _table(root: Path, edit: Callable[[list[str]], list[str]]) -> None:
    head_row, *rows = root.with_suffix(".csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join([head_row, *edit(rows)]) + "\n")


# Finding them --------------------------------------------------------------------------------------------------------


def planted(clean: Path, root: Path, name: str) -> None:
    """A copy of the clean cohort of this fault at ``root`` (hard links), with the fault in it."""
    source = clean / FAULTS[name].base
    shutil.copytree(source, root, copy_function=lambda a, b: Path(b).hardlink_to(a))
    if source.with_suffix(".csv").is_file():
        shutil.copy(source.with_suffix(".csv"), root.with_suffix(".csv"))
    FAULTS[name].plant(root)


def look(root: Path, base: str, store: Path | None = None, **settings: Any) -> Preflight:
    """The preflight of a cohort; looks at images that are as in the clean cohort are taken from ``store``."""
    table = {"table": str(root / "labels.csv")} if "key" in settings else {}
    return preflight(survey_source(DataConfig(root=str(root), **{**BASES[base].settings, **settings, **table})), store)


def make_clean(folder: Path) -> Path:
    for name, base in BASES.items():
        base.make(folder / name)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FAULTS, help="one fault")
    asked = parser.parse_args().only
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        clean = make_clean(Path(folder) / "clean")
        store = Path(folder) / "looks.jsonl"
        before = {base: look(clean / base, base, store).codes() for base in BASES}
        for base, codes in before.items():
            print(f"clean {base}: {', '.join(sorted(codes)) or 'no finding'}")
            wrong += bool(look(clean / base, base, store).codes("error", "warning"))
        for number, name in enumerate([asked] if asked else FAULTS):
            root = Path(folder) / str(number)
            planted(clean, root, name)
            found = look(root, FAULTS[name].base, store, **FAULTS[name].settings)
            new = found.codes() - before[FAULTS[name].base]
            wrong += new != FAULTS[name].codes
            said = "" if new == FAULTS[name].codes else f", found {', '.join(sorted(new)) or 'nothing'}  <-- WRONG"
            print(f"{name.replace('_', ' '):36} {', '.join(sorted(FAULTS[name].codes))}{said}")
    print(f"{len(FAULTS)} faults, {wrong} not found as they should be")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
