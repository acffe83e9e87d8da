"""Run the cells one after another, each in a process of its own: what one leaks, breaks or fills, the next has not."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imgsynth import console
from imgsynth.files import read_json, write_json
from imgsynth.schema import Config
from imgsynth.sweep.cells import Cell, SweepFolder
from imgsynth.types import ImgsynthError

Work = Callable[[Config], object]


def work_through(
    cells: Sequence[tuple[Cell, Config]], folder: SweepFolder, work: Work, after: Callable[[], object]
) -> list[Cell]:
    """``work`` on the configuration of each cell; the cells that failed. ``after`` is called behind each of them.

    A cell that fails, or whose process dies, stops no other; why is in its failure file, and what it printed in its
    log. ``work`` must be importable by name. Ends with this process: no cell goes on alone.
    """
    failed = []
    for number, (cell, config) in enumerate(console.each([_Named(*pair) for pair in cells], "cells"), 1):
        console.say(f"[{number}/{len(cells)}] {cell.name}")
        if not _one(cell, config, folder, work):
            failed.append(cell)
            console.warn(f"{cell.name} failed: {why(folder, cell)} ({folder.log(cell)})")
        after()
    return failed


def why(folder: SweepFolder, cell: Cell) -> str:
    """In one line, what the cell's failure file says."""
    said = read_json(folder.failure(cell))
    faults = [f"{fault['where']}: got {fault['got']}, expected {fault['expected']}" for fault in said.get("faults", ())]
    return "; ".join(faults) or str(said["error"])


class _Named(tuple[Cell, Config]):
    """A pair that the progress bar shows by its cell's name."""

    def __new__(cls, cell: Cell, config: Config) -> _Named:
        return super().__new__(cls, (cell, config))

    def __str__(self) -> str:
        return self[0].name


def _one(cell: Cell, config: Config, folder: SweepFolder, work: Work) -> bool:
    failure, log = folder.failure(cell), folder.log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    failure.unlink(missing_ok=True)
    here = dict(os.environ), multiprocessing.get_start_method()
    process = _context().Process(target=_child, args=(work, config, log, failure, *here), name=cell.name)
    process.start()
    try:
        process.join()
    except BaseException:  # Ctrl-C: the cell stops with the sweep, and goes on with it
        process.terminate()
        process.join()
        raise
    if process.exitcode == 0:
        return True
    if not failure.is_file():
        ended = f"its process ended with code {process.exitcode} (-9: killed, for memory perhaps)"
        write_json(failure, {"error": ended})
    return False


def _context() -> Any:
    """Where there is a fork server, it has imported everything once and each cell begins at once; nothing else ever
    runs in it, so that no thread, device or memory of one cell is known to another."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imgsynth.pipeline"])
    return context


def _child(
    work: Work, config: Config, log: Path, failure: Path, environment: dict[str, str], start_method: str
) -> None:  # fmt: skip
    os.environ.clear()  # a fork server has those of when it began
    os.environ.update(environment)
    # Else this process would start its own by a fork server too, each of which imports everything again.
    multiprocessing.set_start_method(start_method, force=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    try:
        work(config)
    except ImgsynthError as error:
        write_json(failure, {"faults": [dataclasses.asdict(fault) for fault in error.faults]})
        sys.exit(error.exit_code)
    except Exception as error:  # whatever it is, it is this cell's; the whole of it is in the log
        traceback.print_exc()
        write_json(failure, {"error": "".join(traceback.format_exception_only(error)).strip()})
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
