"""The same small work on many files, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 128
PARALLEL_FROM = 512  # files; below, starting processes costs more than it saves


def in_chunks(
    work: Callable[[Sequence[T]], R], tasks: Sequence[T], files_each: int = 1
) -> Iterator[tuple[Sequence[T], R]]:
    """Yield chunks of ``tasks`` in their order, with what ``work`` makes of each.

    Headers are parsed in Python, which threads would do one at a time: so these are processes. What a consumer has been
    given is done; where it stops, the rest is dropped. ``work`` must be a function of a module, or a partial of one.
    ``files_each``: how many files a task is, where it is more than one.
    """
    size = max(1, CHUNK // files_each)
    chunks = [tasks[n : n + size] for n in range(0, len(tasks), size)]
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)
    if len(tasks) * files_each < PARALLEL_FROM or workers == 1 or multiprocessing.current_process().daemon:
        for chunk in chunks:
            yield chunk, work(chunk)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent)
    try:
        yield from zip(chunks, pool.map(work, chunks), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
