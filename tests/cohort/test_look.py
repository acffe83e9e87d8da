"""What counts as the same image, as an outlier and as text: near misses on both sides."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from imgsynth.cohort.build import survey_source
from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.findings_images import image_findings
from imgsynth.cohort.findings_visible import Reader, visible_findings
from imgsynth.cohort.look import Look, look_at
from imgsynth.cohort.look_header import Facts
from imgsynth.cohort.preflight import Preflight, preflight
from imgsynth.features.ocr import Text
from imgsynth.schema import DataConfig
from imgsynth.types import Fault
from imgsynth.volumes.volume import Volume


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine), path)


def inspected(root: Path) -> Preflight:
    return preflight(survey_source(DataConfig(kind="nifti", root=str(root), modality="MR", pattern="(?P<patient>p.)")))


def test_the_same_image_in_another_order_and_type_is_found_and_one_voxel_less_is_not(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(1, 900, (9, 8, 7)).astype(np.int16)
    flipped = np.diag([-2.0, 2.0, 2.0, 1.0])
    flipped[0, 3] = 16.0
    save(tmp_path / "p0.nii", array)
    save(tmp_path / "p1.nii", array[::-1], flipped)
    save(tmp_path / "p2.nii", array.astype(np.float64))
    almost = np.pad(array, ((0, 0), (0, 0), (0, 0)))
    almost[-1, -1] += 1  # the last line: every plane differs
    save(tmp_path / "p3.nii", almost)
    (one,) = [one for one in inspected(tmp_path).findings if one.severity == "error"]
    assert (one.code, one.count) == ("image_two_patients", 1)
    assert one.where == ("p0.nii and p1.nii and p2.nii",) and one.details == ("patients p0 and p1 and p2",)


def test_planes_in_common_are_counted(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(1, 900, (9, 8, 7)).astype(np.int16)
    other = np.random.default_rng(1).integers(1, 900, (9, 8, 7)).astype(np.int16)
    other[..., 2:5] = array[..., 4:7]
    save(tmp_path / "p0.nii", array)
    save(tmp_path / "p1.nii", other)
    (one,) = [one for one in inspected(tmp_path).findings if one.severity == "error"]
    assert one.details == ("3 slices in common; patients p0 and p1",)
    empty = np.full((9, 8, 7), 5, dtype=np.int16)  # planes without content are nobody's
    save(tmp_path / "p0.nii", empty)
    save(tmp_path / "p1.nii", empty)
    assert inspected(tmp_path).codes("error", "warning") == {"empty_image"}


def test_a_picture_shows_three_planes_with_the_patient_s_right_on_the_left(tmp_path: Path) -> None:
    array = np.zeros((40, 30, 20), dtype=np.int16)
    array[30:, 20:, 15:] = 100  # right, front, top
    save(tmp_path / "p0.nii", array)
    (scan,) = survey_source(DataConfig(kind="nifti", root=str(tmp_path), modality="MR", unit="image")).found.scans
    look, _ = look_at(tmp_path, scan)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(look.thumbnail))))
    assert picture.shape == (54, 72 + 2 + 72 + 2 + 72)
    array[:, :, 10] = array[:, :, 15]
    save(tmp_path / "p0.nii", array)
    look, _ = look_at(tmp_path, scan)
    axial = np.asarray(Image.open(io.BytesIO(base64.b64decode(look.thumbnail))))[:, :72]
    assert axial[5, 5] > 200 and axial[5, 60] < 50 and axial[50, 5] < 50


def images(*spreads: float, unit: str = "a.u.") -> list[tuple[Scan, Look]]:
    return [(Scan((f"i{n}",), (f"i{n}",), "MR", (8, 8, 8), (1.0, 1.0, 1.0), "RAS"),
             Look(pixels=str(n), unit=unit, points=(0.0, 0.0, spread / 2, spread, spread)))
            for n, spread in enumerate(spreads)]  # fmt: skip


@pytest.mark.parametrize(
    ("last", "found"), [(300.0, False), (750.0, False), (850.0, True), (14.0, False), (11.0, True)]
)
def test_intensities_without_a_unit_differ_by_factors(last: float, found: bool) -> None:
    codes = {one.code for one in image_findings(images(100.0, 99.0, 101.0, 100.0, 100.0, last))}
    assert codes == ({"outlier_intensity"} if found else set())


def test_where_all_differ_or_few_are_there_nobody_is_an_outlier() -> None:
    assert image_findings(images(1.0, 10.0, 100.0, 1000.0, 1e4, 1e5)) == []
    assert image_findings(images(100.0, 100.0, 100.0, 1e5)) == []


def test_faces_are_told_unless_they_are_gone() -> None:
    scan = images(1.0)[0][0]
    gone = Facts(head="size", defaced=True)
    cases = ((Facts(head="size"), None, {"face"}), (Facts(head="size"), True, set()), (gone, None, set()))
    for facts, declared, expected in (*cases, (Facts(), None, set())):
        codes = {one.code for one in visible_findings([(scan, Look(facts=facts))], {0: ()}, declared)}
        assert codes == expected


def test_images_in_which_no_text_was_looked_for_are_told() -> None:
    two = [(scan, Look()) for scan, _ in images(1.0, 2.0)]
    (one,) = visible_findings(two, {0: ("DOE JANE",)}, None)[1:]
    assert (one.code, one.count) == ("text_not_read", 1)
    broken = [(two[0][0], Look(faults=(Fault("f", "g", "e", "r", "broken_pixels"),)))]
    assert visible_findings(broken, {}, None) == []


def test_only_sure_lines_with_a_word_count_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [Text("DOE JANE", 0.71, (0, 0)), Text("DOE JOHN", 0.69, (0, 0)), Text("L", 0.99, (0, 0))]
    monkeypatch.setattr("imgsynth.cohort.findings_visible.TextReader", lambda: SimpleNamespace(read=lambda _: lines))
    assert Reader().read(Volume(np.zeros((64, 48, 1)), np.eye(4), "DX", "a.u.")) == ("DOE JANE",)
    assert Reader().read(Volume(np.zeros((64, 47, 9)), np.eye(4), "MR", "a.u.")) == ()
