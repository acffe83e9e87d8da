"""A sweep on a launcher: a folder for every job, all through one ledger, and the budget stops only whom it must."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from forked import script_forked

from imgsynth.config import compose, config_folder, from_overrides
from imgsynth.privacy.ledger import Ledger
from imgsynth.training.run import load_run
from imgsynth.types import InputError

ROOT = Path(__file__).parents[2]


def sweep(cohort: Path, tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The launcher is forked; its jobs are processes of their own, as they always are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        return script_forked(
            ROOT / "scripts" / "train.py", "data=npz", f"data.root={cohort}", "data.modality=DX",
            "data.classes=['0','1']", "preprocess=radiograph", "preprocess.shape=[8,8]", "privacy.delta=1e-2",
            "privacy.batch_patients=8", "trainer.steps=4", "model=vae", "trainer.device=cpu", "trainer.threads=1",
            f"privacy.ledger={tmp_path / 'ledger'}", *overrides, cwd=tmp_path,
        )  # fmt: skip


@pytest.mark.slow
def test_jobs_of_a_sweep_have_a_folder_each_and_the_budget_refuses_only_the_one_that_would_pass_it(
    cohort: Path, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'imgsynth[cluster]'")
    done = sweep(cohort, tmp_path, "sweep=local", "privacy.epsilon=1,8", "privacy.budget_epsilon=5")
    assert done.returncode == 2, done.stderr
    assert "the cohort's budget" in done.stderr and "privacy.epsilon=8" in done.stderr
    (folder,) = (tmp_path / "runs").glob("*-sweep")
    assert load_run(folder / "0").finished and load_run(folder / "0").config.privacy.epsilon == 1
    assert not (folder / "1" / "config.json").exists()
    cohort_name = json.loads((folder / "0" / "manifest.json").read_text())["fingerprint"]
    assert [entry.state for entry in Ledger(tmp_path / "ledger").entries(cohort_name)] == ["closed"]
    assert "the cohort's budget" in "".join(p.read_text() for p in (folder / ".submitit").rglob("*.err"))


@pytest.mark.parametrize("path", sorted((config_folder() / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_says_which_launcher_it_needs_and_names_only_what_that_has(path: Path) -> None:
    config = pytest.importorskip(
        "hydra_plugins.hydra_joblib_launcher.config" if path.stem == "joblib"
        else "hydra_plugins.hydra_submitit_launcher.config"
    )  # fmt: skip
    known = {"local": "LocalQueueConf", "slurm": "SlurmQueueConf", "joblib": "JobLibLauncherConf"}[path.stem]
    content = yaml.safe_load(path.read_text())
    assert content["hydra"]["mode"] == "MULTIRUN"
    assert set(content["hydra"]["launcher"]) <= set(getattr(config, known).__dataclass_fields__)
    assert compose(
        "train",
        [f"sweep={path.stem}"]
        + (
            ["hydra.launcher.partition=p", "hydra.launcher.additional_parameters.nodelist=n"]
            if path.stem == "slurm"
            else []
        ),
    )


def test_a_sweep_is_no_setting_of_one_run() -> None:
    with pytest.raises(InputError, match=r"scripts/train.py -m"):
        from_overrides("train", ["sweep=local"])
