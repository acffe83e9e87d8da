"""Time releases at scale: python benchmarks/generation.py [--images 10000] [--volumes 500] [--folder DIR]

For 10,000 radiographs of 64² and 500 CT volumes of 64³, from a VAE that was trained for three steps on random images
(what the images look like changes little of how long they take), each as DICOM and NIfTI:
- one process that makes and writes one image after the other, and as many writers as there are cores;
- with these a quarter of the size too, for the memory that the size costs;
- the share of writing in the time of one process, and `imgsynth verify` of the release.

Each measurement is a process of its own. Prints a table in Markdown: wall seconds, processor seconds (starting Python
included), images a second, the largest resident memory of the process that samples and of a writer. Seeds are fixed.
Beside other work, wall seconds say little; processor seconds then are what an idle machine would share among its cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {
    "64²": ["data.modality=DX", "preprocess=radiograph", "preprocess.shape=[64,64]"],
    "64³": ["data.modality=CT", "preprocess=ct", "preprocess.shape=[64,64,64]", "preprocess.spacing=[6,6,6]"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="2D images of a release")
    parser.add_argument("--volumes", type=int, default=500, help="3D volumes of a release")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "N", "WRITERS"), help="one measurement, as JSON")
    parser.add_argument("--train", nargs=2, metavar=("FOLDER", "KIND"), help="make the run to measure with")
    asked = parser.parse_args()
    if asked.one is not None:
        folder, n, writers = asked.one
        print(json.dumps(measure(Path(folder) / "run", int(n), int(writers))))
        return
    if asked.train is not None:
        train(Path(asked.train[0]), asked.train[1])
        print("{}")
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start\n")
        print("| images | n | what | wall s | processor s | images/s | memory MB | of a writer MB | writing |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        todo = [("64³", asked.volumes), ("64²", asked.images)]
        runs = {kind: Path(folder) / f"run{number}" for number, (kind, _) in enumerate(todo)}
        for kind, n in todo:
            ask("--train", runs[kind], kind)
            cores = len(os.sched_getaffinity(0))
            for size, writers in ((n // 4, cores), (n, 1), (n, cores)):
                row(kind, size, f"{writers} writer{'s' * (writers > 1)}", ask("--one", runs[kind], size, writers))
        for kind, n in todo:
            row(kind, n, "verify", ask("--one", runs[kind], n, 0))


def train(folder: Path, kind: str) -> None:
    """A finished run on random images."""
    from imgsynth import config, pipeline

    shape = (20, 64, 64) if kind == "64²" else (20, 64, 64, 64)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    folder.mkdir()
    np.savez(folder / "images.npz", images=images, ids=np.arange(20))
    source = ["data=npz", f"data.root={folder / 'images.npz'}", "data.patient=ids", *KINDS[kind]]
    few = ["trainer.steps=3", "privacy.batch_patients=4", "privacy.delta=1e-3", "trainer.device=cpu"]
    pipeline.train(
        config.from_overrides(
            "train", [*source, *few, f"output={folder / 'run'}", f"privacy.ledger={folder / 'ledger'}"]
        )
    )


def ask(what: str, *arguments: object) -> dict[str, Any]:
    """This script's answer to ``what``, from a process of its own."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def measure(run: Path, n: int, writers: int) -> dict[str, Any]:
    """Sample ``n`` with ``writers``, or verify what is there where that is 0; seconds and megabytes."""
    from imgsynth.release import writers as pool
    from imgsynth.release.sample import sample_release
    from imgsynth.release.verify import verify_release
    from imgsynth.training.run import load_run

    cfg = load_run(run).config
    sample = dataclasses.replace(cfg.sample, n=n, writers=max(writers, 1), seed=0)
    written = [0.0]
    write = pool.Recipe.write

    def timed(self: pool.Recipe, sampled: pool.Sampled) -> pool.Written:
        start = time.perf_counter()
        done = write(self, sampled)
        written[0] += time.perf_counter() - start
        return done

    if writers == 1:
        pool.Recipe.write = timed  # type: ignore[method-assign]
    largest = watch_children()
    start = time.perf_counter()
    if writers:
        sample_release(run, dataclasses.replace(cfg, sample=sample))
    else:
        verify_release(run / "release")
    wall = time.perf_counter() - start
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall": wall,
        "processor": sum(usage.ru_utime + usage.ru_stime for usage in (own, children)),
        "memory": peak("self"),
        "writer": largest(),
        "share": written[0] / wall if writers == 1 else None,
    }


def watch_children() -> Callable[[], float]:
    """A function that says the largest memory that any child had, looked at ten times a second."""
    most = [0.0]

    def look() -> None:
        while True:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            most[0] = max([most[0], *map(peak, children)])
            time.sleep(0.1)

    threading.Thread(target=look, daemon=True).start()
    return lambda: most[0]


def peak(process: str) -> float:
    """The largest resident memory of a process so far, in MB: ``ru_maxrss`` would count what ran before its exec."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


def row(kind: str, n: int, what: str, found: dict[str, Any]) -> None:
    writer = f"{found['writer']:.0f}" if found["writer"] else ""
    share = "" if found["share"] is None else f"{found['share']:.0%}"
    print(f"| {kind} | {n} | {what} | {found['wall']:.0f} | {found['processor']:.0f} | {n / found['wall']:.0f} | "
          f"{found['memory']:.0f} | {writer} | {share} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
