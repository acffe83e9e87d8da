"""The folded parts say what the audit found, mark what leaks, and say why where there is nothing."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from imgsynth.audit.conclude import conclude
from imgsynth.files import read_json
from imgsynth.report.audit_details import Section, details, down, share
from imgsynth.report.audit_part import audit_part, not_tested

TITLES = ("Strings", "Text and faces", "Extraction", "Re-identification", "Beyond", "Set classifier", "Dose",
          "Canaries", "Reference models")  # fmt: skip
HIT = {"fpr": 0.001, "n_pairs": 400, "underpowered": True, "threshold": 0.9, "recognised": 0.31, "train": 0.25,
       "holdout": 0.05, "n_train": 20, "n_holdout": 20, "excess": 0.2, "low": 0.01, "high": 0.4, "auc": 0.7,
       "auc_low": 0.6, "auc_high": 0.8, "pairs": "two views of one image", "trained_on": 64}  # fmt: skip


@pytest.fixture
def audit(complete: Path) -> dict[str, Any]:
    return copy.deepcopy(read_json(complete / "audit.json"))


def by_title(audit: dict[str, Any], unit: str = "patient") -> dict[str, Section]:
    sections = details(audit, unit)
    assert len(sections) == len(TITLES)
    return {title: one for title, one in zip(TITLES, sections, strict=True) if one.title.startswith(title)}


def test_every_part_has_its_fold_and_says_why_it_is_empty(audit: dict[str, Any]) -> None:
    for looked_at in audit["beyond_membership"]["advantages"]:
        looked_at["low"] = -0.1  # a run without leaks is above 0 once in so many looks
    if "extracted" in audit["copies"]["extraction"]:
        audit["copies"]["extraction"]["extracted"]["p_value"] = 0.5
    whole = by_title(audit)
    assert set(whole) == set(TITLES) and not any(section.alarm for section in whole.values())
    assert whole["Re-identification"].says == f"not done: {audit['not_done'][0]['why']}"
    assert "imgsynth audit canaries" in whole["Canaries"].says and "audit.references" in whole["Reference models"].says
    for part in ("leakage", "reidentification", "beyond_membership", "dose_response", "references"):
        del audit[part]
    audit |= {"copies": {}, "not_done": []}
    bare = by_title(audit)
    assert all(section.says.startswith("not done: ") and not section.rows for section in bare.values())
    assert len(list(not_tested(audit))) > 8


def test_what_leaks_is_marked(audit: dict[str, Any]) -> None:
    audit["reidentification"] = HIT
    audit["copies"]["extraction"]["extracted"] = {"train": 9, "holdout": 0, "p_value": 0.002}
    audit["copies"]["extraction"] |= {"clusters": 9, "largest_clusters": []}
    audit["beyond_membership"]["advantages"][0] |= {"value": 0.2, "low": 0.1, "high": 0.3}
    audit["beyond_membership"]["set_classifier"] = {"auc": 0.9, "low": 0.7, "high": 1.0, "pairs": 4, "patients": 8}
    audit["leakage"]["visible"]["heads"]["warning"] = "3 volumes look like heads"
    checks = [{"name": "noise", "value": 1.1, "expected": 2.2, "p": 1e-9, "passed": False}]
    audit["canaries"] = {"twins": [{"kind": "weights", "mechanism": checks}]}
    found = by_title(audit)
    marked = {title for title, section in found.items() if section.alarm}
    assert marked == {"Text and faces", "Extraction", "Re-identification", "Beyond", "Set classifier", "Canaries"}
    assert found["Re-identification"].says == "training less held-out patients: 20 % [1, 40]"
    assert "400 pairs" in " ".join(found["Re-identification"].lines)
    assert found["Canaries"].rows[0][1:] == ("noise", "1.1", "2.2", "1e-09", "NO")
    assert found["Set classifier"].says == "AUC 0.90 [0.70, 1.00]"


def test_strings_in_files_are_told_without_the_strings(audit: dict[str, Any]) -> None:
    finding = {"file": "release/a.txt", "where": "", "offset": 7, "times": 2, "string": "0f0f0f", "of": "manifest"}
    audit["leakage"] |= {"clean": False, "findings": [finding], "n_findings": 3}
    section = by_title(audit)["Strings"]
    assert section.alarm and section.rows == [("release/a.txt", "as it lies", "2", "manifest")]
    assert "2 more are in the local file alone." in section.lines
    assert audit_part(conclude(audit, None))["plain"].startswith("Strings of the source")


def test_doses_are_a_row_for_each_attack(audit: dict[str, Any]) -> None:
    section = by_title(audit)["Dose"]
    first = audit["dose_response"][0]
    assert len(section.rows) == len(audit["attacks"]) and len(section.rows[0]) == len(section.head)
    low, high = (float(end) for end in re.findall(r"(\d\.\d\d)[,\]]", section.rows[0][1])[:2])
    assert section.rows[0][1].startswith(f"{first['auc']:.2f} [")
    assert first["low"] - 0.01 < low <= first["low"] and first["high"] <= high < first["high"] + 0.01
    answers = dict(zip(section.head[1:], section.rows[0][1:], strict=True))
    caught = [one for one in audit["dose_response"] if one["caught"]]
    assert sum(answer.startswith("●") for answer in answers.values()) == len(caught)


@pytest.mark.parametrize("unit", ["image", "case"])
def test_the_unit_is_called_what_it_is(unit: str, audit: dict[str, Any]) -> None:
    audit["reidentification"] = HIT
    shown = audit_part(audit, unit)
    words = " ".join([shown["plain"], *shown["numbers"][:-1]])
    words += " ".join(text for section in shown["details"] for text in (section.says, *section.lines))
    assert f"one {unit} that was trained on" in words and f"{unit}s" in words and "patient" not in words


def test_lower_bounds_are_rounded_down_and_shares_have_no_minus_zero() -> None:
    assert [down(value) for value in (1.999, 0.0, None, 0.129)] == ["1.99", "0.00", "–", "0.12"]
    assert share(-0.0001, -0.1, 0.256) == "0 % [-10, 25.6]"
