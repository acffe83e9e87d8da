"""Whose data a run tells the ledger it will read, and what it says where others had read them before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgsynth.cohort.build import build_manifest
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.patients import hashes
from imgsynth.schema import Config, DataConfig, PhantomConfig
from imgsynth.training.members import members
from imgsynth.types import InputError

Configure = Callable[..., Config]
Train = Callable[..., Path]


def test_a_run_reads_the_patients_of_its_training_split_and_no_others(configure: Configure) -> None:
    data = configure("vae").data
    manifest, _ = build_manifest(data)
    assert members(manifest, data).ids == set(manifest.patients("train")) < set(manifest.patients())
    assert members(manifest, data).issuer is None
    assert members(manifest, dataclasses.replace(data, issuer="North")).issuer == "North"


def test_hashed_ids_are_the_members_that_ids_in_the_clear_are(configure: Configure) -> None:
    data, key = configure("vae").data, bytes(range(32))
    manifest, _ = build_manifest(data)
    told = members(manifest.hashed(key), data)
    assert not told.ids & set(manifest.patients())
    assert hashes(key, "patient", told) == hashes(key, "patient", members(manifest, data))
    content = dataclasses.replace(manifest, unit="image")
    assert members(content.hashed(key), data) == members(content, data)


def test_images_are_known_by_their_content_whoever_numbers_them(configure: Configure) -> None:
    data = dataclasses.replace(configure("vae").data, issuer="North")
    manifest = dataclasses.replace(build_manifest(data)[0], unit="image")
    told = members(manifest, data)
    assert told.ids == {item.digest for item in manifest.items if item.split == "train"} and told.issuer is None


def test_phantoms_are_numbered_by_what_makes_them(configure: Configure) -> None:
    manifest, _ = build_manifest(configure("vae").data)

    def issuer(issuer: str | None = None, **changes: int) -> str | None:
        data = DataConfig(kind="phantom", issuer=issuer, phantom=PhantomConfig(**changes))
        return members(manifest, data).issuer

    made = [issuer(), issuer(seed=1), issuer(size=64), issuer(patients=7)]
    assert len(set(made)) == 4 and all(str(one).startswith("imgsynth phantom") for one in made)
    assert issuer("North") == "North"


@pytest.fixture
def two_exports(configure: Configure, tmp_path: Path) -> tuple[Config, Config]:
    """The same 36 patients, exported again with other pixels; another cohort to whoever looks at content or name."""
    first = configure("vae", privacy={"seed": None})
    arrays = dict(np.load(str(first.data.root)))
    arrays["images"] = 255 - arrays["images"]
    np.savez(tmp_path / "again.npz", **arrays)
    return first, dataclasses.replace(first, data=dataclasses.replace(first.data, root=str(tmp_path / "again.npz")))


def test_the_same_patients_in_a_new_export_are_recognised_and_their_budget_holds(
    two_exports: tuple[Config, Config], train_run: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two_exports
    train_run(first, "first")
    assert "the ledger knows" not in capsys.readouterr().err
    ledger = Ledger(first.privacy.ledger)
    (cohort,) = ledger.cohorts()
    alone = ledger.composed_epsilon(cohort, 1e-2)
    strict = dataclasses.replace(second, privacy=dataclasses.replace(second.privacy, budget_epsilon=alone * 1.1))
    with pytest.raises(InputError, match=f"patients in common: .* with cohort {cohort}"):
        train_run(strict, "refused")
    train_run(second, "second")
    shared = ledger.shared(cohort)[0]
    total = ledger.composed_epsilon(cohort, 1e-2)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{shared.patients} with cohort {cohort} (runs" in said and f"ε = {total:.4g}" in said
    assert 0 < shared.patients <= 36 and total > 1.2 * alone
    train_run(second, "second")
    assert "the ledger knows" not in capsys.readouterr().err  # said once, when the run begins


def test_ids_of_another_issuer_are_other_patients(two_exports: tuple[Config, Config], train_run: Train) -> None:
    for name, cfg in zip(("North", "South"), two_exports, strict=True):
        train_run(dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, issuer=name)), name)
    ledger = Ledger(two_exports[0].privacy.ledger)
    assert [ledger.shared(cohort) for cohort in ledger.cohorts()] == [[], []]
