"""Patients shared among threads that each compute alone, where the vendor's kernel would share out every single one.

A convolution of one patient is too small to be split: the threads wait for each other longer than they work.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import torch
from threadpoolctl import ThreadpoolController


def for_each(work: Callable[[int], None], count: int, device: torch.device) -> None:
    """``work(0)`` … ``work(count - 1)``, on the CPU by as many threads as torch uses, each computing alone."""
    threads = min(processors(device), count)
    if threads < 2:
        for i in range(count):
            work(i)
        return

    def share(first: int) -> None:
        with torch.no_grad():
            for i in range(first, count, threads):
                work(i)

    shares = [_pool(os.getpid(), threads).submit(share, first) for first in range(threads)]
    wait(shares)  # all of them, also where one fails
    for done in shares:
        done.result()


def processors(device: torch.device) -> int:
    """How many threads ``for_each`` has; one within a thread of its own, where torch's number is one."""
    return torch.get_num_threads() if device.type == "cpu" and _openmp() else 1


@lru_cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of this process: a forked one has none of its parent's threads."""
    return ThreadPoolExecutor(threads, initializer=_alone)


def _alone() -> None:
    """This thread's own OpenMP setting, not torch's, which would be that of the whole process.

    torch sets it too, when a thread first asks for it; so that comes first. Were it left for later, every thread here
    would get helpers, more than there are processors, which wait for each other by spinning.
    """
    torch.get_num_threads()
    for library in _openmp():
        library.omp_set_num_threads(1)


@lru_cache
def _openmp() -> tuple[ctypes.CDLL, ...]:
    found = ThreadpoolController().select(user_api="openmp").lib_controllers
    return tuple(ctypes.CDLL(library.filepath) for library in found)
