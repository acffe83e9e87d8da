"""Time the making of a phantom cohort: python benchmarks/phantoms.py [--patients 1000] [--size 32]

Prints wall and processor seconds, files and megabytes, and the milliseconds one rendering takes. On an idle machine
with 2 cores, 1,000 patients of 32³ should take well under a minute.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from imgsynth.cohort.phantom import make_phantoms
from imgsynth.cohort.phantom_export import draw_job
from imgsynth.cohort.phantom_plan import plan_cohort
from imgsynth.cohort.phantom_render import render
from imgsynth.schema import PhantomConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32)
    asked = parser.parse_args()
    config = PhantomConfig(patients=asked.patients, size=asked.size)

    drawn = [draw_job(job) for job in plan_cohort(config)[:20]]
    start = time.process_time()
    for anatomy, studies in drawn:
        render(anatomy, studies[0], config.size)
    print(
        f"one rendering at {config.size}³: {(time.process_time() - start) / len(drawn) * 1e3:.1f} ms of processor time"
    )

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        root = make_phantoms(Path(folder) / "phantoms", config)
        wall = time.perf_counter() - start
        sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(one.ru_utime + one.ru_stime for one in used)
    print(
        f"{config.patients} patients: {wall:.1f} s on {os.cpu_count()} cores ({processor:.1f} s of processor time, "
        f"load {os.getloadavg()[0]:.1f}), {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
