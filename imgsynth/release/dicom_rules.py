"""Does a data set hold what its object's table says, and nothing else? Types, representations, numbers, values."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydicom import DataElement, Dataset, FileDataset
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.uid import UID, SegmentationStorage

from imgsynth.release.dicom_table import FILE_META, MODULES, OBJECTS

NUMBERS = ("DS", "IS", "US", "SS", "UL", "FD")
LINE = re.compile(
    r"(?P<deep>>*)(?P<keyword>\w+)\s+(?P<type>1C|[123])\s*(?P<value>.*?)\s*(if (?P<condition>\w+(=\w+)?))?"
)


@dataclass(frozen=True)
class Rule:
    """One line of the table. ``items``: of a sequence, a number or the keyword that tells it; None elsewhere."""

    keyword: str
    tag: int
    representations: tuple[str, ...]
    multiplicity: str  # Value Multiplicity, "1" or "2-n" say
    type: str
    values: tuple[str, ...] = ()  # () is any
    empty: bool = False
    items: str | None = None
    condition: str | None = None
    inside: dict[int, Rule] = field(default_factory=dict)  # of a sequence's items, by tag


@dataclass(frozen=True)
class Broken:
    """What is wrong with an element: its place ("PatientID", "SharedFunctionalGroupsSequence[1].…") and why."""

    where: str
    got: str
    expected: str


@functools.cache
def rules_of(modules: tuple[str, ...]) -> dict[int, Rule]:
    """The rules of an object, by tag; what a later module says of an element replaces what an earlier one did."""
    rules: dict[int, Rule] = {}
    for module in modules:
        levels = [rules]
        for line in MODULES[module].strip().splitlines():
            deep, rule = parse_line(line.strip())
            level = levels[deep]
            if rule.tag in level:
                rule.inside.update(level[rule.tag].inside)
            level[rule.tag] = rule
            levels[deep + 1 :] = [rule.inside]
    return rules


def broken_file(dataset: FileDataset) -> Iterator[Broken]:
    """Every way in which a file breaks the table of its object, or contradicts itself."""
    yield from broken_rules(dataset.file_meta, rules_of(FILE_META))
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        said = dataset.file_meta.get(f"MediaStorage{keyword}")
        if dataset.get(keyword) != said:
            yield Broken(keyword, repr(dataset.get(keyword)), f"{said}, as in the file meta information")
    modules = OBJECTS.get(UID(str(dataset.get("SOPClassUID"))))
    if modules is None:
        yield Broken("SOPClassUID", repr(dataset.get("SOPClassUID")), "a class of image that imgsynth writes")
        return
    yield from broken_rules(dataset, rules_of(modules))
    for number, frame in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or [], 1):
        for content in frame.get("FrameContentSequence") or []:
            place = content.get("DimensionIndexValues"), content.get("InStackPositionNumber")
            if dataset.SOPClassUID == SegmentationStorage:  # whose frames are read by position and segment
                continue
            if place != ([1, number], number):
                where = f"PerFrameFunctionalGroupsSequence[{number}].FrameContentSequence"
                yield Broken(where, f"stack and position {place}", f"position {number} of stack 1, in both elements")


def broken_rules(dataset: Dataset, rules: Mapping[int, Rule], where: str = "") -> Iterator[Broken]:
    """Every way in which ``dataset`` breaks ``rules``."""
    for tag, rule in rules.items():
        if tag in dataset:
            yield from _element_faults(dataset, dataset[tag], rule, where + rule.keyword)
        elif rule.type in ("1", "2") or (rule.type == "1C" and _holds(rule.condition, dataset)):
            yield Broken(where + rule.keyword, "nothing", _expected(rule))
    for other in dataset.keys() - rules.keys():
        if other.is_private:
            yield Broken(f"{where}{other}", "a private element", "none")
        else:
            name = keyword_for_tag(other) or str(other)
            yield Broken(where + name, "an element that imgsynth does not write", "none but those it does")


def _element_faults(dataset: Dataset, element: DataElement, rule: Rule, where: str) -> Iterator[Broken]:
    if element.VR not in rule.representations:
        yield Broken(where, f"value representation {element.VR}", " or ".join(rule.representations))
        return
    if element.VR == "SQ":
        yield from _item_faults(dataset, element, rule, where)
        return
    count = 0 if element.value in (None, "", b"") else element.VM
    if rule.empty or count == 0:
        if rule.empty and count:
            yield Broken(where, repr(element.value), "nothing")
        elif rule.type in ("1", "1C"):
            yield Broken(where, "an empty value", _expected(rule))
        return
    if not _fits(count, rule.multiplicity):
        yield Broken(where, f"{count} values", f"{rule.multiplicity} of them")
    found = _text(element)
    if rule.values and found not in rule.values:
        yield Broken(where, repr(found), _expected(rule))
    if not found.isascii():
        yield Broken(where, repr(found), "ASCII, as no character set is declared")
    if element.VR == "UI" and not UID(found).is_valid:
        yield Broken(where, repr(found), "a UID")


def _item_faults(dataset: Dataset, element: DataElement, rule: Rule, where: str) -> Iterator[Broken]:
    items = list(element.value)
    wanted = rule.items or "0"
    count = int(wanted) if wanted.isdigit() else int(dataset.get(wanted) or 0)
    if wanted == "some" and not items:
        yield Broken(where, "no item", "one or more")
    elif wanted != "some" and len(items) != count:
        yield Broken(where, f"{len(items)} items", f"{count}")
    for number, item in enumerate(items, 1):
        yield from broken_rules(item, rule.inside, f"{where}[{number}].")


def parse_line(line: str) -> tuple[int, Rule]:
    """How far down a line of the table is, and its rule."""
    found = LINE.fullmatch(line)
    assert found is not None, line
    keyword, value = found["keyword"], found["value"]
    tag = tag_for_keyword(keyword)
    assert tag is not None, line
    items = None
    representations = tuple(dictionary_VR(tag).split(" or "))
    if representations == ("SQ",):
        items = "0" if value == "empty" else value.removesuffix(" items") or "1"
    values = tuple(value[1:].split("|")) if value.startswith("=") else ()
    return len(found["deep"]), Rule(keyword, tag, representations, dictionary_VM(tag), found["type"], values,
                                    value == "empty", items, found["condition"])  # fmt: skip


def _holds(condition: str | None, dataset: Dataset) -> bool:
    keyword, separator, wanted = (condition or "").partition("=")
    return keyword in dataset and (not separator or dataset[keyword].value == wanted)


def _expected(rule: Rule) -> str:
    return " or ".join(rule.values) or ("a value" if rule.type in ("1", "1C") else "the element, with or without value")


def _fits(count: int, multiplicity: str) -> bool:
    """Whether ``count`` values are as many as a Value Multiplicity such as "1", "2-n" or "1-3" allows (PS3.5 6.4)."""
    low, separator, high = multiplicity.partition("-")
    return int(low) <= count and (count == int(low) if not separator else high.endswith("n") or count <= int(high))


def _text(element: DataElement) -> str:
    values = element.value if isinstance(element.value, (MultiValue, list)) else [element.value]
    if element.VR in NUMBERS:
        return "\\".join(f"{float(value):g}" for value in values)
    return "\\".join(str(value) for value in values) if element.VR not in ("OB", "OW") else ""
