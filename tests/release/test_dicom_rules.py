"""The table of attributes: we keep it, each line of it is caught when broken, and no line is looser than PS3.3."""

from __future__ import annotations

import copy
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from imgsynth.release.dicom_rules import Rule, broken_file, rules_of
from imgsynth.release.dicom_table import FILE_META, MODULES, OBJECTS
from imgsynth.release.dicom_table_text import markdown
from imgsynth.volumes.dicom_syntax import SYNTAXES
from imgsynth.volumes.dicom_write import DicomForm, write_dicom_series
from imgsynth.volumes.geometry import projection_affine
from imgsynth.volumes.provenance import Provenance, SyntheticIdentity
from imgsynth.volumes.volume import Volume

KINDS = [("CT", "single_frame"), ("MR", "single_frame"), ("CR", "single_frame"), ("DX", "single_frame"),
         ("CT", "enhanced"), ("MR", "enhanced")]  # fmt: skip
each_kind = pytest.mark.parametrize(("modality", "kind"), KINDS)


def written(folder: Path, modality: str, kind: str, syntax: str = "explicit_little_endian") -> Dataset:
    made = Provenance("GAN", "GAN", "0.1.0", 8.0, 1e-5, "patient", burned_in="NO", recognizable="NO")
    flat = modality in ("DX", "CR")
    array = np.random.default_rng(0).integers(0, 200, (32, 33, 1 if flat else 2)).astype(np.float32)
    volume = Volume(array, projection_affine() if flat else np.eye(4), modality, "HU" if modality == "CT" else "a.u.")
    files = write_dicom_series(volume, folder / "s", SyntheticIdentity("SYN-1"), made, form=DicomForm(kind, syntax))
    return dcmread(files[0])


def broken(dataset: Dataset) -> list[str]:
    return [one.where for one in broken_file(dataset)]


@each_kind
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_written_breaks_no_rule(tmp_path, modality, kind, syntax):
    assert broken(written(tmp_path, modality, kind, syntax)) == []


Path_ = tuple[str, ...]  # keywords down to a rule


def all_rules(rules: Mapping[int, Rule], path: Path_ = ()) -> Iterator[tuple[Path_, Rule]]:
    for rule in rules.values():
        yield (*path, rule.keyword), rule
        yield from all_rules(rule.inside, (*path, rule.keyword))


def parent(dataset: Dataset, path: Path_) -> Dataset:
    for keyword in path[:-1]:
        dataset = dataset[keyword].value[0]
    return dataset


def place(path: Path_) -> str:
    return "[1].".join(path)


OTHER = {"CS": "OTHER", "UI": "1.2.3.4", "DS": "7", "IS": "7", "US": 7, "SS": 7, "UL": 7, "AT": 0x00100010,
         "DA": "20240101", "TM": "120000", "SH": "other", "LO": "other", "PN": "Other", "LT": "other"}  # fmt: skip
WRONG_VR = {"LO": "SH"}


def mutations(element: DataElement, rule: Rule, holder: Dataset) -> Iterator[tuple[str, Callable[[], object]]]:
    """What can be done to break ``rule``, by name."""
    tag, vr = element.tag, element.VR
    if rule.type != "3":
        yield "removed", lambda: holder.__delitem__(tag)
    if rule.type in ("1", "1C") and vr != "SQ":
        yield "emptied", lambda: holder.__setitem__(tag, DataElement(tag, vr, None))
    if vr == "SQ":
        yield (
            "an item more",
            lambda: element.value.append(copy.deepcopy(element.value[0]) if element.value else Dataset()),
        )
        if element.value:
            yield "an item less", lambda: element.value.pop()
    elif vr not in ("OB", "OW"):
        yield "another representation", lambda: holder.__setitem__(tag, DataElement(tag, WRONG_VR.get(vr, "LO"), "1"))
        if rule.values or rule.empty:
            yield "another value", lambda: holder.__setitem__(tag, DataElement(tag, vr, OTHER[vr]))


@each_kind
def test_each_line_of_the_table_is_caught_when_broken(tmp_path, modality, kind):
    sound = written(tmp_path, modality, kind)
    meta = {rule.keyword for rule in rules_of(FILE_META).values()}
    lines = [*all_rules(rules_of(FILE_META)), *all_rules(rules_of(OBJECTS[sound.SOPClassUID]))]
    tried: Counter[Path_] = Counter()
    for path, rule in lines:
        original = parent(sound.file_meta if path[0] in meta else sound, path)
        for name, _ in mutations(original[path[-1]], rule, original):
            dataset = copy.deepcopy(sound)
            holder = parent(dataset.file_meta if path[0] in meta else dataset, path)
            dict(mutations(holder[path[-1]], rule, holder))[name]()
            assert place(path) in broken(dataset), (path, name)
            tried[path] += 1
    assert set(tried) == {path for path, _ in lines}


@each_kind
def test_what_is_not_in_the_table_is_caught_at_every_level(tmp_path, modality, kind):
    sound = written(tmp_path, modality, kind)
    holders = {path[:-1] for path, _ in all_rules(rules_of(OBJECTS[sound.SOPClassUID]))}
    for holder in holders:
        for add, named in (
            (lambda item: setattr(item, "ImageComments", "seen on Monday"), "ImageComments"),
            (lambda item: setattr(item, "InstitutionName", ""), "InstitutionName"),
            (lambda item: item.private_block(0x0011, "X", create=True).add_new(1, "LO", "hidden"), "(0011,1001)"),
        ):
            dataset = copy.deepcopy(sound)
            add(parent(dataset, (*holder, "")))
            assert place((*holder, named)) in broken(dataset)


