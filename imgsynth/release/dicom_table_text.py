"""docs/dicom_attributes.md, the table for people; ``python -m imgsynth.release.dicom_table_text`` prints it anew."""

from __future__ import annotations

import sys

from pydicom.tag import Tag

from imgsynth.release.dicom_rules import Rule, parse_line
from imgsynth.release.dicom_table import MODULES, OBJECTS

HEAD = """# Attributes of a release's DICOM files

Made by `python -m imgsynth.release.dicom_table_text` from the table that `imgsynth verify` holds every file against
(`imgsynth/release/dicom_table.py`); a test compares the two. [release.md](release.md) tells the reasons.

Type 1: there, with a value; 2: there; 3: may be absent; 1C: as 1 under the condition. Types are of PS3.3 or stricter.
`>` is one level down. Where two modules of an object name an attribute, the later one holds. **What is not here is in
no file**: `verify` takes any other element, private ones above all, for a fault.
"""


def markdown() -> str:
    """The whole page."""
    objects = [f"| {sop.name} | {'; '.join(name.split(' (')[0] for name in names)} |" for sop, names in OBJECTS.items()]
    parts = [HEAD, "## Objects and their modules, in order\n", "| SOP class | modules |", "|---|---|", *objects]
    for module, lines in MODULES.items():
        parts += [f"\n## {module}\n", "| attribute | tag | VR | type | value |", "|---|---|---|---|---|"]
        parts += [_row(*parse_line(line.strip())) for line in lines.strip().splitlines()]
    return "\n".join(parts) + "\n"


def _row(deep: int, rule: Rule) -> str:
    tag = Tag(rule.tag)
    values = " or ".join(f"`{value}`" for value in rule.values)
    items = {None: "", "0": "no items", "1": ""}.get(rule.items, f"items: {rule.items}")
    value = "empty" if rule.empty and rule.items is None else values or items
    condition = f"if {rule.condition}" if rule.condition else ""
    number = f"({tag.group:04X},{tag.element:04X})"
    said = " ".join(part for part in (value, condition) if part)
    return f"| {'>' * deep}{rule.keyword} | {number} | {' or '.join(rule.representations)} | {rule.type} | {said} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
