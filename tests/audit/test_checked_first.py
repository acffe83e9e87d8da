"""What can be known before anything is loaded or trained is said before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from imgsynth.audit.registry import NAMES, settings_faults
from imgsynth.audit.run import audit_run
from imgsynth.schema import AuditConfig, Config, EncoderConfig, PreprocessConfig
from imgsynth.training.run import load_run
from imgsynth.types import InputError

PRIMARY = "calibrated_nearest_neighbour/raw"


def test_no_model_is_trained_where_so_few_patients_cannot_show_anything(  # type: ignore[no-untyped-def]
    small_run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixteen trainings, and then INCONCLUSIVE for a reason that was known before."""

    def trained(*_: object) -> None:
        pytest.fail("a model was trained for comparison")

    monkeypatch.setattr("imgsynth.audit.run.for_audit", trained)
    monkeypatch.setattr("imgsynth.audit.run.overfit_of", trained)
    root = Path(small_run("vae"))
    run = load_run(root)
    settings = AuditConfig(
        n=60, attacks=[PRIMARY, "lira/posterior/elbo"], primary=PRIMARY, references=4, overfit_steps=3, bootstrap=20,
        extraction_samples=0, ocr_pictures=0,
    )  # fmt: skip
    found = audit_run(root, dataclasses.replace(run.config, audit=settings))
    why = "13 members and 6 non-members: no leak, however large, would show"
    assert {"what": "reference and overfit models", "why": why} in found["not_done"]
    assert found["judgement"]["word"] == "INCONCLUSIVE" and found["power"]["epsilon"] is None
    assert "verdict will be INCONCLUSIVE" in capsys.readouterr().err
    assert any(one["what"] == "attack lira/posterior/elbo" for one in found["not_done"])


def test_attacks_are_checked_before_the_run_is_read(tmp_path: Path) -> None:
    wrong = AuditConfig(attacks=["nearest_neighbor/raw", "domias/pca", "domias/pca"], primary="domias/pcb")
    cfg = Config(audit=wrong, preprocess=PreprocessConfig(shape=[8, 8]), encoder=EncoderConfig("random_conv"))
    with pytest.raises(InputError) as caught:
        audit_run(tmp_path / "no run", cfg)
    said = [(fault.got, fault.remedy) for fault in caught.value.faults]
    assert said == [
        ("'nearest_neighbor/raw'", "did you mean nearest_neighbour/raw?"),
        ("domias/pca 2 times", "leave it out"),
        ("domias/pcb", "did you mean domias/pca?"),
    ]


@pytest.mark.parametrize(("name", "says"), [
    ("domias", "one of domias/pca, domias/encoder"), ("domias/ssim", "one of domias/pca, domias/encoder"),
    ("lira/posterior/elbow", "one of lira/nearest_neighbour/raw"), ("logn", "did you mean logan?"),
    ("zzz", "audit=default"),
])  # fmt: skip
def test_a_wrong_name_says_what_may_have_been_meant(name: str, says: str) -> None:
    (fault,) = settings_faults(AuditConfig(attacks=["logan", name], primary="logan", references=4))
    assert fault.got == repr(name) and says in fault.remedy


def test_names_that_exist_have_no_faults() -> None:
    assert settings_faults(AuditConfig(attacks=list(NAMES), primary=None, references=4)) == []
    (fault,) = settings_faults(AuditConfig(attacks=[], primary=None))
    assert fault.got == "[]"
    (fault,) = settings_faults(AuditConfig(attacks=["logan", "lira/logan"], primary="logan"))
    assert fault.where == "audit.references" and "lira/logan" in fault.got
