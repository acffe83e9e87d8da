"""Zips as folders: unpacked once to the local cache, safely, and read from there under the names they had.

``/data/export.zip/scans/1.dcm`` is the member ``scans/1.dcm`` of the zip. In the cache it lies under a name made of a
hash, so that no name in a zip, however odd, leads anywhere. LOCAL ONLY: the cache then holds private images, in a
folder that its owner alone can enter. It is made again where it is missing or the zip has changed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from imgsynth.console import track
from imgsynth.files import write_text
from imgsynth.types import Fault, InputError
from imgsynth.volumes.limits import is_bomb
from imgsynth.volumes.local_cache import cache_folder

BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError,
          RuntimeError, IndexError, KeyError)  # fmt: skip
MOST_MEMBERS = 1_000_000
_BLOCK = 1 << 20


def on_disk(path: Path) -> Path:
    """Where the content of ``path`` lies: the path itself or, for a member of a zip, its unpacked copy.

    Raises InputError where a zip cannot be read.
    """
    if ".zip" not in str(path).lower() or path.exists():
        return path
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            member = path.relative_to(parent).as_posix()
            unpacked_members(parent)
            return _folder(parent) / _cached_name(member)
    return path


def unpacked_members(archive: Path) -> tuple[dict[str, int], tuple[Fault, ...]]:
    """The members of a zip that can be read, with their sizes in bytes, and the faults of those that cannot.

    When this returns they are in the cache. Raises InputError naming the zip: damaged, encrypted, or larger than it
    can honestly be.
    """
    status = archive.stat()
    return _unpacked(archive, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@functools.lru_cache(maxsize=64)
def _unpacked(archive: Path, stamp: tuple[int, int, int]) -> tuple[dict[str, int], tuple[Fault, ...]]:
    folder = _folder(archive)
    state = repr(stamp)
    done = folder / "unpacked"
    try:
        with zipfile.ZipFile(archive) as file:
            members, faults = _safe_members(file, archive)
            if not (done.is_file() and done.read_text() == state):
                _check_size(members, archive, folder)
                _unpack(file, members, archive, folder, state)
    except BROKEN as error:
        raise _fault(archive, f"a zip that cannot be read ({error})", "copy or make the zip again") from error
    return {name: info.file_size for name, info in members.items()}, tuple(faults)


def _safe_members(file: zipfile.ZipFile, archive: Path) -> tuple[dict[str, zipfile.ZipInfo], list[Fault]]:
    infos = [info for info in file.infolist() if not info.is_dir()]
    if len(infos) > MOST_MEMBERS:
        raise _fault(archive, f"a zip of {len(infos)} files", f"split it: at most {MOST_MEMBERS} in one")
    members: dict[str, zipfile.ZipInfo] = {}
    faults = []
    for info in infos:
        name = info.filename
        parts = PurePosixPath(name).parts
        if any(part.startswith(".") and part != ".." for part in parts) or "__MACOSX" in parts:
            continue  # hidden, as in a folder
        if problem := _problem(info, parts, name in members):
            shown = name.encode("utf-8", "backslashreplace").decode()
            faults.append(Fault(f"{archive}/{shown}", problem, "a plain file under a plain name",
                                "unpack the zip by hand and point data.root at the folder", "unsafe_zip",
                                (f"{archive}/{shown}",)))  # fmt: skip
        else:
            members[name] = info
    return members, faults


def _problem(info: zipfile.ZipInfo, parts: tuple[str, ...], known: bool) -> str | None:
    if info.filename.startswith(("/", "\\")) or ".." in parts or "\\" in info.filename or ":" in parts[0]:
        return "a path that leads out of the zip"
    if not info.filename.isprintable():
        return "a name with control characters"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link or device"
    if info.flag_bits & 1:
        return "an encrypted file"
    if info.filename.lower().endswith(".zip"):
        return "a zip within a zip"
    if known:
        return "a name that the zip has twice"
    if is_bomb(info.file_size, info.compress_size):
        return f"{info.compress_size} bytes that unpack to {info.file_size} (a decompression bomb)"
    return None


def _check_size(members: dict[str, zipfile.ZipInfo], archive: Path, folder: Path) -> None:
    claimed = sum(info.file_size for info in members.values())
    if is_bomb(claimed, archive.stat().st_size):
        raise _fault(archive, f"{archive.stat().st_size} bytes that unpack to {claimed} (a decompression bomb)",
                     "remove the zip")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    free = shutil.disk_usage(folder).free
    if claimed > free // 10 * 9:
        raise _fault(archive, f"{claimed >> 20} MiB when unpacked, of {free >> 20} MiB free at {folder}",
                     "unpack it where there is room, and point data.root there")  # fmt: skip


def _unpack(
    file: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], archive: Path, folder: Path, state: str
) -> None:
    """Unpack what is not there yet; a zip that has changed is unpacked anew, one that was interrupted goes on."""
    begun = folder / "begun"
    if not (begun.is_file() and begun.read_text() == state):
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        write_text(begun, state)
    for name, info in track(list(members.items()), f"Unpacking {archive.name}"):
        target = folder / _cached_name(name)
        if target.is_file():
            continue
        partial = target.with_suffix(f".{os.getpid()}.partial")
        try:
            with file.open(info) as source, partial.open("xb") as sink:
                partial.chmod(0o600)
                while block := source.read(_BLOCK):  # never more than the size that the zip states, which was checked
                    sink.write(block)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    write_text(folder / "unpacked", state)


def _cached_name(member: str) -> str:
    return hashlib.sha256(member.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _folder(archive: Path) -> Path:
    return cache_folder("unpacked", archive)


def _fault(archive: Path, got: str, remedy: str) -> InputError:
    return InputError(Fault(str(archive), got, "a zip of image files", remedy, "unsafe_zip", (str(archive),)))
