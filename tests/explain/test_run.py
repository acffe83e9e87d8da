"""A run explained: what is where, that nothing of a patient is in the releasable part, what is refused before work."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgsynth.explain import attribution
from imgsynth.explain.run import ALONE, LOCAL, PRIVATE, explain_run
from imgsynth.files import read_json
from imgsynth.release.outputs import output_of
from imgsynth.report.write import write_report
from imgsynth.schema import (
    Config,
    DataConfig,
    EncoderConfig,
    ExplainConfig,
    PreprocessConfig,
    PrivacyConfig,
    TrainerConfig,
)
from imgsynth.training.loop import train
from imgsynth.training.run import load_run, model_factory
from imgsynth.types import InputError

SENTINEL = "ZQXJSENTINEL"


def configure(folder: Path, mode: str = "dp", steps: int = 2) -> Config:
    random = np.random.default_rng(3)
    path = folder / SENTINEL / "images.npz"
    path.parent.mkdir(parents=True)
    labels = np.arange(150) % 2
    images = random.integers(0, 120, (150, 16, 16)) + 100 * labels[:, None, None]
    ids = [f"{SENTINEL}{i:03d}" for i in range(150)]
    np.savez(path, images=images.astype(np.uint8), labels=labels, patient_ids=ids)
    return Config(
        output=str(folder / "run"),
        data=DataConfig(kind="npz", root=str(path), modality="DX", label="labels", classes=["clear", "opaque"]),
        preprocess=PreprocessConfig([16, 16], fit="resize", low=0, high=255),
        model={"_target_": "imgsynth.models.VAE", "latent": 2, "channels": 2, "widest": 4},
        privacy=PrivacyConfig(mode=mode, delta=1e-3, batch_patients=8, ledger=str(folder / "ledger")),
        trainer=TrainerConfig(steps=steps, checkpoint_every=2, sheet_every=3, device="cpu", threads=1),
        encoder=EncoderConfig("random_conv"),
        explain=ExplainConfig(samples=40, codes=4, directions=2, attributed=4),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    cfg = configure(tmp_path_factory.mktemp("trained"))
    return train(cfg, Path(str(cfg.output)), model_factory(cfg.model)), cfg


@pytest.fixture(scope="module")
def explained(trained: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = Path(shutil.copytree(trained[0], tmp_path_factory.mktemp("explained") / "run"))
    assert explain_run(run_dir, trained[1]) == run_dir / "explain"
    write_report(run_dir)
    return run_dir


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_both_parts_are_written_and_say_what_they_are(explained: Path) -> None:
    alone, local = (read_json(explained / place / "explain.json") for place in ("explain", "local/explain"))
    assert alone["scope"] == ALONE and local["scope"] == LOCAL and local["local_only"] is True
    assert [part["name"] for part in alone["parts"]] == [
        "traversals", "contrasts", "paths", "neighbours", "repeats", "outliers", "blank", "saturated",
    ]  # fmt: skip
    assert [part["name"] for part in local["parts"]] == ["far", "attribution", "surest_maps", "surest"]
    for place, found in (("explain", alone), ("local/explain", local)):
        assert set(content(explained / place)) == {"explain.json", *(part["picture"] for part in found["parts"])}
        assert found["not_done"] == []


def test_the_patients_beside_whom_it_is_shown_are_test_patients(explained: Path) -> None:
    far = next(p for p in read_json(explained / "local" / "explain" / "explain.json")["parts"] if p["name"] == "far")
    test = load_run(explained).manifest.patients("test")
    assert 0 < len(test) < 40 and f"nearest of {len(test)} test patients" in far["caption"]


def test_nothing_of_a_patient_reaches_what_is_made_from_the_generator_alone(
    explained: Path, trained: tuple[Path, Config], tmp_path: Path
) -> None:
    """With other patients' images and other labels in the same files, and with none at all, every byte is the same."""
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    source = Path(str(trained[1].data.root))
    before, kept = content(explained / "explain"), source.read_bytes()
    assert not any(SENTINEL.encode() in written for written in before.values())
    try:
        arrays = dict(np.load(source))
        np.savez(source, **(arrays | {"images": 255 - arrays["images"][::-1]}))
        explain_run(run_dir, trained[1])
        assert content(run_dir / "explain") == before
        assert content(run_dir / "local" / "explain") != content(explained / "local" / "explain")
        source.unlink()
        explain_run(run_dir, trained[1])
    finally:
        source.write_bytes(kept)
    assert content(run_dir / "explain") == before
    local = read_json(run_dir / "local" / "explain" / "explain.json")
    assert local["parts"] == [] and "cannot be read" in local["not_done"][0]["why"]


