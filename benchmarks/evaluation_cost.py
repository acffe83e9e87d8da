"""What an evaluation costs, part by part: python benchmarks/evaluation_cost.py [--images 10000] [--volumes 500]

As many real test, real train and synthetic images, of 64² with EfficientNet-Lite0 and of 64³ with its three planes, in
two classes: smooth seeded noise, as the cost hardly depends on what is in them. All that `imgsynth evaluate` measures
by default, with samples of noised class means among the rivals; `--dp-sgd` adds the time of a DP-SGD step of its
classifier. A quarter and a half of the size are measured too, for the memory that the size costs (`--steps 1 --seeds 1`
is enough for that).

Each size is a process of its own. Prints Markdown: wall and processor seconds by part (which a busy machine does not
lengthen by much), and the peak of resident memory above what was there before the images were made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from imgsynth import console
from imgsynth.evaluate.dp_classifier import Losses, classifier_plan
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.run import evaluate
from imgsynth.evaluate.utility import Rivals
from imgsynth.measure import small_cnn
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, stored_as, synthetic_images
from imgsynth.measure.small_cnn import SmallCNN
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import make_plan
from imgsynth.privacy.step import private_step
from imgsynth.schema import EvaluateConfig, PrivacyConfig
from imgsynth.types import Grid, PatientBatch

SHAPES = {"64²": (64, 64), "64³": (64, 64, 64)}
PARTS: dict[str, list[float]] = {}  # wall and processor seconds by part
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="2D images on each side; 0: none")
    parser.add_argument("--volumes", type=int, default=500, help="3D volumes on each side; 0: none")
    parser.add_argument("--encoder", default="efficientnet_lite")
    parser.add_argument("--seeds", type=int, default=EvaluateConfig().classifier_seeds)
    parser.add_argument("--steps", type=int, help="of training a network; as many as it takes")
    parser.add_argument("--dp-sgd", action="store_true", help="a DP-SGD step of each size too")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help="one measurement, as JSON")
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(measure(asked.one[0], int(asked.one[1]), asked)))
        return
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start, {asked.encoder}, "
          f"{asked.seeds} seeds, {asked.steps or 'all'} steps of a network\n")  # fmt: skip
    for kind, most in (("64²", asked.images), ("64³", asked.volumes)):
        for n in (most // 4, most // 2, most) if most else ():
            settings = {"--encoder": asked.encoder, "--seeds": asked.seeds, "--steps": asked.steps}
            rest = [str(word) for pair in settings.items() if pair[1] is not None for word in pair]
            rest += ["--dp-sgd"] * asked.dp_sgd
            command = [sys.executable, __file__, *rest, "--one", kind, str(n)]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            show(kind, n, json.loads(said.splitlines()[-1]))


def show(kind: str, n: int, found: dict[str, Any]) -> None:
    print(f"{kind}, {n} on each side: {found['wall']:.0f} s, {found['processor']:.0f} s of processor; peak "
          f"{found['peak']:.0f} MB, of which images {found['images']:.0f} MB\n")  # fmt: skip
    print("| part | wall s | processor s |\n|---|---|---|")
    for part in dict.fromkeys(name.split(":")[0] for name in found["parts"]):
        wall, processor = np.sum(
            [spent for name, spent in found["parts"].items() if name.split(":")[0] == part], axis=0
        )
        print(f"| {part} | {wall:.1f} | {processor:.1f} |")
    print(flush=True)


def measure(kind: str, n: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Evaluate ``n`` images against ``n``; seconds, and megabytes above those before there were images."""
    shape = SHAPES[kind]
    encoder = get_encoder(asked.encoder, len(shape), 0)
    encoder.encode(noise(2, shape, 9))  # what it takes once is no cost of n
    before = memory("VmRSS")
    y_N = np.arange(n) % 2
    train, test = (Images(noise(n, shape, i), y_N, np.array([f"{i}-{k:06d}" for k in range(n)])) for i in (1, 2))
    synthetic = synthetic_images(noise(n, shape, 3), y_N)
    trivial = synthetic_images(noise(n, shape, 4), y_N)
    images = memory("VmRSS") - before
    grid = Grid(shape, (1.0,) * len(shape), "PL" if len(shape) == 2 else "RAS", "CT", "HU", -1000.0, 600.0)
    settings = EvaluateConfig(classifier_seeds=asked.seeds)
    c = Comparison(train, test, synthetic, encoder, grid, settings.bootstrap, 0)
    console.each = timed  # type: ignore[assignment]
    if asked.steps is not None:
        small_cnn.STEPS = small_cnn.MOST_STEPS = asked.steps
    wall, processor = time.perf_counter(), time.process_time()
    evaluate(c, ["a", "b"], settings, Rivals(trivial))
    found = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor,
             "images": images, "peak": memory("VmHWM") - before}  # fmt: skip
    if asked.dp_sgd:
        dp_sgd_step(n, test)
    return found | {"parts": PARTS}


def noise(n: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Noise of 8 voxels a side, enlarged, with a little fine noise on top; odd ones are a little brighter."""
    random = torch.Generator().manual_seed(seed)
    x_NC = np.empty((n, 1, *shape), dtype=stored_as(n, shape) if seed > 2 else np.float32)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    for i in range(0, n, BATCH):
        m = min(BATCH, n - i)
        coarse = torch.rand((m, 1, *[8] * len(shape)), generator=random) * 1.6 - 0.9
        coarse += 0.1 * (torch.arange(i, i + m) % 2).view(-1, 1, *[1] * len(shape))
        x = F.interpolate(coarse, size=shape, mode=mode) + 0.05 * torch.randn((m, 1, *shape), generator=random)
        x_NC[i : i + m] = x.clamp(-1, 1).numpy()
    return x_NC


def timed(items: Sequence[Any], what: str) -> Iterator[Any]:
    """Stands in for ``console.each``, and writes down what each item took, without what is within it."""
    for item in items:
        inner = [sum(spent[i] for spent in PARTS.values()) for i in (0, 1)]
        wall, processor = time.perf_counter(), time.process_time()
        yield item
        now = time.perf_counter() - wall, time.process_time() - processor
        done = [sum(spent[i] for spent in PARTS.values()) for i in (0, 1)]
        spent = PARTS.setdefault(f"{what}: {item}", [0.0, 0.0])
        for i in (0, 1):
            spent[i] += now[i] - (done[i] - inner[i])
        print(f"{what}: {item}: {spent[0]:.1f} s, {spent[1]:.1f} s of processor", file=sys.stderr, flush=True)


def dp_sgd_step(n: int, images: Images) -> None:
    """One of the 200 steps for each seed of the classifier trained by DP-SGD."""
    run = make_plan(PrivacyConfig(epsilon=8.0, delta=1e-5), n=n, steps=100, images_per_patient=1, unit="patient")
    plan = classifier_plan(run, n, seed=0)
    p = round(plan.sampling_rate * n)
    losses = Losses(SmallCNN(images.x_NC.ndim - 2, 2))
    batch = PatientBatch(torch.from_numpy(images.x_NC[:p, None].astype(np.float32)),
                         torch.from_numpy(images.y_N[:p, None]), torch.ones(p, 1))  # fmt: skip
    for _ in timed([f"one of 200 × seeds steps, {p} patients"], "DP-SGD"):
        private_step(plan, get_engine(plan.engine, "float32"), losses, batch, (), None, NoiseSource(0))


def memory(line: str) -> float:
    """MB of ``line`` of /proc/self/status."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in status if text.startswith(line)) / 1e3


if __name__ == "__main__":
    main()