def test_a_file_that_contradicts_itself_is_caught(tmp_path):
    dataset = written(tmp_path, "CT", "enhanced")
    dataset.SOPInstanceUID = "1.2.3"
    content = dataset.PerFrameFunctionalGroupsSequence[1].FrameContentSequence[0]
    content.InStackPositionNumber = 1
    dataset.NumberOfFrames = 3
    place = "PerFrameFunctionalGroupsSequence"
    assert broken(dataset) == ["SOPInstanceUID", place, f"{place}[2].FrameContentSequence"]
    content.InStackPositionNumber, content.DimensionIndexValues = 2, [1, 3]
    assert f"{place}[2].FrameContentSequence" in broken(dataset)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("SoftwareVersions", "imgsynth für alle"), ("StudyInstanceUID", "1.02.3"), ("StudyInstanceUID", "1." + "2" * 64),
     ("PixelSpacing", "1"), ("ImageOrientationPatient", ["1"] * 5), ("SliceThickness", ["1", "2"]),
     ("BurnedInAnnotation", "MAYBE"), ("RescaleSlope", "2"), ("ImageType", ["DERIVED"])],
)  # fmt: skip
def test_values_that_no_reader_could_take_are_caught(tmp_path, keyword, value):
    dataset = written(tmp_path, "CT", "single_frame")
    tag = tag_for_keyword(keyword)
    dataset[tag] = DataElement(tag, dictionary_VR(tag), value)
    assert set(broken(dataset)) == {keyword}


def test_a_condition_is_asked_before_its_element(tmp_path):
    dataset = written(tmp_path, "CT", "single_frame")
    del dataset.WindowWidth
    assert broken(dataset) == ["WindowWidth"]
    del dataset.WindowCenter
    assert broken(dataset) == ["WindowCenter"]  # a release has a window; without a centre no width is asked for
    del dataset.RecognizableVisualFeatures
    assert broken(dataset) == ["WindowCenter"]


# What our objects hold beyond their IOD, each of which makes a Standard Extended SOP Class (PS3.4 B.4.1).
EXTENSIONS = {
    "mr-image": {"RescaleSlope", "RescaleIntercept", "RescaleType"},  # the scale of the series, as every scanner has it
    "enhanced-ct-image": {"DerivationDescription"},
    "enhanced-mr-image": {"DerivationDescription"},
}
IODS = {"ct-image": ("CT", "single_frame"), "mr-image": ("MR", "single_frame"),
        "computed-radiography-image": ("CR", "single_frame"), "digital-x-ray-image": ("DX", "single_frame"),
        "enhanced-ct-image": ("CT", "enhanced"), "enhanced-mr-image": ("MR", "enhanced")}  # fmt: skip
STRICT = {"1": 3, "1C": 2, "2": 1, "2C": 0, "3": 0}


@functools.cache
def standard(name: str) -> dict:
    highdicom = pytest.importorskip("highdicom", reason="highdicom (the extra package) is not installed")
    return json.loads((Path(highdicom.__file__).parent / "_standard" / name).read_text())


@pytest.mark.parametrize("iod", IODS)
def test_no_line_is_looser_than_the_standard(tmp_path, iod):
    """highdicom has the modules and types of PS3.3 as tables; what must be there is in ours, as strict."""
    modules, attributes = standard("iod_module_map.json")[iod], standard("module_attribute_map.json")
    dataset = written(tmp_path, *IODS[iod])
    rules = dict(all_rules(rules_of(OBJECTS[dataset.SOPClassUID])))
    ours = {path: rule.type for path, rule in rules.items()}
    with_items = {path for path, rule in rules.items() if rule.items not in (None, "0")}
    known: set[Path_] = set()
    for module in modules:
        for row in attributes[module["key"]]:
            path = (*row["path"], row["keyword"])
            if row["path"][:1] == ["PerFrameFunctionalGroupsSequence"] and path[:2] not in ours:
                continue  # a macro stands in the shared or in the per-frame groups
            known.add(path)
            nested = path[:-1] in with_items and "FunctionalGroupsSequence" not in path[-2]
            if row["type"] in ("1", "2") and (nested or (module["usage"] == "M" and not row["path"])):
                assert STRICT[ours.get(path, "3")] >= STRICT[row["type"]], path
            elif path in ours:
                assert STRICT[ours[path]] >= STRICT[row["type"]] or row["type"] == "1C", path
    beyond = {path[0] for path in ours if path not in known}
    assert beyond == EXTENSIONS.get(iod, set())


def test_every_module_is_of_some_object():
    used = {name for modules in OBJECTS.values() for name in modules} | set(FILE_META)
    assert used == set(MODULES)


def test_the_page_for_people_is_what_the_table_says():
    page = Path(__file__).parents[2] / "docs" / "dicom_attributes.md"
    assert page.read_text(encoding="utf-8") == markdown(), "python -m imgsynth.release.dicom_table_text > that page"
