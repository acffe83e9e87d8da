"""A private output that is drawn once on one spend, whatever is killed or copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgsynth.files import rename, sha256, write_json
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.published import Published
from imgsynth.training.disk import writing
from imgsynth.types import Fault, InputError


def draw_once(path: Path, ledger: Ledger, name: str, step: int, what: str, draw: Callable[[], dict[str, Any]]) -> None:
    """Write what ``draw`` gives as JSON to ``path``, where it is not there yet.

    In the way of checkpoints (``succession.py``): a draw is written whole beside ``path``, its hash is noted in the
    ledger under ``name``, and its file put in place. A draw that is on disk is used, and none is made where the ledger
    knows of one: InputError, which calls it ``what``.
    """
    if path.is_file():
        return
    drawn, known = path.with_suffix(".next.json"), ledger.published(name)
    if known is None and not drawn.is_file():
        made = draw()
        with writing(path.parent):
            write_json(drawn, made)
    if known is None:
        ledger.publish(name, Published(step, sha256(drawn)), after=None)
        known = ledger.published(name)
    if known is None or not drawn.is_file() or sha256(drawn) != known.token:
        raise InputError(
            Fault(str(path), f"no such file, of a run whose {what} was drawn in a copy of it",
                  "the file, which cannot be made twice on one spend",
                  "restore it from there, or begin in a new output=DIR (a new entry in the ledger)")
        )  # fmt: skip
    with writing(path.parent):
        rename(drawn, path)
