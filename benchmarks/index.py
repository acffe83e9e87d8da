"""How fast a DICOM export is indexed: python benchmarks/index.py [--patients 60] [--size 40] [--rounds 9]

On digital phantoms as a scanner's archive exports them, and on the same with a hundred more elements in each header
(sequences, private blocks), as scanners write them. A round does each of these once, in turn, so that a busy machine is
busy for all of them; the table has medians over rounds, of wall time and of processor time (workers' included):

  pydicom    dcmread(stop_before_pixels=True) of every file in a loop: no values converted, nothing kept
  index      nothing known: list, read headers on all cores, check, remember in SQLite, make series
  first      nothing known: index, and a digest of every file
  again      the same source, nothing changed

Run it on an idle machine; the table says what it ran on.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom import Dataset, Sequence, dcmread

from imgsynth.cohort.build_dicom import find_dicom
from imgsynth.cohort.phantom import make_phantoms
from imgsynth.schema import DataConfig, PhantomConfig
from imgsynth.volumes.dicom_index import read_dicom_tree
from imgsynth.volumes.file_index import FileIndex
from imgsynth.volumes.file_tree import list_files

LONG_AGO = 1_600_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--size", type=int, default=40, help="slices of a series, and rows and columns of a slice")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        config = PhantomConfig(patients=asked.patients, size=asked.size)
        plain = make_phantoms(Path(scratch) / "plain", config)
        long = lengthened(make_phantoms(Path(scratch) / "long", config))
        print(
            f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; "
            f"Python {platform.python_version()}, pydicom {pydicom.__version__}; medians of {asked.rounds} rounds"
        )
        for name, root in (("phantoms as exported", plain), ("with 100 more elements", long)):
            report(name, root, asked.rounds)


def lengthened(root: Path) -> Path:
    """Headers of some 130 elements: what phantoms leave out, and real scanners do not."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    for path in dicom_files(root):
        dataset = dcmread(path)
        dataset.ReferencedImageSequence = Sequence([item] * 3)
        for group in (0x0009, 0x0019, 0x0043):
            block = dataset.private_block(group, "BENCHMARK", create=True)
            for number in range(30):
                block.add_new(number, "LO", f"private value {number}")
        dataset.save_as(path)
    return root


def dicom_files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix in ("", ".dcm") and path.is_file()]


def report(name: str, root: Path, rounds: int) -> None:
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))  # files of this moment are not remembered
    paths, data = dicom_files(root), DataConfig(kind="dicom", root=str(root))

    def forget() -> None:
        FileIndex(root).path.unlink(missing_ok=True)

    works: dict[str, Callable[[], object]] = {
        "pydicom": lambda: deque((dcmread(path, stop_before_pixels=True) for path in paths), maxlen=0),
        "index": lambda: read_dicom_tree(list_files(root), FileIndex(root)),
        "first": lambda: find_dicom(data),
        "again": lambda: find_dicom(data),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for work, run in works.items():
            if work in ("index", "first"):
                forget()
            wall, processor = time.monotonic(), processor_time()
            run()
            seconds[work].append(time.monotonic() - wall)
            busy[work].append(processor_time() - processor)
    print(f"\n{name}: {len(paths)} files of {paths[0].stat().st_size} bytes")
    print("| | files/s | of pydicom | ms per file of processor time |\n|---|---|---|---|")
    for work in works:
        rates = [len(paths) / one for one in seconds[work]]
        ratio = statistics.median(a / b for a, b in zip(seconds["pydicom"], seconds[work], strict=True))
        print(f"| {work} | {statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) | {ratio:.2f} | "
              f"{statistics.median(busy[work]) / len(paths) * 1e3:.3f} |")  # fmt: skip
    shares = [a / f for a, f in zip(seconds["again"], seconds["first"], strict=True)]
    print(f"again takes {statistics.median(shares):.3f} of first (from {min(shares):.3f} to {max(shares):.3f})")


def processor_time() -> float:
    """Of this process and of the workers that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    main()
