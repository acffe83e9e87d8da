"""What is the matter with single images, by themselves and beside the others. LOCAL ONLY."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.findings import Finding, finding, findings_of
from imgsynth.cohort.findings_identity import Looked
from imgsynth.cohort.look import Look

# An image is an outlier where it is this many robust standard deviations (1.4826 MAD; Rousseeuw & Croux 1993) from the
# median of its modality, and also further than any difference that protocols make.
FAR = 8.0
FEWEST = 5  # images of a modality, below which nobody is usual
_RATIO = math.log(1.6)  # of fields of view and voxel sizes
_RATIO_AU = math.log(8.0)  # of intensities without a unit: receiver gains differ by factors
_HU = 300.0
_DERIVED = ("DERIVED", "SECONDARY", "MPR", "MIP", "MINIP", "PROJECTION IMAGE", "REFORMATTED")


def image_findings(looked: Looked) -> list[Finding]:
    """Findings of geometry and intensity."""
    readable = [(scan, look) for scan, look in looked if not look.faults]
    broken = [fault for _, look in looked for fault in look.faults]
    return [
        *findings_of(broken),
        *_stacks(readable),
        *_kinds(readable),
        *_intensities(readable),
        *_outliers(readable),
    ]


def _stacks(looked: Looked) -> list[Finding]:
    """Series Instance UIDs that gave several images, and images stored along unusual axes."""
    series: dict[tuple[str | None, str], list[Scan]] = defaultdict(list)
    for scan, _ in looked:
        if scan.affine and scan.modality in ("CT", "MR"):  # each radiograph of a series is an image of its own
            series[scan.patient, scan.series].append(scan)
    turned: list[tuple[str, str]] = []
    split: list[tuple[str, str]] = []
    for (_, uid), scans in series.items():
        if len(scans) > 1:
            normals = np.array([_normal(scan) for scan in scans])
            shapes = ", ".join("×".join(map(str, scan.shape)) for scan in scans[:4])
            place = (scans[0].names[0], f"series {uid}: {len(scans)} stacks of {shapes} voxels")
            (turned if (np.abs(normals @ normals[0]) < 0.999).any() else split).append(place)
    usual = Counter(scan.orientation for scan, _ in looked).most_common(1)
    odd = [(scan.names[0], f"{scan.orientation}, most {usual[0][0]}") for scan, _ in looked
           if scan.orientation != usual[0][0]]  # fmt: skip
    return [
        *finding("mixed_orientations", turned),
        *finding("split_series", split),
        *finding("orientations_differ", odd),
    ]


def _normal(scan: Scan) -> np.ndarray:
    axis = np.array(scan.affine).reshape(4, 4)[:3, 2]
    return axis / np.linalg.norm(axis)


def _kinds(looked: Looked) -> list[Finding]:
    """What headers say an image is."""

    def derived(scan: Scan, look: Look) -> str:
        said = [word for word in look.facts.image_type if word in _DERIVED]
        return f"Image Type {' '.join(said)}" if said and scan.modality in ("CT", "MR") else ""

    return [
        *_each(looked, "derived_image", derived),
        *_each(looked, "enhanced", lambda scan, look: "multi-frame" if look.facts.enhanced else ""),
        *_each(looked, "instance_order", lambda scan, look: "sorted by position" if look.facts.shuffled else ""),
    ]


def _intensities(looked: Looked) -> list[Finding]:
    def not_hu(scan: Scan, look: Look) -> str:
        return "Rescale Type is not HU" if scan.modality == "CT" and scan.affine and look.unit != "HU" else ""

    def no_air(scan: Scan, look: Look) -> str:
        shown = scan.modality == "CT" and look.unit == "HU" and look.points[0] >= 0 and not look.empty
        return f"least value {look.points[0]:g} HU" if shown else ""

    return [
        *_each(looked, "rescale_type", not_hu),
        *_each(looked, "implausible_hu", no_air),
        *_each(looked, "padding", lambda scan, look: f"{look.padded:.2g} of all voxels" if look.padded else ""),
        *_each(looked, "empty_image", lambda s, look: f"{look.commonest:.1%} of voxels alike" if look.empty else ""),
        *_each(looked, "blank_slices", lambda s, look: f"{look.blank} blank slices" if look.blank else ""),
    ]


def _each(looked: Looked, code: str, detail: Callable[[Scan, Look], str]) -> list[Finding]:
    """A finding of the images of which ``detail`` has something to say."""
    return finding(code, ((scan.names[0], said) for scan, look in looked if (said := detail(scan, look))))


def _outliers(looked: Looked) -> list[Finding]:
    """Images far from the others of their modality in field of view, voxel size or intensity."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    modalities = {(scan.modality, look.unit) for scan, look in looked}
    for modality, unit in sorted(modalities, key=str):
        group = [(s, k) for s, k in looked if (s.modality, k.unit) == (modality, unit) and not k.empty]
        if len(group) < FEWEST:
            continue
        for code, values, least, words in _measures(group, unit == "HU"):
            for n in np.flatnonzero(_far(values, least)):
                found[code].append((group[n][0].names[0], words[n]))
    return [one for code, places in found.items() for one in finding(code, places)]


def _measures(group: Looked, hounsfield: bool) -> list[tuple[str, np.ndarray, float, list[str]]]:
    """(code, values [N, D], the least distance that counts, what to say of each image)."""
    spacing = np.array([_sorted(scan.spacing) for scan, _ in group])
    field = np.array([_sorted(_extent(scan)) for scan, _ in group])
    points = np.array([look.points[1:4:2] for _, look in group])
    if not hounsfield:
        spread = np.array([max(look.points[3] - look.points[1], 1e-12) for _, look in group])
        points = np.log(spread)[:, None]
    mm = [" × ".join(f"{value:g}" for value in scan.spacing) + " mm" for scan, _ in group]
    extent = [" × ".join(f"{value:.0f}" for value in _extent(scan)) + " mm" for scan, _ in group]
    grey = [f"{k.points[1]:.4g} to {k.points[3]:.4g} {k.unit} (0.5th to 99.5th percentile)" for _, k in group]
    return [
        ("outlier_shape", np.log(field), _RATIO, extent),
        ("outlier_spacing", np.log(spacing), _RATIO, mm),
        ("outlier_intensity", points, _HU if hounsfield else _RATIO_AU, grey),
    ]


def _extent(scan: Scan) -> list[float]:
    """Millimetres of field of view along each axis; 1 where there is a single plane, which has a thickness only."""
    return [n * mm if n > 1 else 1.0 for n, mm in zip(scan.shape, scan.spacing, strict=True)]


def _sorted(values: Sequence[float]) -> list[float]:
    """Along the finest axis first, so that acquisitions along other axes are compared alike; three of them."""
    return sorted([*values, *[1.0] * (3 - len(values))])


def _far(values: np.ndarray, least: float) -> np.ndarray:
    """Rows [N] of ``values`` [N, D] that are far from the median in any column."""
    off = np.abs(values - np.median(values, axis=0))
    return (off > np.maximum(FAR * 1.4826 * np.median(off, axis=0), least)).any(axis=1)
