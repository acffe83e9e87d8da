"""How far each run has published, so that no older state of it, and no copy, publishes other steps on the same spend.

Every checkpoint has a token, drawn at random. The ledger keeps the last one of each run, and takes the next only from
whoever has that one. It is a table beside the records, with one row for a run that is written over: what is spent does
not depend on it, and a run of a million steps must not make the ledger long.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

TABLE = "CREATE TABLE IF NOT EXISTS published (run TEXT PRIMARY KEY, step INTEGER NOT NULL, token TEXT NOT NULL)"


@dataclass(frozen=True)
class Published:
    """The last checkpoint of a run that was, or is about to be, put in place."""

    step: int
    token: str


def last_published(connection: sqlite3.Connection, run: str) -> Published | None:
    row = connection.execute("SELECT step, token FROM published WHERE run = ?", (run,)).fetchone()
    return None if row is None else Published(*row)


def put_published(connection: sqlite3.Connection, run: str, new: Published) -> None:
    connection.execute("INSERT OR REPLACE INTO published VALUES (?, ?, ?)", (run, new.step, new.token))