def test_the_public_report_shows_the_generator_alone_and_the_whole_one_both(explained: Path) -> None:
    whole, public = ((explained / name).read_text() for name in ("report.html", "report_public.html"))
    from imgsynth.report.figures import data_uri

    alone, local = content(explained / "explain"), content(explained / "local" / "explain")
    for name, picture in alone.items():
        if name.endswith(".png"):
            assert data_uri(picture, "image/png") in public and data_uri(picture, "image/png") in whole
    for name, picture in local.items():
        if name.endswith(".png"):
            assert data_uri(picture, "image/png") not in public and data_uri(picture, "image/png") in whole
    assert "What gives it away" in whole and "What gives it away" not in public and SENTINEL not in public
    for part in read_json(explained / "local" / "explain" / "explain.json")["parts"]:
        assert part["caption"] not in public and not any(line in public for line in part["lines"])


def test_what_was_explained_of_other_weights_is_not_shown(explained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(explained, tmp_path / "run"))
    for place in ("explain", "local/explain"):
        path = run_dir / place / "explain.json"
        path.write_text(path.read_text().replace(read_json(path)["of"], "0" * 64))
    write_report(run_dir)
    for name in ("report.html", "report_public.html"):
        assert "What the generator does</h2>" not in (run_dir / name).read_text()
    assert f"imgsynth explain output={run_dir}" in (run_dir / "report.html").read_text()


def test_of_a_run_that_is_not_releasable_nothing_is_outside_local(tmp_path: Path) -> None:
    cfg = configure(tmp_path, mode="none")
    cfg.explain.attributed = 0
    run_dir = train(cfg, Path(str(cfg.output)), model_factory(cfg.model))
    (run_dir / "explain").mkdir()  # of a time when it was releasable
    assert explain_run(run_dir, cfg) == run_dir / "local" / "explain" / "generator"
    assert not (run_dir / "explain").exists()
    assert read_json(run_dir / "local" / "explain" / "generator" / "explain.json")["scope"] == PRIVATE
    write_report(run_dir)
    assert "What the generator does</h2>" in (run_dir / "report.html").read_text()
    assert "What the generator does</h2>" not in (run_dir / "report_public.html").read_text()


def test_every_file_that_it_writes_is_on_the_list_of_what_saw_patients(explained: Path) -> None:
    names = [str(path.relative_to(explained)) for path in explained.rglob("*") if path.is_file()]
    saw = {name: output_of(name) for name in names}
    assert [name for name, output in saw.items() if output is None] == []
    kinds = {name.rpartition("/")[0]: output.saw for name, output in saw.items() if output and "explain" in name}
    assert kinds == {"explain": "charged", "local/explain": "local"}


def test_an_encoder_of_unknown_weights_is_refused(trained: tuple[Path, Config]) -> None:
    cfg = dataclasses.replace(trained[1], encoder=EncoderConfig("file", path="weights.onnx"))
    with pytest.raises(InputError, match="may have seen patients"):
        explain_run(trained[0], cfg)


def test_a_missing_package_and_a_private_encoder_are_both_said_before_any_work(
    trained: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "find_spec", lambda name: None)
    cfg = dataclasses.replace(trained[1], encoder=EncoderConfig("classifier"))
    with pytest.raises(InputError) as caught:
        explain_run(tmp_path / "nothing", cfg)
    assert [fault.where for fault in caught.value.faults] == ["explain.attributed", "encoder.name"]
    assert "imgsynth[explain]" in str(caught.value) and not list(tmp_path.iterdir())


def test_a_run_that_is_not_finished_is_refused(trained: tuple[Path, Config], tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    config = (run_dir / "config.json").read_text()
    (run_dir / "config.json").write_text(config.replace('"steps": 2', '"steps": 3'))
    with pytest.raises(InputError, match="trained to its end"):
        explain_run(run_dir, trained[1])
    assert not (run_dir / "explain").exists()
