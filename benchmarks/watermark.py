"""How often the watermark is found, after which conversion, how often where there is none, and what it does to images.

    python benchmarks/watermark.py DATA [--part false harm found] [--sets nih hippocampus …] [--n 10] [--seed 0]

DATA holds nih_cxr_256.npz, pneumoniamnist_28.npz and msd_hippocampus/; phantoms are made on the spot. Real images stand
in for synthetic ones: their noise is real. Prints markdown tables; intervals are Clopper and Pearson's at 95 %.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import SimpleITK
from PIL import Image
from scipy import ndimage

from imgsynth.cohort.phantom_export import draw_job
from imgsynth.cohort.phantom_plan import plan_cohort
from imgsynth.cohort.phantom_render import render
from imgsynth.evaluate.frechet import dimensions_for, frechet_squared, random_projection
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.resampling import clopper_pearson
from imgsynth.release.recognise import LEVEL
from imgsynth.release.watermark import marked, noise_level
from imgsynth.release.watermark_search import residual, search
from imgsynth.schema import PhantomConfig

Arrays = list[np.ndarray]


def nih(folder: Path) -> Arrays:
    """686 radiographs at 128²."""
    rows = next(a for a in np.load(folder / "nih_cxr_256.npz").values() if a.ndim == 3).astype(np.float32)
    small = rows.reshape(len(rows), 128, 2, 128, 2).mean((2, 4))
    return list(small / 127.5 - 1)


def pneumonia(folder: Path) -> Arrays:
    return list(np.load(folder / "pneumoniamnist_28.npz")["train_images"].astype(np.float32) / 127.5 - 1)


def hippocampus(folder: Path) -> Arrays:
    """T1 crops, their middle 30 × 44 × 30."""
    files = sorted((folder / "msd_hippocampus" / "imagesTr").glob("*.nii.gz"))
    arrays = [np.asarray(nib.load(path).dataobj, dtype=np.float32) for path in files]
    grid = (30, 44, 30)
    whole = [a for a in arrays if all(n >= m for n, m in zip(a.shape, grid, strict=True))]
    middle = [
        a[tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(a.shape, grid, strict=True))] for a in whole
    ]
    return [np.clip(2 * a / np.percentile(a, 99.9) - 1, -1, 1) for a in middle]


def phantoms(folder: Path) -> Arrays:
    """100 thorax CTs of 48³ with the noise of the phantoms' scanners, in the window of -1000 to 600 HU."""
    drawn = [draw_job(job) for job in plan_cohort(PhantomConfig(patients=100, size=48))]
    return [np.clip((render(a, s[0], 48).astype(np.float32) + 1000) / 800 - 1, -1, 1) for a, s in drawn]


SETS: dict[str, Callable[[Path], Arrays]] = {
    "nih": nih, "pneumonia": pneumonia, "hippocampus": hippocampus, "phantoms": phantoms,
}  # fmt: skip


