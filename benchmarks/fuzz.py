"""Read thousands of broken files: python benchmarks/fuzz.py [--files 2000] [--first 0]

Each file is made from its number (fuzz_files.py), written, and read in a process that does nothing else, as a cohort's
files are: indexed, and read if the index says that it can be. Asked of each: no crash and no error but a refusal, which
names the file; no more than 5 seconds; no more than 1 GB over what the program takes by itself. The last line counts,
and the exit code is 1 if a file failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz_files import BOMBS, fuzzed, sound

from imgsynth.types import InputError
from imgsynth.volumes.dicom_index import read_dicom_folder
from imgsynth.volumes.dicom_read import read_dicom_series
from imgsynth.volumes.nifti import read_nifti

__all__ = ["BOMBS", "Outcome", "fuzzed", "read_all", "sound"]

MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30


@dataclass
class Outcome:
    name: str
    what: str  # read, refused, passed over; or what went wrong
    seconds: float
    memory: int  # bytes over what the process had before its first file

    @property
    def failed(self) -> bool:
        fine = self.what in ("read", "refused", "passed over")
        return not fine or self.seconds > MOST_SECONDS or self.memory > MOST_BYTES


def read_all(numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
    """One outcome for each file; a process that dies or hangs is replaced, and its file has failed."""
    left = list(numbers)
    while left:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_read_in_turn, args=(left, folder, theirs))
        process.start()
        theirs.close()
        while left:
            started = time.monotonic()
            if not ours.poll(60):
                process.kill()
                outcome = Outcome(fuzzed(left[0])[0], "hang", time.monotonic() - started, 0)
            else:
                try:
                    outcome = ours.recv()
                except EOFError:
                    process.join()
                    outcome = Outcome(fuzzed(left[0])[0], f"crash (exit code {process.exitcode})", 0.0, 0)
            left.pop(0)
            yield outcome
            if outcome.what.startswith(("hang", "crash")):
                break
        process.join()


def _read_in_turn(numbers: Sequence[int], folder: Path, answers: Connection) -> None:
    before = None
    for number in numbers:
        name, data = fuzzed(number)
        path = folder / f"{number:05d}" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        del data
        before = _peak() if before is None else before
        started = time.monotonic()
        what = _read(path)
        answers.send(Outcome(name, what, time.monotonic() - started, _peak() - before))
        path.unlink()


def _read(path: Path) -> str:
    """What became of the file; any error but an InputError that names it is a failure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read_dicom(path) if path.suffix == ".dcm" else _read_nifti(path)
    except InputError as error:
        return _refused(path, [fault.where for fault in error.faults])
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def _read_dicom(path: Path) -> str:
    index = read_dicom_folder(path.parent)
    for series in index.series:
        volume = read_dicom_series(series)
        assert volume.array.shape == series.shape
    if index.series:
        return "read"
    if index.passed_over:
        return "passed over"
    return _refused(path, [fault.where for fault in index.faults])


def _read_nifti(path: Path) -> str:
    assert read_nifti(path, "MR").array.size
    return "read"


def _refused(path: Path, where: Sequence[str]) -> str:
    return "refused" if where and all(path.name in one for one in where) else f"refused without its name: {where}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    asked = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(asked.first, asked.first + asked.files)
        outcomes = []
        for outcome in read_all(numbers, Path(folder)):
            outcomes.append(outcome)
            if outcome.failed:
                print(f"FAILED {outcome.name}: {outcome.what}, {outcome.seconds:.1f} s, {outcome.memory >> 20} MiB")
    counts = Counter(outcome.what if not outcome.failed else "failed" for outcome in outcomes)
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    print(f"{len(outcomes)} files: {dict(counts)}; slowest {slowest.seconds:.2f} s ({slowest.name}), most memory "
          f"{max(outcome.memory for outcome in outcomes) >> 20} MiB; {time.monotonic() - started:.0f} s in all, "
          f"{platform.machine()}, Python {platform.python_version()}")  # fmt: skip
    sys.exit(bool(counts["failed"]))


if __name__ == "__main__":
    main()
