"""The command line as a person meets it: help, exit codes, completion, errors that list everything."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from forked import imgsynth_forked, script_forked

from imgsynth import __version__, cli
from imgsynth.types import InputError

NO_SETTINGS = (
    "plan",
    "verify",
    "ledger",
    "whois",
    "deidentify",
)  # these have no script: they take paths, or make no run
VERBS = (
    "inspect",
    "plan",
    "train",
    "sample",
    "evaluate",
    "explain",
    "audit",
    "report",
    "run",
    "verify",
    "ledger",
    "whois",
    "deidentify",
)


def imgsynth(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imgsynth", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=300, check=False,
    )  # fmt: skip


def test_help_names_every_verb_and_teaches() -> None:
    shown = imgsynth("--help")
    assert shown.returncode == 0
    for verb in VERBS:
        assert verb in shown.stdout
    assert "Exit codes" in shown.stdout and "imgsynth run experiment=demo" in shown.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    shown = imgsynth_forked(verb, "--help")
    assert shown.returncode == 0 and "Example" in shown.stdout


def test_version() -> None:
    assert imgsynth_forked("--version").stdout.strip() == __version__


def test_wrong_configuration_exits_with_two_and_lists_all(tmp_path: Path) -> None:
    shown = imgsynth("train", "privacy.noise_multplier=4", "trainer.steps=0", cwd=tmp_path)
    assert shown.returncode == 2
    assert "2 faults" in shown.stderr and "noise_multiplier" in shown.stderr and "trainer.steps" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not list(tmp_path.iterdir())  # no work was done


def test_unknown_verb_exits_with_two() -> None:
    shown = imgsynth_forked("trian")
    assert shown.returncode == 2 and "Traceback" not in shown.stderr and "--help" in shown.stderr


def test_verbs_on_a_folder_without_a_run_say_what_comes_first(tmp_path: Path) -> None:
    for verb in ("sample", "evaluate", "explain", "audit", "report"):
        shown = imgsynth_forked(verb, "output=nothing", cwd=tmp_path)
        assert shown.returncode == 2, shown.stderr
        assert "imgsynth train" in shown.stderr and "Traceback" not in shown.stderr
        assert not (tmp_path / "nothing").exists()


def test_verify_of_no_release_fails(tmp_path: Path) -> None:
    shown = imgsynth_forked("verify", str(tmp_path / "release"))
    assert shown.returncode in (1, 2) and "Traceback" not in shown.stderr


def test_a_misspelt_kind_of_audit_is_named() -> None:
    with pytest.raises(InputError, match="canaries"):
        cli.audit(["canary", "output=nothing"])


def test_completion_offers_groups_and_keys() -> None:
    assert "model=gan" in cli.complete("model=")
    assert cli.complete("privacy.eps") == ["privacy.epsilon="]


def test_a_full_disk_is_said_as_what_it_is() -> None:
    fault = cli.as_fault(OSError(errno.ENOSPC, "No space left on device", "/data/run/last.pt")).faults[0]
    assert fault.where == "/data/run/last.pt" and "space" in fault.remedy


@pytest.mark.parametrize("verb", [v for v in [*VERBS, "audit_canaries"] if v not in NO_SETTINGS])
def test_scripts_are_thin_hydra_mains(verb: str) -> None:
    name = "inspect_cohort" if verb == "inspect" else verb  # inspect.py would hide the standard library's
    script = Path(__file__).parent.parent / "scripts" / f"{name}.py"
    assert len(script.read_text().splitlines()) <= 25
    shown = script_forked(script, "--cfg", "job")
    assert shown.returncode == 0 and "noise_multiplier" in shown.stdout, shown.stderr


def test_a_script_refuses_a_misspelt_key(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts" / "train.py"
    shown = subprocess.run(
        [sys.executable, str(script), "privacy.noise_multplier=4"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert shown.returncode != 0 and "noise_multplier" in shown.stderr


def test_the_shell_is_given_completions() -> None:
    asked = {"COMP_WORDS": "imgsynth train encoder", "COMP_CWORD": "2", "_IMGSYNTH_COMPLETE": "complete_bash"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in asked.items():
            patch.setenv(name, value)
        assert "encoder=random_conv" in imgsynth_forked().stdout