def window(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    """8 bits, as a picture is exported: a window between two quantiles, what is beyond cut off."""

    def convert(x: np.ndarray) -> np.ndarray:
        ends = np.quantile(x, [low, high])
        return np.rint(255 * np.clip((x - ends[0]) / max(ends[1] - ends[0], 1e-6), 0, 1))

    return convert


def jpeg(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    """Of each plane."""

    def one(plane: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(plane.astype(np.uint8)).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file), dtype=np.float32)

    def convert(x: np.ndarray) -> np.ndarray:
        eight = np.rint((x + 1) * 127.5)
        return one(eight) if x.ndim == 2 else np.stack([one(plane) for plane in eight])

    return convert


def crop(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """``share`` of every axis, off the centre."""

    def convert(x: np.ndarray) -> np.ndarray:
        return x[tuple(slice(n - int(share * n) - 2, n - 2) for n in x.shape)]

    return convert


def zoom(*factors: float, order: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """scipy, the field of view kept."""
    return lambda x: ndimage.zoom(
        x, (factors * x.ndim)[: x.ndim], order=order, grid_mode=True, mode="nearest", prefilter=order > 1
    )


def by_nibabel(x: np.ndarray) -> np.ndarray:
    """To 1.2 mm from 1 mm, as resample_to_output does it (cubic, the first voxel stays where it is)."""
    image = nib.Nifti1Image(np.atleast_3d(x), np.eye(4))
    spacing = (1.2, 1.2, 1.2 if x.ndim == 3 else 1.0)
    return np.squeeze(np.asarray(nib.processing.resample_to_output(image, spacing, mode="nearest").dataobj))


def by_sitk(x: np.ndarray) -> np.ndarray:
    """To 0.8 mm from 1 mm, linear, origin kept."""
    image = SimpleITK.GetImageFromArray(x.astype(np.float32))
    size = [round(n / 0.8) for n in image.GetSize()]
    filtered = SimpleITK.Resample(image, size, SimpleITK.Transform(), SimpleITK.sitkLinear, image.GetOrigin(),
                                  [0.8] * x.ndim, image.GetDirection(), float(x.min()))  # fmt: skip
    return SimpleITK.GetArrayFromImage(filtered)


def noisy(x: np.ndarray) -> np.ndarray:
    level = float(np.median(noise_level(x)))
    return x + np.random.default_rng(0).normal(0, level, x.shape)


CONVERSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none (headers and sidecar taken off)": lambda x: x,
    "8 bits, whole range": window(0, 1),
    "8 bits, window from 5 to 95 %": window(0.05, 0.95),
    "8 bits, window from 20 to 80 %": window(0.2, 0.8),
    "negative, flipped, axes exchanged": lambda x: -x[::-1].swapaxes(0, 1),
    "cropped to 80 % of each side": crop(0.8),
    "cropped to 60 % of each side": crop(0.6),
    "resampled by 0.75": zoom(0.75),
    "resampled by 0.5": zoom(0.5),
    "resampled by 1.5": zoom(1.5),
    "resampled by 2, cubic": zoom(2.0, order=3),
    "resampled by 1.3 along one axis, 0.8 along others": zoom(1.3, 0.8, 0.8),
    "nibabel, 1 mm to 1.2 mm": by_nibabel,
    "SimpleITK, 1 mm to 0.8 mm": by_sitk,
    "cropped to 80 %, then resampled by 0.8": lambda x: zoom(0.8)(crop(0.8)(x)),
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 75": jpeg(75),
    "noise added, as strong as its own": noisy,
    "smoothed, σ = 1 voxel": lambda x: ndimage.gaussian_filter(x, 1),
    "rotated by 5°": lambda x: ndimage.rotate(x, 5, axes=(0, 1), reshape=False, order=1, mode="nearest"),
}


def share(found: list[bool]) -> str:
    low, high = clopper_pearson(sum(found), len(found))
    return f"{sum(found)}/{len(found)} [{low:.3g}, {high:.3g}]"


def together(arrays: Arrays) -> str:
    """The p-value of all images of the commonest shape."""
    left = [residual(a) for a in arrays]
    shapes = [one.shape for one in left]
    shape = max(set(shapes), key=shapes.count)
    of_one = [one for one in left if one.shape == shape]
    return f"{search(np.sum(of_one, axis=0)).p:.1g} (n = {len(of_one)})"


def false_alarms(name: str, images: Arrays, quick: int, thorough: int) -> None:
    """How often an image without a watermark is said to have one."""
    for what, most, whole in (("unchanged or cropped", quick, False), ("at every scale too", thorough, True)):
        ps = np.array([search(residual(x), thorough=whole).p for x in images[:most]])
        cells = [share((ps <= level).tolist()) for level in (0.05, LEVEL)]
        print(f"| {name} | {what} | {' | '.join(cells)} | {ps.min():.2g} |", flush=True)
    print(f"| {name} | all of one shape together | | | {together(images[:quick])} |", flush=True)


def found(name: str, images: Arrays, strength: float) -> None:
    with_mark = [marked(x, strength) for x in images]
    for what, convert in CONVERSIONS.items():
        arrays = [convert(x) for x in with_mark]
        bare = [convert(x) for x in images]
        hits = share([search(residual(x)).p <= LEVEL for x in arrays])
        said = f"{together(arrays)} | {together(bare)}"
        print(f"| {name} | {strength:g} | {what} | {hits} | {said} |", flush=True)


def harm(name: str, images: Arrays) -> None:
    """What it does: voxels, noise, and the Fréchet distance between two halves with and without it."""
    shape = images[0].shape
    images = [x for x in images if x.shape == shape]
    half = len(images) // 2
    encoder = get_encoder("random_conv", len(shape), 0)
    for strength in (0.25, 0.5, 1.0):
        with_mark = [marked(x, strength) for x in images]
        added = np.array([np.std(m - x) for m, x in zip(with_mark, images, strict=True)])
        level = np.array([np.median(noise_level(x)) for x in images])
        after = np.array([np.median(noise_level(x)) for x in with_mark])
        cells = f"{np.median(level) * 127.5:.2f} | {np.median(added) * 127.5:.2f} | {np.median(after / level):.3f}"
        if half >= 40:
            plain_ND, marked_ND = (encoder.encode(np.stack(set_)[:, None]) for set_ in (images, with_mark))
            project = random_projection(plain_ND.shape[1], dimensions_for(half, plain_ND.shape[1]))
            a, b, c = plain_ND[:half] @ project, plain_ND[half:] @ project, marked_ND[half:] @ project
            sides = [frechet_squared(a.mean(0), np.cov(a.T), x.mean(0), np.cov(x.T)) for x in (b, c)]
            cells += f" | {sides[0]:.3g} | {sides[1]:.3g}"
        print(f"| {name} | {strength:g} | {len(images)} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", nargs="+", default=["false", "harm", "found"], choices=["false", "harm", "found"])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--n", type=int, default=10, help="images with a watermark, of each set")
    parser.add_argument("--quick", type=int, default=2000, help="unmarked images searched as they are")
    parser.add_argument("--thorough", type=int, default=60, help="unmarked images searched at every scale")
    parser.add_argument("--strength", type=float, nargs="+", default=[0.5])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name in asked.sets:
        images = SETS[name](asked.data)
        order = np.random.default_rng(asked.seed).permutation(len(images))
        images = [images[i] for i in order]
        if "false" in asked.part:
            false_alarms(name, images, asked.quick, asked.thorough)
        if "harm" in asked.part:
            harm(name, images)
        if "found" in asked.part:
            for strength in asked.strength:
                found(name, images[: asked.n], strength)


if __name__ == "__main__":
    main()
