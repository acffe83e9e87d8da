"""Can the heart be told in synthetic phantoms? It lies to the patient's left of the midline; its mirror image is lung.

    python benchmarks/phantom_heart.py runs/phantoms

Prints mean HU of 200 samples where the phantoms' mean has heart but its mirror image has lung, and in that mirror
image: a generator that lost the heart, or flipped it, has no difference, or one of the wrong sign.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from imgsynth.measure.source import real_images
from imgsynth.release.generate import generate
from imgsynth.training.run import load_run


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run", type=Path)
    run = load_run(arguments.parse_args().run)
    assert run.grid.orientation == "RAS", "the first axis must run from left to right"
    phantoms = run.grid.to_intensity(real_images(run, "test", 200, 0).x_NC)[:, 0]
    samples = run.grid.to_intensity(generate(run, np.zeros(200, np.int64), torch.Generator().manual_seed(0)))[:, 0]
    mean = phantoms.mean(0)
    heart = (mean > 0) & (mean[::-1] < -400) & (np.arange(mean.shape[0]) < mean.shape[0] // 2)[:, None, None]
    for name, images in (("phantoms", phantoms), ("synthetic", samples)):
        left, right = images[:, heart].mean(1), images[:, ::-1][:, heart].mean(1)
        share = float((left > right).mean())
        print(
            f"{name}: heart {left.mean():.0f} HU, mirror image {right.mean():.0f} HU ({heart.sum()} voxels); "
            f"heart denser in {100 * share:.0f} % of {len(images)}"
        )


if __name__ == "__main__":
    main()
