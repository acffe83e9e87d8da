"""What the pixels may show of a person: faces, and text burned in. Judged by headers and sizes; nobody looks here.

A volume of a head can be matched to photographs unless the face was removed (Schwarz et al. 2021, Neuroimage
231:117845), and a generator trained on faces can draw faces. Text in pixels passes by every search of headers.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread, uid

from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.manifest import Item, Manifest
from imgsynth.volumes.dicom_element import BROKEN

HEAD_PARTS = re.compile(r"HEAD|BRAIN|SKULL|FACE|FACIAL|ORBIT|SINUS|IAC")
HEAD_MM = (120.0, 320.0)  # field of view of a head along each axis: MR of neither brain part nor trunk
CLEANED = "113101"  # Clean Recognizable Visual Features Option (PS3.16 CID 7050)
CAPTURES = (uid.SecondaryCaptureImageStorage, uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
            uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
            uid.MultiFrameTrueColorSecondaryCaptureImageStorage)  # fmt: skip
ULTRASOUND = (uid.UltrasoundImageStorage, uid.UltrasoundMultiFrameImageStorage)


def visible_risks(manifest: Manifest, defaced: bool | None) -> dict[str, Any]:
    """``heads`` and ``text``: how many images may show a face or text, why that is thought, and a ``warning`` or None.

    Reads one header of each DICOM image. ``defaced`` is data.defaced, what the custodian declares of the cohort.
    """
    headers = [(item, header_of(manifest, item)) for item in manifest.items]
    return {"heads": heads(headers, defaced), "text": text(headers)}


def heads(headers: list[tuple[Item, Dataset]], defaced: bool | None) -> dict[str, Any]:
    """Volumes that look like heads. Skull-stripped volumes show no face: declare them de-faced."""
    reasons = Counter(reason for item, header in headers if (reason := head_because(item, header)) is not None)
    cleaned = sum(head_because(item, header) is not None and says_defaced(header) for item, header in headers)
    open_faces = reasons.total() - cleaned
    found = {"images": reasons.total(), "because": dict(reasons), "headers_say_defaced": cleaned, "declared": defaced}
    if not open_faces or defaced:
        return {**found, "warning": None}
    known = "and are declared to show faces" if defaced is False else "and nobody has declared them de-faced"
    warning = (
        f"{open_faces} volumes look like heads ({', '.join(reasons)}), {known}: a face in a volume can be matched to "
        "photographs. Remove faces or strip skulls before training, and declare it by data.defaced=true"
    )
    return {**found, "warning": warning}


def head_because(item: Item | Scan, header: Dataset) -> str | None:
    """Why the image is thought to be a volume of a head; None where it is not."""
    extent = [n * mm for n, mm in zip(item.shape, item.spacing, strict=True)]
    if len(extent) < 3 or min(item.shape) < 8:  # a few slices are no face
        return None
    part = str(header.get("BodyPartExamined", "") or "").upper()
    if part:
        return "BodyPartExamined" if HEAD_PARTS.search(part) else None
    sized = item.modality == "MR" and all(HEAD_MM[0] <= mm <= HEAD_MM[1] for mm in extent)
    return "MR of a head's size" if sized else None


def says_defaced(header: Dataset) -> bool:
    """Recognizable Visual Features (0028,0302) NO, or the de-identification option that cleans them."""
    codes = [str(code.get("CodeValue", "")) for code in header.get("DeidentificationMethodCodeSequence", None) or ()]
    return header.get("RecognizableVisualFeatures") == "NO" or CLEANED in codes


def text(headers: list[tuple[Item, Dataset]]) -> dict[str, Any]:
    """Images by what their headers say of text in the pixels; one image may be counted under several heads."""
    counts = Counter(reason for _, header in headers for reason in text_because(header))
    found = {"images": sum(bool(text_because(header)) for _, header in headers), "because": dict(counts)}
    if not counts:
        return {**found, "warning": None}
    listed = ", ".join(f"{reason}: {count}" for reason, count in counts.items())
    return {**found, "warning": f"text may be burned into {found['images']} images ({listed}): leave them out or "
                                "blank it before training, and look at the samples"}  # fmt: skip


def text_because(header: Dataset) -> list[str]:
    """What in the header speaks for text in the pixels."""
    reasons = []
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        reasons.append("BurnedInAnnotation YES")
    sop_class = str(header.get("SOPClassUID", ""))
    if sop_class in CAPTURES or header.get("ConversionType") not in (None, ""):
        reasons.append("secondary capture")
    if sop_class in ULTRASOUND:
        reasons.append("ultrasound")
    if any(0x6000 <= element.tag.group <= 0x60FF for element in header):
        reasons.append("overlays (60xx)")
    return reasons


def header_of(manifest: Manifest, item: Item) -> Dataset:
    """The header of the image's first DICOM file; empty for other kinds, and for a file that cannot be read."""
    if not item.affine:  # what DICOM items have
        return Dataset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dcmread(Path(manifest.root) / item.files[0], stop_before_pixels=True, force=True, defer_size=4096)
    except BROKEN:
        return Dataset()
