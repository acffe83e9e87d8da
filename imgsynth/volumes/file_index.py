"""What was learnt of each file of a source, kept from one run to the next: an SQLite file in the user's cache.

LOCAL ONLY. It holds what the readers keep of headers (patient ids, sex, age, site, UIDs, geometry: the allow-list of
``dicom_header``), file names and content digests, and no pixels. Only its owner can read it; it lies outside of the
source and of every run, and may be deleted at any time, when the next run reads all files again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pydicom

from imgsynth.console import track, warn
from imgsynth.files import sha256
from imgsynth.volumes.archives import on_disk
from imgsynth.volumes.file_tree import FileTree
from imgsynth.volumes.local_cache import cache_folder
from imgsynth.volumes.parallel import in_chunks

Read = Callable[[Path, str], str]

_TABLES = ("entries", "digests")
_COMMIT_EVERY = 1.0  # seconds: what a killed run loses at most
_FRESH = 2 * 10**9  # ns: a file changed so shortly ago could change again without showing it in a coarse date


class FileIndex:
    """The memory of one source's files. A file counts as known while its size and both its dates are the same.

    ``read_now`` counts the files that had to be read since this object was made.
    """

    def __init__(self, root: Path):
        self.path = cache_folder("index", root).with_suffix(".sqlite")
        self.read_now = 0
        self._checked = False

    def entries(self, tree: FileTree, read: Read, what: str) -> list[str]:
        """``read(root, name)`` of every file, in the order of ``tree.files``, remembered where the file is the same.

        ``read`` must be a function of a module. A run that was killed goes on where it stopped, but for its last
        second. Files that are gone are forgotten.
        """
        return self._known("entries", tree, list(tree.files), functools.partial(_read_all, read, tree.root), what)

    def digests(self, tree: FileTree, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the contents of these files of the tree, by name."""
        wanted = list(dict.fromkeys(names))
        found = self._known("digests", tree, wanted, functools.partial(_hash_all, tree.root), "Hashing files")
        return dict(zip(wanted, found, strict=True))

    def whole(self, tree: FileTree) -> str | None:
        """What was remembered of the source as a whole, if not one of its files has changed since."""
        with closing(self._open()) as store:
            row = store.execute("SELECT value FROM whole WHERE state = ?", (_state(tree),)).fetchone()
            return None if row is None else str(row[0])

    def remember_whole(self, tree: FileTree, value: str) -> None:
        if any(stamp.modified > time.time_ns() - _FRESH for stamp in tree.files.values()):
            return
        with closing(self._open()) as store:
            store.execute("DELETE FROM whole")
            store.execute("INSERT INTO whole VALUES (?, ?)", (_state(tree), value))
            store.commit()

    def _known(
        self, table: str, tree: FileTree, names: list[str], work: Callable[[Sequence[str]], list[str]], what: str
    ) -> list[str]:
        with closing(self._open()) as store:
            known = {}
            gone = []
            for name, size, modified, changed, value in store.execute(f"SELECT * FROM {table}"):
                stamp = tree.files.get(name)
                if stamp is None:
                    gone.append((name,))
                elif (stamp.size, stamp.modified, stamp.changed) == (size, modified, changed):
                    known[name] = value
            store.executemany(f"DELETE FROM {table} WHERE name = ?", gone)
            if gone:
                store.execute("DELETE FROM whole")
            new = [name for name in names if name not in known]
            self.read_now += len(new)
            now, saved = time.time_ns(), time.monotonic()
            with_progress = iter(track(new, what))
            for chunk, values in in_chunks(work, new):
                rows = []
                for name, value in zip(chunk, values, strict=True):
                    next(with_progress)
                    known[name] = value
                    stamp = tree.files[name]
                    if stamp.modified < now - _FRESH:
                        rows.append((name, stamp.size, stamp.modified, stamp.changed, value))
                store.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)", rows)
                if time.monotonic() > saved + _COMMIT_EVERY:
                    store.commit()
                    saved = time.monotonic()
            store.commit()
        return [known[name] for name in names]

    def _open(self) -> sqlite3.Connection:
        """The index on disk; a new one where it is damaged; one in memory where nothing can be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self.path.chmod(0o600)  # also one that was made otherwise
            try:
                store = _prepared(sqlite3.connect(self.path, timeout=60), check=not self._checked)
            except sqlite3.OperationalError:  # locked, or a full disk: not damaged
                raise
            except sqlite3.DatabaseError:
                self.path.write_bytes(b"")
                store = _prepared(sqlite3.connect(self.path, timeout=60))
            self._checked = True
            return store
        except (OSError, sqlite3.OperationalError) as error:
            warn(f"no index of files can be kept at {self.path} ({error}): the next run reads all of them again")
            return _prepared(sqlite3.connect(":memory:"))


def _prepared(store: sqlite3.Connection, check: bool = False) -> sqlite3.Connection:
    """Tables for this state of the readers: entries that others made are dropped, digests stay.

    Raises sqlite3.DatabaseError where the file is damaged, which ``check`` looks for.
    """
    if check and store.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("damaged")
    store.execute("PRAGMA synchronous = NORMAL")
    for table in _TABLES:
        store.execute(f"CREATE TABLE IF NOT EXISTS {table} (name TEXT PRIMARY KEY, size INTEGER, modified INTEGER, "
                      "changed INTEGER, value TEXT) WITHOUT ROWID")  # fmt: skip
    store.execute("CREATE TABLE IF NOT EXISTS whole (state TEXT PRIMARY KEY, value TEXT)")
    store.execute("CREATE TABLE IF NOT EXISTS readers (source TEXT PRIMARY KEY)")
    if list(store.execute("SELECT source FROM readers")) != [(_readers(),)]:
        store.execute("DELETE FROM entries")
        store.execute("DELETE FROM whole")
        store.execute("DELETE FROM readers")
        store.execute("INSERT INTO readers VALUES (?)", (_readers(),))
    store.commit()
    return store


def _state(tree: FileTree) -> str:
    """A hash of all that is known of a source from outside, and of the faults of its listing."""
    lines = [f"{name}\0{s.size} {s.modified} {s.changed}" for name, s in tree.files.items()]
    return hashlib.sha256("\n".join([*lines, *map(str, tree.faults)]).encode()).hexdigest()


@functools.cache
def _readers() -> str:
    """The code that reads files, as it is: an entry that other code made is not trusted."""
    source = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(source + pydicom.__version__.encode()).hexdigest()


def _read_all(read: Read, root: Path, names: Sequence[str]) -> list[str]:
    return [read(root, name) for name in names]


def _hash_all(root: Path, names: Sequence[str]) -> list[str]:
    return [sha256(on_disk(root / name)) for name in names]
