"""The ledger's file: SQLite in WAL mode, one writer at a time, in which records are only ever added.

| file             | what it is                                                              |
|------------------|-------------------------------------------------------------------------|
| `ledger.sqlite`  | table ``record``: what was opened, closed, decided; ``members``: of whom; |
|                  | ``published``: each run's last checkpoint, written over (``published.py``)|
| `ledger.end`     | where the records end (``chain.py``)                                    |
| `ledger.key`     | the secret under which patients are known (``patients.py``)             |

A commit is on disk when it returns (``synchronous=FULL``); SQLite undoes what a killed writer had begun.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from imgsynth.privacy import legacy
from imgsynth.privacy.chain import START, End, broken, link, read_end, verified, write_end
from imgsynth.privacy.entries import Account, read_account
from imgsynth.privacy.patients import digest, pack, unpack
from imgsynth.privacy.published import TABLE
from imgsynth.types import Fault, InputError

PATIENCE = 60.0  # seconds to wait for another writer, who may be computing a composed ε
_APPLICATION, _VERSION = 0x696D6773, 1  # SQLite's application_id ("imgs") and user_version
_TABLES = (
    "CREATE TABLE record (number INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL)",
    "CREATE TABLE members (digest TEXT PRIMARY KEY, patients BLOB NOT NULL)",
)


class Book:
    """One consistent state of the ledger, proven whole; within ``Store.writing`` it can be added to."""

    def __init__(self, connection: sqlite3.Connection, end: End | None, file: Path):
        self._connection, self._file = connection, file
        rows = connection.execute("SELECT number, body, hash FROM record ORDER BY number").fetchall()
        self.records = verified(rows, end, file)
        self._last = rows[-1][2] if rows else START

    @property
    def end(self) -> End:
        return End(len(self.records), self._last)

    @cached_property
    def account(self) -> Account:
        return read_account(self.records)

    @property
    def key_check(self) -> str | None:
        """Of the key that its patients are kept under; None where it has none."""
        return next((record["key"] for record in self.records if record.get("key")), None)

    def members(self, name: str) -> frozenset[bytes]:
        """The keyed hashes of a set of patients by its digest."""
        row = self._connection.execute("SELECT patients FROM members WHERE digest = ?", (name,)).fetchone()
        if row is None or digest(row[0]) != name:
            number = next(n for n, record in enumerate(self.records, 1) if record.get("patients") == name)
            raise broken(self._file, number, "patients of this record that were changed or lost")
        return unpack(row[0])

    def verify(self) -> None:
        """Everything, also what ordinary reading does not need; InputError."""
        for name in {record["patients"] for record in self.records if record.get("patients")}:
            self.members(name)
        (found,) = self._connection.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise broken(self._file, len(self.records), found)

    def append(self, record: dict[str, Any]) -> None:
        body, number = json.dumps(record, ensure_ascii=False, allow_nan=False), len(self.records) + 1
        self._last = link(self._last, number, body)
        self._connection.execute("INSERT INTO record VALUES (?, ?, ?)", (number, body, self._last))
        self.records.append(json.loads(body))
        self.__dict__.pop("account", None)

    def keep_members(self, members: frozenset[bytes]) -> str:
        """Their digest, under which they are kept from now on."""
        packed = pack(members)
        self._connection.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (digest(packed), packed))
        return digest(packed)


class Store:
    """The ledger's files in ``folder``. Raises InputError for whatever keeps it from being read or written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file, self.end, self.key = folder / "ledger.sqlite", folder / "ledger.end", folder / "ledger.key"

    @contextmanager
    def reading(self) -> Iterator[Book]:
        """A consistent state, whatever is being written meanwhile; holds nobody up. Files of an earlier version are
        imported first."""
        if legacy.pending(self.folder):
            with self.writing():
                pass
        with self.telling(), ExitStack() as open_files:
            while True:
                end = read_end(self.end)  # before the records: they may then be further, but not behind
                connection = open_files.enter_context(closing(self._connect_to_read()))
                connection.execute("BEGIN")
                if not self._is_ledger(connection):
                    connection = open_files.enter_context(closing(self._connect("file::memory:")))
                    self._make_tables(connection)
                if end is not None or read_end(self.end) is None:  # else it was begun in between: look again
                    break
            yield Book(connection, end, self.file)

    @contextmanager
    def writing(self) -> Iterator[Book]:
        """The ledger to oneself; what the block added is on disk for good when the block ends, and nothing of it is
        where the block raises or is killed."""
        with self.telling(), ExitStack() as old:
            self.folder.mkdir(parents=True, exist_ok=True)
            with closing(self._connect(f"{self.file.absolute().as_uri()}?mode=rwc")) as connection:
                _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))
                connection.execute("BEGIN IMMEDIATE")
                if not self._is_ledger(connection):
                    self._make_tables(connection)
                end = read_end(self.end)
                book = Book(connection, end, self.file)
                if end is None:
                    write_end(self.end, book.end)
                files = legacy.pending(self.folder)
                for file in files:
                    old.enter_context(legacy.locked(file))
                    _import(book, file)
                yield book
                connection.execute("COMMIT")
                self._confirm(connection)
                for file in files:
                    legacy.retire(file)

    @contextmanager
    def beside(self) -> Iterator[sqlite3.Connection]:
        """The database to oneself for what is no record (``published.py``); on disk for good when the block ends. It
        does not read the records, and so takes the same time however many there are."""
        with self.telling(), closing(self._connect(f"{self.file.absolute().as_uri()}?mode=rw")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not self._is_ledger(connection):
                raise broken(self.file, 1, "an empty database")
            connection.execute(TABLE)
            yield connection
            connection.execute("COMMIT")

    def _confirm(self, connection: sqlite3.Connection) -> None:
        """Note the end as it is now. Again under the lock, so that no process puts back what another has noted."""
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute("SELECT number, hash FROM record ORDER BY number DESC LIMIT 1").fetchone()
        if row is not None and End(*row) != read_end(self.end):
            write_end(self.end, End(*row))
        connection.execute("ROLLBACK")

    def _is_ledger(self, connection: sqlite3.Connection) -> bool:
        """False where there is nothing yet; InputError for what this version of imgsynth did not write."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if not tables and application == 0:
            return False
        if application != _APPLICATION or not {"record", "members"} <= tables:
            raise broken(self.file, 1, "a database that is no ledger of imgsynth, or has lost its tables")
        if version != _VERSION:
            expected = f"version {_VERSION}, which this imgsynth knows"
            raise InputError(Fault(f"ledger {self.file}", f"version {version}", expected, "a later imgsynth"))
        return True

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _connect_to_read(self) -> sqlite3.Connection:
        if not self.file.exists() or self.file.stat().st_size == 0:
            return self._connect("file::memory:")
        waiting = self.file.with_name(f"{self.file.name}-wal")
        if not os.access(self.folder, os.W_OK) and not waiting.exists():  # nobody writes: read it as it lies
            return self._connect(f"{self.file.absolute().as_uri()}?mode=ro&immutable=1")
        return self._connect(f"{self.file.absolute().as_uri()}?mode=rw")

    def _connect(self, uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # what is no text fails as what it is
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS, where fsync alone does not reach the disk
        return connection

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Errors of the disk and of SQLite, said as what they are."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            if "locked" in str(error):
                expected = f"the ledger free for a moment within {PATIENCE:g} s"
                remedy = "run it again when the other process is done with the ledger"
                raise InputError(Fault(f"ledger {self.folder}", str(error), expected, remedy)) from error
            remedy = "set privacy.ledger or $IMGSYNTH_LEDGER to a writable folder; without a ledger nothing runs"
            raise InputError(
                Fault(f"ledger {self.folder}", str(error), "a writable folder on a disk with room", remedy)
            ) from error
        except sqlite3.DatabaseError as error:
            raise broken(self.file, 1, str(error)) from error


def _import(book: Book, file: Path) -> None:
    """Take over a ledger of an earlier version, in the transaction of ``book``: all of it or nothing, and only once."""
    noted = [record for record in book.records if record["what"] == "import" and record["file"] == file.name]
    records, note = legacy.read(file, noted[-1] if noted else None)
    if noted and not records:
        return
    book.append(note)
    for record in records:
        known = book.account.of(record["cohort"]) if record["what"] == "open" else {}
        if record["what"] == "open" and record["run"] in known:  # it went on with the earlier version: spent once
            if known[record["run"]].event != read_account([record]).of(record["cohort"])[record["run"]].event:
                raise broken(file, 1, f"run {record['run']}, which is in {book._file.name} with another mechanism")
            continue
        book.append(record)


def _patiently(act: Callable[[], object]) -> None:
    """SQLite itself does not wait where several processes turn on WAL at once."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            act()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
