"""Every file of a run is on the list of what saw patients, and what the list calls charged saw them through noise only.

Two runs are made on other images of patients of the same ids, splits and labels. What the mechanisms give out is the
same in both, by force: private steps get blank images, and the choice of a step is always the second. Whatever then
differs between the runs has seen images in another way, and must be local.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgsynth import config, pipeline
from imgsynth.evaluate import run as evaluation
from imgsynth.release.outputs import OUTPUTS, output_of
from imgsynth.training import loop, selecting
from imgsynth.training.checkpoint import load_checkpoint
from imgsynth.training.folder import RunFolder

SETTINGS = (
    "data=npz", "data.modality=DX", "data.classes=['0','1']", "data.cohort=them", "model=vae",
    "model.channels=2", "model.latent=2",
    "preprocess.shape=[16,16]", "preprocess.fit=resize", "preprocess.spacing=null", "preprocess.low=0",
    "preprocess.high=255", "privacy.delta=1e-3", "privacy.seed=1", "privacy.batch_patients=10", "trainer.steps=4",
    "trainer.sheet_every=2", "trainer.checkpoint_every=2", "selection.rule=noisy_max", "selection.every=2",
    "selection.samples=4", "sample.n=4", "sample.formats=[dicom]", "sample.seed=1", "sample.writers=1",
    "encoder=random_conv", "evaluate.n=24", "evaluate.bootstrap=5", "evaluate.classifier_seeds=1",
    "evaluate.rivals=false", "evaluate.shares=[1.0]", "audit.n=24", "audit.bootstrap=100",
    "audit.extraction_samples=0", "audit.ocr_pictures=0",
)  # fmt: skip
UNLIKE = ("tensorboard/*", "checkpoints/*")  # with times and random tokens in them; compared below, or a mere view


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = []
    real = loop.private_update

    def blank(state: Any, plan: Any, batch: Any) -> Any:
        batch.x_PKC.zero_()
        return real(state, plan, batch)

    for number in range(2):
        folder = tmp_path_factory.mktemp("pair")
        images = np.random.default_rng(number).integers(0, 255, (90, 16, 16), np.uint8)
        np.savez(folder / "them.npz", images=images, labels=np.arange(90) % 2, patient_ids=[f"p{i}" for i in range(90)])
        run_dir = folder / "run"
        run_dir.mkdir()
        (run_dir / "run_id.txt").write_text("0" * 32 + "\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
            patch.setenv("IMGSYNTH_LEDGER", str(folder / "ledger"))
            patch.setattr(loop, "private_update", blank)
            patch.setattr(selecting, "choose", lambda *_: 1)
            for slow in ("utility", "detectability"):  # classifiers, which only evaluation.json would tell of
                patch.setattr(evaluation, slow, left_out)
            cfg = config.from_overrides("run", [*SETTINGS, f"data.root={folder / 'them.npz'}", f"output={run_dir}"])
            pipeline.run(cfg)
        made.append(run_dir)
    return made


def left_out(*_: Any) -> Any:
    raise evaluation.NotDone("not done here")


def files(run_dir: Path) -> list[str]:
    return sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())


def test_every_file_of_a_run_is_on_the_list(pair: list[Path]) -> None:
    unknown = [name for name in files(pair[0]) if output_of(name) is None]
    assert not unknown, f"say in imgsynth/release/outputs.py what of patients is in {unknown}"


def test_what_is_not_local_follows_from_the_mechanisms_alone(pair: list[Path]) -> None:
    ours, theirs = pair
    for name in files(ours):
        output = output_of(name)
        assert output is not None
        if output.saw == "charged" and output.pattern not in UNLIKE:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    states = [load_checkpoint(RunFolder(run_dir).checkpoint)["state"] for run_dir in pair]
    for part in ("model", "ema"):
        for name, value in states[0][part].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][part][name])), name


def test_the_images_were_others_and_local_files_say_so(pair: list[Path]) -> None:
    """Or the test above could not fail."""
    ours, theirs = pair
    for name in ("evaluation.json", "audit.json", "manifest.json", "report.html"):
        assert output_of(name).saw == "local"  # type: ignore[union-attr]
        assert (ours / name).read_bytes() != (theirs / name).read_bytes(), name
    assert (ours / "release").is_dir() and (ours / "selection.json").is_file()


def test_a_file_that_nobody_listed_is_unknown() -> None:
    assert output_of("nearest_patients.json") is None and output_of("checkpoints.json") is None
    assert output_of("local/anything.npy") == OUTPUTS[0]


def test_the_docs_have_the_whole_list() -> None:
    text = (Path(__file__).parents[1] / "docs" / "privacy.md").read_text()
    missing = [
        output.pattern for output in OUTPUTS if f"| `{output.pattern}` | {output.saw} | {output.what} |" not in text
    ]
    assert not missing
