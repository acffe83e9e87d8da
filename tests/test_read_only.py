"""A folder that may not be written: refused before any work, as an error with a remedy, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from imgsynth import config, pipeline
from imgsynth.privacy.ledger import Ledger
from imgsynth.types import InputError

NOBODY = 65534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _train_as_nobody(folder: Path, answer: Connection) -> None:
    if os.geteuid() == 0:  # to root, nothing is read-only
        os.setuid(NOBODY)
    os.environ["IMGSYNTH_LEDGER"] = str(folder / "ledger")
    overrides = [f"data.root={folder / 'images.npz'}", "data.patient=ids", f"output={folder / 'out' / 'run'}"]
    try:
        pipeline.train(config.from_overrides("train", ["data=npz", *overrides]))
        answer.send("trained")
    except InputError as error:
        answer.send(str(error))


@pytest.mark.skipif(os.name != "posix", reason="changes its user, which is POSIX's way")
def test_a_read_only_output_folder_is_refused_before_any_work(open_folder: Path) -> None:
    np.savez(open_folder / "images.npz", images=np.zeros((30, 16, 16), np.uint8), ids=np.arange(30))
    (open_folder / "out").mkdir(mode=0o555)
    (open_folder / "ledger").mkdir()
    (open_folder / "ledger").chmod(0o777)
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=_train_as_nobody, args=(open_folder, theirs))
    child.start()
    said = ours.recv() if ours.poll(120) else "no answer"
    child.join(10)
    assert "Permission denied" in said and "output" in said
    assert not list((open_folder / "out").iterdir())
    assert not list(Ledger(open_folder / "ledger").folder.iterdir())  # nothing was spent
