"""Copy check and re-identification on generators that copy on purpose, on real images.

    python benchmarks/copies.py DATA [--seeds 3] [--samples 300] [--shares 0 0.05 0.2]

DATA holds pneumoniamnist_28.npz and msd_hippocampus/. Train, holdout and others are drawn at random by seed. Of the
samples a share are copies of train images, each flipped along random axes (at least one) and shifted by 2 voxels,
with noise of sd 0.02; the rest are noisy images of people who are in none of the three. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from imgsynth.audit.copies import find_copies
from imgsynth.audit.reidentify import reidentify
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig


def pneumonia(folder: Path) -> np.ndarray:
    arrays = np.load(folder / "pneumoniamnist_28.npz")
    return arrays["train_images"][:, None].astype(np.float32) / 127.5 - 1


def hippocampus(folder: Path) -> np.ndarray:
    """Crops of 24×32×24 voxels around the middle, each stretched to [-1, 1] by its 1st and 99th percentile."""
    found = []
    for path in sorted((folder / "msd_hippocampus" / "imagesTr").glob("*.nii.gz")):
        x = np.asarray(nib.load(path).dataobj, np.float32)
        x = x[tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(x.shape, (24, 32, 24), strict=True))]
        if x.shape == (24, 32, 24):
            low, high = np.percentile(x, (1, 99))
            found.append(np.clip((x - low) / (high - low) * 2 - 1, -1, 1)[None])
    return np.stack(found)


def disguised(x_NC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    axes = range(1, x_NC.ndim - 1)
    subsets = [s for size in axes for s in itertools.combinations(axes, size)]
    moved = [
        np.roll(np.flip(x, subsets[random.integers(len(subsets))]), random.choice([-2, 2], x.ndim - 1), tuple(axes))
        for x in x_NC
    ]
    return np.stack(moved) if moved else x_NC


def trial(x_NC: np.ndarray, sizes: tuple[int, int, int], share: float, n: int, seed: int) -> dict[str, dict]:
    random = np.random.default_rng(seed)
    order = random.permutation(len(x_NC))
    train, holdout, others, strangers = np.split(order, np.cumsum(sizes))

    def people(index: np.ndarray) -> Images:
        return Images(x_NC[index], np.zeros(len(index), int), np.array([f"p{i:05d}" for i in index]))

    made = x_NC[random.choice(strangers, n)]
    copied = np.flatnonzero(random.random(n) < share)
    made[copied] = disguised(x_NC[random.choice(train, len(copied))], random)
    made = made + 0.02 * random.standard_normal(made.shape).astype(np.float32)
    samples = synthetic_images(made, np.zeros(n, int))
    settings = AuditConfig(bootstrap=200, seed=seed)
    began = time.monotonic()
    found = find_copies(samples, people(train), people(holdout), settings)
    seconds = time.monotonic() - began
    again = reidentify(samples, people(train), people(holdout), people(others), settings)
    return {"copies": found, "again": again, "seconds": {"copies": seconds}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.05, 0.2])
    asked = parser.parse_args()
    print("| data | copied | seed | plain caught | plain share (by chance) | invariant caught "
          "| memorised, train − holdout "
          "| re-identified, train − holdout | recognised | s |\n" + "|---" * 10 + "|")  # fmt: skip
    sources = (("PneumoniaMNIST 28²", pneumonia, (300, 100, 200)), ("hippocampus 24×32×24", hippocampus, (60, 30, 64)))
    for name, load, sizes in sources:
        x_NC = load(asked.data)
        for share, seed in itertools.product(asked.shares, range(asked.seeds)):
            found = trial(x_NC, sizes, share, asked.samples, seed)
            plain, again = found["copies"], found["again"]
            invariant = plain["invariant"]
            memorised = invariant["memorised"]
            print(f"| {name} | {share:.0%} | {seed} | {'yes' if plain['caught'] else 'no'} | {plain['share']:.2f} "
                  f"({plain['chance']['low']:.2f} to {plain['chance']['high']:.2f}, p = {plain['chance']['p']:.2g}) "
                  f"| {'yes' if invariant['caught'] else 'no'} "
                  f"| {memorised['excess']:+.2f} [{memorised['low']:+.2f}, {memorised['high']:+.2f}] "
                  f"| {again['excess']:+.2f} [{again['low']:+.2f}, {again['high']:+.2f}] "
                  f"| {again['recognised']:.2f} | {found['seconds']['copies']:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
