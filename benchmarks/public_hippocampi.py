"""Public neighbours of the leaderboard's hippocampi: crops around both hippocampi of whole brains, as NIfTI.

    python benchmarks/public_hippocampi.py D/brain_t1w_2mm --to runs/public/brains

BRAINS has skull-stripped T1-weighted heads at 2 mm (OpenNeuro ds002748, CC0). Nobody drew masks in them: each crop
begins where the hippocampi of an average brain lie in its bounding box, right ones mirrored to left, and is then moved
by whole voxels to where it agrees best with the mean of all crops, three times over. Of ``--jitter`` crops of each side
all but one lie up to a voxel beside it, as raters' boxes do. A public run trained on them is what codegan, evolution,
latent_diffusion and latent_noise take (docs/results.md has its command).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.float32]
CROP = np.array([20, 28, 20])  # voxels of 2 mm: the boxes of Decathlon's Task04 and two voxels of margin
CENTRE = np.array([0.32, 0.5, 0.38])  # of the left hippocampus in a brain's bounding box, axes towards R, A, S
REACH = 4  # voxels that a crop may move to agree with the others


def main(brains: Path, to: Path, jitter: int, seed: int) -> None:
    """Writes sub-XX_{left,right}_K.nii.gz into ``to``."""
    rng = np.random.default_rng(seed)
    sides = [half for path in sorted(brains.glob("*.nii.gz")) for half in halves(path)]
    centres = agreed([image for _, image in sides])
    to.mkdir(parents=True)
    for (name, image), centre in zip(sides, centres, strict=True):
        for k in range(jitter):
            moved = centre + (rng.integers(-1, 2, 3) if k else 0)
            written = nib.Nifti1Image(np.round(crop(image, moved)).astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
            nib.save(written, to / f"{name}_{k}.nii.gz")
    print(f"{len(sides) * jitter} crops of {len(sides) // 2} brains in {to}")


def halves(path: Path) -> list[tuple[str, Voxels]]:
    """The brain within its bounding box, and its mirror image, in RAS+."""
    image = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj, dtype=np.float32)
    inside = np.argwhere(image > 10)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    brain = image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    name = path.name.split("_")[0]
    return [(f"{name}_left", brain), (f"{name}_right", brain[::-1])]


def crop(image: Voxels, centre: NDArray[np.int_]) -> Voxels:
    """CROP voxels about ``centre``, zero outside of the image."""
    low = centre - CROP // 2 + CROP
    padded = np.pad(image, [(int(n), int(n)) for n in CROP])
    return padded[tuple(slice(a, b) for a, b in zip(low, low + CROP, strict=True))]


def agreed(images: list[Voxels]) -> list[NDArray[np.int_]]:
    """The centre of each image's crop, so that it correlates best with the mean of all crops."""
    centres = [np.round(CENTRE * image.shape).astype(int) for image in images]
    first = [centre.copy() for centre in centres]
    steps = range(-REACH, REACH + 1)
    moves = [np.array([x, y, z]) for x in steps for y in steps for z in steps]
    for _ in range(3):
        mean = np.mean([standard(crop(*pair)) for pair in zip(images, centres, strict=True)], axis=0)
        for i, image in enumerate(images):
            wide = [first[i] + move for move in moves]
            centres[i] = max(wide, key=lambda centre: float((standard(crop(image, centre)) * mean).sum()))
    return centres


def standard(image: Voxels) -> Voxels:
    """With mean 0 and norm 1."""
    centred = image - image.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("brains", type=Path)
    parser.add_argument("--to", type=Path, default=Path("runs/public/brains"))
    parser.add_argument("--jitter", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not any(options.brains.glob("*.nii.gz")):
        parser.error(f"{options.brains}: expected a folder with whole brains as *.nii.gz")
    if options.to.exists():
        parser.error(f"{options.to} is there already: name another folder, or move it away")
    main(options.brains, options.to, options.jitter, options.seed)
