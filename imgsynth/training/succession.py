"""The one line of a run's checkpoints: each follows the one before, in one folder, whatever is killed or copied.

The ledger knows the token of the checkpoint that was published last (``privacy/published.py``). A checkpoint is
published in three steps, each on disk for good before the next:

| written                                | killed after it, the same command                                    |
|----------------------------------------|----------------------------------------------------------------------|
| ``next.pt``, whole                     | has its token recorded and puts it in place, if none came in between |
| its token, in the ledger               | puts it in place                                                     |
| ``last.pt``: ``next.pt`` under its name | goes on from it                                                      |

so that steps which were ever on disk whole are not taken a second time. Who goes on from any other checkpoint than the
one that the ledger knows is refused: of two copies of a folder the one that publishes first takes the run over.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from imgsynth.files import rename
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.published import Published
from imgsynth.training.checkpoint import load_checkpoint, save_checkpoint
from imgsynth.training.disk import writing
from imgsynth.training.folder import RunFolder


class Succession:
    """Publishes and restores the checkpoints of ``run``, whose entry is in ``ledger``."""

    def __init__(self, folder: RunFolder, ledger: Ledger, run: str):
        self._folder, self._ledger, self._run = folder, ledger, run
        self._token: str | None = None  # of the checkpoint that is in place

    def publish(self, content: dict[str, Any]) -> None:
        """Put ``content``, which has a state with a step, in the place of the last checkpoint. Raises InputError, with
        nothing published, when another copy of the run has published since, or when disk or ledger refuse."""
        following = {**content, "token": secrets.token_hex(16), "after": self._token}
        with writing(self._folder.root):
            save_checkpoint(self._folder.next_checkpoint, following)
        self._record(following)
        self._put_in_place(following)

    def restore(self) -> dict[str, Any] | None:
        """The content of the checkpoint to go on from; None where nothing was published yet. Raises InputError when the
        ledger knows of another."""
        last = self._ledger.published(self._run)
        known = None if last is None else last.token
        waiting = _load(self._folder.next_checkpoint)
        if waiting is not None and waiting["after"] == known:
            self._record(waiting)
            known = waiting["token"]
        if waiting is not None and waiting["token"] == known:
            self._put_in_place(waiting)
        content = _load(self._folder.checkpoint)
        self._token = None if content is None else content.get("token")  # those of earlier versions have none
        if self._token != known:
            self._folder.refuse_succeeded(None if content is None else content["state"]["step"], last)
        with writing(self._folder.root):
            self._folder.next_checkpoint.unlink(missing_ok=True)  # it does not follow what is in place
        return content

    def _record(self, following: dict[str, Any]) -> None:
        new = Published(following["state"]["step"], following["token"])
        if not self._ledger.publish(self._run, new, after=following["after"]):
            self._folder.refuse_succeeded(new.step, self._ledger.published(self._run))

    def _put_in_place(self, following: dict[str, Any]) -> None:
        with writing(self._folder.root):
            rename(self._folder.next_checkpoint, self._folder.checkpoint)
        self._token = following["token"]


def _load(path: Path) -> dict[str, Any] | None:
    return load_checkpoint(path) if path.is_file() else None
