"""Every fault that is planted in a clean cohort is found under its name, and nothing else is; no file vanishes."""

from __future__ import annotations

import ast
import csv
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from imgsynth.cohort.excluded import write_excluded
from imgsynth.cohort.findings import KINDS, SEVERITIES
from imgsynth.cohort.preflight import Preflight

ROOT = Path(__file__).parents[2]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted_faults", ROOT / "benchmarks" / "planted_faults.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script = _script()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return script.make_clean(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def before(clean: Path) -> dict[str, Preflight]:
    return {base: script.look(clean / base, base, clean / "looks.jsonl") for base in script.BASES}


def test_clean_cohorts_have_no_finding_but_that_they_are_small(before: dict[str, Preflight]) -> None:
    assert {base: found.codes() for base, found in before.items()} == {"ct": {"small_group"}, "dx": set(), "mr": set()}
    for found in before.values():
        assert found.account.excluded == () and found.account.read == found.account.used


@pytest.mark.parametrize("name", script.FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(
    name: str, clean: Path, before: dict[str, Preflight], tmp_path: Path
) -> None:
    fault = script.FAULTS[name]
    if fault.base == "dx":
        pytest.importorskip("rapidocr_onnxruntime")
    script.planted(clean, tmp_path / "cohort", name)
    found = script.look(tmp_path / "cohort", fault.base, clean / "looks.jsonl", **fault.settings)
    assert found.codes() - before[fault.base].codes() == fault.codes
    _adds_up(found, tmp_path)


def _adds_up(found: Preflight, folder: Path) -> None:
    """Read is used and left out, each file once, each with a reason; the csv and the findings say the same."""
    account = found.account
    left_out = [row.file for row in account.excluded]
    assert len(account.read) == len(account.used) + len(left_out)
    assert set(account.read) == set(account.used) | set(left_out)
    files = {p.relative_to(folder / "cohort").as_posix() for p in (folder / "cohort").rglob("*") if p.is_file()}
    assert {name for name in account.read if ".zip/" not in name} == {n for n in files if not n.endswith(".zip")}
    with write_excluded(folder / "excluded.csv", account.excluded).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == left_out
    assert all(row["why"] and row["severity"] in SEVERITIES and row["code"] != "unaccounted" for row in rows)
    by_finding = {name for one in found.findings for name in one.excludes}
    assert by_finding == set(left_out)


def test_a_zipped_export_is_accounted_for_file_by_file(
    clean: Path, before: dict[str, Preflight], tmp_path: Path
) -> None:
    shutil.copytree(clean / "ct", tmp_path / "cohort")
    shutil.make_archive(str(tmp_path / "cohort" / "rest"), "zip", tmp_path / "cohort", "PHANTOM-0003")
    shutil.rmtree(tmp_path / "cohort" / "PHANTOM-0003")
    found = script.look(tmp_path / "cohort", "ct", clean / "looks.jsonl")
    assert found.codes() == before["ct"].codes()
    assert found.account.read == found.account.used and len(found.account.used) == len(before["ct"].account.used)


def test_text_is_looked_for_in_some_images_and_where_headers_speak_for_it(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    shutil.copytree(clean / "dx", tmp_path / "cohort")
    script.change([tmp_path / "cohort" / "film3.dcm"], BurnedInAnnotation="YES")
    monkeypatch.setattr("imgsynth.cohort.preflight.TEXT", 2)
    (told,) = [one for one in script.look(tmp_path / "cohort", "dx").findings if one.code == "text_not_read"]
    assert told.where == ("5 of 8 images",)


def test_each_kind_of_finding_is_planted_or_tested_elsewhere() -> None:
    planted = {code for fault in script.FAULTS.values() for code in fault.codes} | {"small_group"}
    elsewhere = {"configuration", "unaccounted", "no_image", "one_patient", "unit_is_image", "no_label",
                 "labels_unused", "other_channel", "other_image", "mixed_frames", "text_not_read", "absurd_size",
                 "odd_name", "missing_listed", "mask_left_out", "several_stacks"}  # fmt: skip
    assert planted | elsewhere == set(KINDS) and not planted & elsewhere
    assert len(script.FAULTS) >= 25


def test_every_code_that_a_fault_is_given_is_a_kind_of_finding() -> None:
    places = {"Fault": 4, "refuse": 5, "Uneven": 3}  # of the argument that is the code
    given = {
        constant.value
        for path in (ROOT / "imgsynth").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in places
        for argument in [*call.args[places[call.func.id] :][:1], *(k.value for k in call.keywords if k.arg == "code")]
        for constant in ast.walk(argument)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and constant.value
    }
    assert {"localizer", "gantry_tilt", "broken_header", "missing_slices"} <= given <= set(KINDS)


def test_the_docs_list_every_finding_and_every_planted_fault() -> None:
    text = (ROOT / "docs" / "intake.md").read_text(encoding="utf-8")
    for code, kind in KINDS.items():
        assert f"| `{code}` | {kind.severity} | {kind.title} | {kind.effect} | {kind.remedy} |" in text
    for name, fault in script.FAULTS.items():
        codes = ", ".join(f"`{code}`" for code in sorted(fault.codes))
        assert f"| {name.replace('_', ' ')} | {fault.base} | {codes} |" in text
