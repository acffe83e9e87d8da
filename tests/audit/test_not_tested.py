"""What an audit does not test, or could not, is said by its verdict, its controls and its last lines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from imgsynth.audit.closing import closing
from imgsynth.audit.run import audit_run
from imgsynth.schema import AuditConfig
from imgsynth.training.run import load_run

PRIMARY = "calibrated_nearest_neighbour/raw"
SETTINGS = AuditConfig(attacks=[PRIMARY], primary=PRIMARY, bootstrap=100, extraction_samples=0, ocr_pictures=0)


def test_a_query_is_not_tested_and_a_model_of_too_few_patients_not_made(  # type: ignore[no-untyped-def]
    small_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsynth.audit.overfit.MIN_PATIENTS", 14)
    root = Path(small_run("asking"))
    settings = dataclasses.replace(SETTINGS, n=60, overfit_steps=3)
    found = audit_run(root, dataclasses.replace(load_run(root).config, audit=settings))
    said = "noise and clipping of queries (moments of codes)"
    assert said in found["judgement"]["not_tested"]
    assert any(line.startswith("Not tested:") and said in line for line in closing(found))

    controls = {c["name"]: c for c in found["controls"] if "overfit" in c["name"]}
    names = "overfit non-private model", "clipped overfit model without noise"
    assert set(controls) == {f"{name}, {PRIMARY}" for name in names}
    for control in controls.values():
        assert control["passed"] is None and control["required"] and "13 training patients" in control["detail"]
    assert found["judgement"]["word"] == "INCONCLUSIVE"
    assert any("it takes 14" in why for why in found["judgement"]["because"])


def test_neither_is_said_where_there_is_no_query_and_no_model_was_asked_for(small_run) -> None:  # type: ignore[no-untyped-def]
    root = Path(small_run("vae"))
    found = audit_run(root, dataclasses.replace(load_run(root).config, audit=dataclasses.replace(SETTINGS, n=60)))
    assert not any("queries" in one for one in found["judgement"]["not_tested"])
    assert not any("overfit" in control["name"] for control in found["controls"])
