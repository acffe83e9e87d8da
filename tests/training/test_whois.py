"""The way back from hashes to patients: with source and key, and not without."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgsynth import keyed, pipeline
from imgsynth.cohort.build import build_manifest
from imgsynth.files import write_json
from imgsynth.privacy.ledger import Ledger
from imgsynth.schema import Config
from imgsynth.training.run import load_run
from imgsynth.training.whois import whois
from imgsynth.types import InputError

Configure = Callable[..., Config]
Train = Callable[..., Path]


def test_source_and_key_say_who_a_hash_is(
    configure: Configure, train_run: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure("vae", trainer={"steps": 1})
    run, clear = train_run(cfg), build_manifest(cfg.data)[0]
    manifest = load_run(run).manifest
    found = whois(run)
    assert list(found.values()) == sorted(clear.patients()) and set(found) == set(manifest.patients())
    of_image = {item.digest: item.patient for item in clear.items}
    assert all(found[item.patient] == of_image[item.digest] for item in manifest.items)
    assert [item.split for item in manifest.items] == [item.split for item in clear.items]
    two = manifest.patients()[3], manifest.patients()[7]
    assert pipeline.whois(run, [two[1][:10]]) == {two[1]: found[two[1]]}
    write_json(run / "local" / "patients_at_risk.json", list(two))
    assert pipeline.whois(run) == {name: found[name] for name in two}
    assert found[two[0]] in capsys.readouterr().out
    with pytest.raises(InputError, match="hash: got zz;"):
        pipeline.whois(run, ["zz"])


def test_neither_without_the_key_nor_without_the_source(configure: Configure, train_run: Train, tmp_path: Path) -> None:
    shutil.copy(str(configure("vae").data.root), tmp_path / "own.npz")
    cfg = configure("vae", trainer={"steps": 1}, privacy={"ledger": None}, data={"root": str(tmp_path / "own.npz")})
    run = train_run(cfg)
    with pytest.raises(InputError, match="the folder of a run"):
        whois(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGSYNTH_LEDGER", str(tmp_path / "other"))
        patch.setattr(keyed, "fresh_key", lambda: bytes(keyed.KEY_WIDTH))
        with pytest.raises(InputError, match="another key"):
            whois(run)
    (tmp_path / "own.npz").unlink()
    with pytest.raises(InputError, match=r"data\.root"):
        whois(run)


def test_what_a_run_keeps_of_ids_is_in_one_local_file(configure: Configure, train_run: Train, tmp_path: Path) -> None:
    """An npz whose ids, array and folder are sentinels: none is in any file but configuration and local/files.json."""
    cfg = configure("vae", trainer={"steps": 2})
    arrays = dict(np.load(str(cfg.data.root)))
    folder = tmp_path / "ZQXJ-folder"
    folder.mkdir()
    arrays["ZQXJ-array"] = arrays.pop("images")
    arrays["patient_ids"] = np.array([f"ZQXJ-{one}" for one in arrays["patient_ids"]])
    np.savez(folder / "ZQXJ-file.npz", **arrays)
    data = dataclasses.replace(cfg.data, root=str(folder / "ZQXJ-file.npz"), images="ZQXJ-array")
    run = train_run(dataclasses.replace(cfg, data=data))
    holding = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and b"ZQXJ" in p.read_bytes()}
    assert holding == {"config.json", "local/files.json"}
    key = Ledger(cfg.privacy.ledger).key()
    assert key not in b"".join(p.read_bytes() for p in run.rglob("*") if p.is_file())
    assert key.hex() not in "".join(p.read_text(errors="replace") for p in run.rglob("*") if p.is_file())
