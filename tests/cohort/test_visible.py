"""Heads and burned-in text are warned about by what headers and sizes say, on real files too."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Item
from imgsynth.cohort.visible import head_because, heads, says_defaced, text, text_because, visible_risks
from imgsynth.schema import DataConfig


def item(modality: str = "MR", shape: tuple[int, ...] = (180, 200, 160), mm: float = 1.0) -> Item:
    return Item("p", "s", "s", ("f",), modality, shape, (mm,) * len(shape), "d")


def header(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("image", "head", "expected"),
    [
        (item(), header(), "MR of a head's size"),
        (item(shape=(90, 100, 80), mm=2.0), header(), "MR of a head's size"),
        (item(), header(BodyPartExamined="BRAIN"), "BodyPartExamined"),
        (item("CT"), header(BodyPartExamined="HeadNeck"), "BodyPartExamined"),
        (item("CT"), header(), None),  # a CT of this size may be of anything
        (item("MR"), header(BodyPartExamined="KNEE"), None),
        (item("MR", (35, 50, 36)), header(), None),  # a crop of the hippocampus
        (item("MR", (400, 400, 300)), header(), None),  # a trunk
        (item("CT", (512, 512, 1)), header(BodyPartExamined="HEAD"), None),  # a slice is no face
        (item("DX", (200, 200)), header(BodyPartExamined="SKULL"), None),
    ],
)
def test_what_looks_like_a_head(image: Item, head: Dataset, expected: str | None) -> None:
    assert head_because(image, head) == expected


def test_heads_are_warned_about_unless_defaced() -> None:
    volumes = [(item(), header()), (item(), header(BodyPartExamined="HEAD")), (item("CT"), header())]
    for declared, said in ((None, "nobody has declared"), (False, "declared to show faces")):
        found = heads(volumes, declared)
        assert found["images"] == 2 and "2 volumes" in found["warning"] and said in found["warning"]
    assert heads(volumes, True)["warning"] is None
    assert heads(volumes[2:], None)["warning"] is None


def test_headers_that_say_the_face_is_gone_count() -> None:
    code = header(CodeValue="113101")
    assert says_defaced(header(RecognizableVisualFeatures="NO"))
    assert says_defaced(header(DeidentificationMethodCodeSequence=[header(CodeValue="113100"), code]))
    assert not says_defaced(header(RecognizableVisualFeatures="YES"))
    assert not says_defaced(header(DeidentificationMethodCodeSequence=[header(CodeValue="113100")]))
    gone = [(item(), header(RecognizableVisualFeatures="NO"))]
    assert heads(gone, None) == {"images": 1, "because": {"MR of a head's size": 1}, "headers_say_defaced": 1,
                                 "declared": None, "warning": None}  # fmt: skip
    assert "1 volumes" in heads([*gone, (item(), header())], None)["warning"]


def overlay() -> Dataset:
    dataset = header(SOPClassUID=CTImageStorage)
    dataset.add_new(0x60000010, "US", 512)
    return dataset


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (header(SOPClassUID=MRImageStorage, BurnedInAnnotation="NO"), []),
        (header(BurnedInAnnotation="YES"), ["BurnedInAnnotation YES"]),
        (header(SOPClassUID=SecondaryCaptureImageStorage), ["secondary capture"]),
        (header(SOPClassUID=CTImageStorage, ConversionType="WSD"), ["secondary capture"]),
        (header(SOPClassUID=UltrasoundImageStorage), ["ultrasound"]),
        (overlay(), ["overlays (60xx)"]),
    ],
)
def test_what_speaks_for_text(head: Dataset, expected: list[str]) -> None:
    assert text_because(head) == expected
    found = text([(item(), head), (item(), header())])
    assert found["images"] == len(expected) and bool(found["warning"]) == bool(expected)


def test_real_brains_are_heads_and_hippocampi_are_not(real_data: Path) -> None:
    for folder, expected in (("brain_t1w_2mm", 48), ("msd_hippocampus", 0)):
        manifest, _ = build_manifest(DataConfig(kind="nifti", root=str(real_data / folder), modality="MR"))
        found = visible_risks(manifest, None)
        assert found["heads"]["images"] == expected
        assert found["text"]["warning"] is None


def test_the_phantom_has_neither(tmp_path: Path) -> None:
    data = DataConfig(kind="phantom")
    data.phantom.patients, data.phantom.size = 6, 8
    manifest, _ = build_manifest(data)
    found = visible_risks(manifest, None)
    assert (found["heads"]["images"], found["text"]["images"]) == (0, 0)
