"""Which metric sees which fault: real images with one planted fault each, in the place of synthetic ones.

    python benchmarks/planted_truths.py radiographs --npz pneumoniamnist_28.npz   2D, EfficientNet-Lite0 features
    python benchmarks/planted_truths.py phantoms                                  3D phantoms in HU, random convolutions

The first row is other real patients: what a perfect generator would give. A cell is marked ● where the interval lies
beyond its floor's, ○ where it lies on the better side (a fault that flatters). Each fault should move the metrics that
are about it, and no others. The last column is the audit's: copies are no fault to any metric.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from imgsynth.audit.copies import find_copies
from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.grid import grid_of
from imgsynth.evaluate.metric import Comparison, Measurement, NotDone
from imgsynth.evaluate.run import metrics_for
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig, DataConfig, PhantomConfig, PreprocessConfig

Change = Callable[[Images, Images, np.random.Generator], Images]  # of other patients, and the train patients


def voxelwise(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    return lambda made, train, random: made.with_images(change(made.x_NC, random).astype(np.float32))


def blurred(x_NC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return gaussian_filter(x_NC, (0, 0, *[0.8] * (x_NC.ndim - 2)))


def noisy(x_NC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return x_NC + random.normal(0, 0.1, x_NC.shape)


def shifted(x_NC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.clip(x_NC + 0.06, -1, 1)  # of the window's width 2: 3 %


def checkered(x_NC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return x_NC + 0.1 * (np.indices(x_NC.shape[2:]).sum(0) % 2 - 0.5)


def one_class(made: Images, train: Images, random: np.random.Generator) -> Images:
    """A class lost: its labels are there, but its images are those of the other class."""
    others = np.flatnonzero(made.y_N == 0)
    pick = np.where(made.y_N == 0, np.arange(len(made)), random.choice(others, len(made)))
    return made.with_images(made.x_NC[pick])


def few_images(made: Images, train: Images, random: np.random.Generator) -> Images:
    """Mode collapse: twenty images, over and over, each a little different."""
    kept = np.concatenate([np.flatnonzero(made.y_N == k)[:10] for k in np.unique(made.y_N)])
    pick = np.array([random.choice(kept[made.y_N[kept] == y]) for y in made.y_N])
    return made.with_images(noise_of(made.x_NC[pick], random))


def noise_of(x_NC: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return (x_NC + random.normal(0, 0.01, x_NC.shape)).astype(np.float32)


def copies(made: Images, train: Images, random: np.random.Generator) -> Images:
    """Every image is a train patient's, each of another one as far as they go: nothing is wrong with it but that."""
    pick = np.empty(len(made), dtype=np.int64)
    for k in np.unique(made.y_N):
        mine = np.flatnonzero(made.y_N == k)
        pick[mine] = np.resize(random.permutation(np.flatnonzero(train.y_N == k)), len(mine))
    return made.with_images(train.x_NC[pick])


def slice_by_slice(made: Images, train: Images, random: np.random.Generator) -> Images:
    """Volumes whose slices are of different patients: each slice is real, and they do not belong together."""
    slices = np.arange(made.x_NC.shape[-1])
    of = random.integers(0, len(made), (len(made), len(slices)))
    return made.with_images(np.stack([made.x_NC[row, :, :, :, slices].transpose(1, 2, 3, 0) for row in of]))


FAULTS: dict[str, Change] = {
    "none: other patients": lambda made, train, random: made,
    "blur of 0.8 voxels": voxelwise(blurred),
    "noise, 5 % of the window": voxelwise(noisy),
    "checkerboard, 5 %": voxelwise(checkered),
    "intensities up by 3 %": voxelwise(shifted),
    "one class's images lost": one_class,
    "mode collapse to 20 images": few_images,
    "copies of train patients": copies,
}
IN_VOLUMES: dict[str, Change] = {"slices of different patients": slice_by_slice}


def cohorts(kind: str, npz: Path | None, folder: Path, patients: int) -> tuple[Images, PreprocessConfig, str]:
    if kind == "phantoms":
        data = DataConfig(kind="phantom", root=str(folder), classes=["normal", "lesion"], modality="CT",
                          phantom=PhantomConfig(patients=patients, extra_studies=0.0, traps=False))  # fmt: skip
        preprocess = PreprocessConfig(shape=[32, 32, 32], spacing=[12.0] * 3, low=-1000, high=600)
    else:
        data = DataConfig(kind="medmnist", root=str(npz), unit="image", classes=["normal", "pneumonia"], modality="DX")
        preprocess = PreprocessConfig(shape=[28, 28], fit="resize", low=0, high=255)
    manifest, _ = build_manifest(data)
    dataset = PatientDataset(manifest, "train", preprocess, 1, "memory")
    names, x, y = zip(*dataset.all_images(), strict=True)
    return Images(np.stack([np.asarray(i) for i in x]), np.array(y), np.array(names)), preprocess, manifest.modality


def mark(m: Measurement) -> str:
    """Beyond the floor (●), on its better side (○), or neither."""
    assert m.floor is not None
    low, high = (m.low, m.high) if m.better == "lower" else (-m.high, -m.low)
    floor_low, floor_high = (m.floor.low, m.floor.high) if m.better == "lower" else (-m.floor.high, -m.floor.low)
    return "●" if low > floor_high else "○" if high < floor_low else ""


def nearer_to_train(synthetic: Images, train: Images, test: Images, seed: int) -> str:
    """The audit's copy check: the share of samples nearer to a train than to a test patient, ● where it is caught."""
    found = find_copies(synthetic, train, test, AuditConfig(seed=seed))
    return f"{'● ' if found['caught'] else ''}{found['share']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["radiographs", "phantoms"])
    parser.add_argument("--npz", type=Path, help="radiographs: a MedMNIST file")
    parser.add_argument("--folder", type=Path, default=Path("phantoms"), help="phantoms: where they are made")
    parser.add_argument("--n", type=int, default=400, help="images on each of the three sides")
    parser.add_argument("--encoder", default=None)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images, preprocess, modality = cohorts(args.kind, args.npz, args.folder, patients=round(3 * args.n / 0.7) + 10)
    order = np.random.default_rng(args.seed).permutation(len(images))
    train, test, made = (images.select(order[i * args.n : (i + 1) * args.n]) for i in range(3))
    grid = grid_of(preprocess, modality)
    name = args.encoder or ("efficientnet_lite" if args.kind == "radiographs" else "random_conv")
    encoder = get_encoder(name, grid.spatial_dims, 0)
    heads = None
    for fault, change in (FAULTS | (IN_VOLUMES if grid.spatial_dims == 3 else {})).items():
        changed = change(made, train, np.random.default_rng(args.seed + 1))
        synthetic = synthetic_images(changed.x_NC, changed.y_N)
        c = Comparison(train, test, synthetic, encoder, grid, 200, args.seed)
        found = {}
        for metric, compute in metrics_for(c).items():
            try:
                found[metric] = compute(c)
            except NotDone:
                continue
        if heads is None:
            heads = list(found)
            print(f"n = {args.n} on each side, seed {args.seed}, {encoder.name}; 95 % intervals over patients\n")
            print("| planted | " + " | ".join(h.replace("_", " ") for h in heads) + " | nearer to train (audit) |")
            print("|---" * (len(heads) + 2) + "|")
        cells = [f"{mark(found[h])} {found[h].value:.3g}".strip() for h in heads]
        print(f"| {' | '.join([fault, *cells, nearer_to_train(synthetic, train, test, args.seed)])} |", flush=True)


if __name__ == "__main__":
    main()
