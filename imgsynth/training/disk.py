"""Writes that fail for want of room or rights end in an InputError that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgsynth.types import Fault, InputError

# Reasons that lie with the disk and its owner. Any other OSError is a bug and keeps its traceback.
THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises InputError(Fault(folder, …)) when a write in the block fails because of the disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in THE_DISK:
            raise
        raise InputError(
            Fault(
                where=str(folder),
                got=f"'{error.strerror}' while writing",
                expected="a folder that can be written to, with room on its disk; nothing is left half-written",
                remedy="make room (or choose another output=DIR) and run the same command again: it goes on from the "
                "last checkpoint",
            )
        ) from error
