"""Which DICOM objects are images that imgsynth reads, and the refusal of all others by name."""

from __future__ import annotations

from pathlib import Path

from pydicom import uid
from pydicom.uid import UID

from imgsynth.volumes.dicom_element import Source, refuse, text, whole

SLICES = (uid.CTImageStorage, uid.MRImageStorage)
ENHANCED = (uid.EnhancedCTImageStorage, uid.EnhancedMRImageStorage,
            uid.LegacyConvertedEnhancedCTImageStorage, uid.LegacyConvertedEnhancedMRImageStorage)  # fmt: skip
PROJECTIONS = (uid.ComputedRadiographyImageStorage,
               uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing,
               uid.DigitalMammographyXRayImageStorageForPresentation,
               uid.DigitalMammographyXRayImageStorageForProcessing,
               uid.UltrasoundImageStorage, uid.SecondaryCaptureImageStorage)  # fmt: skip


def check_kind(dataset: Source, sop_class: UID, path: Path) -> None:
    """Refuse by name what is not one grayscale image, or a stack of them."""
    known = SLICES + ENHANCED + PROJECTIONS
    if sop_class not in known:
        got = f"{sop_class.name} {sop_class}" if sop_class else "nothing"
        refuse(path, "SOPClassUID", got, "CT, MR, enhanced CT or MR, CR, DX, MG, US or SC image", "leave the file out",
               "other_object" if sop_class else "broken_header")  # fmt: skip
    modality = text(dataset, "Modality", path).upper()
    if sop_class == uid.SecondaryCaptureImageStorage and modality in ("CT", "MR"):
        refuse(path, "SOPClassUID", f"{sop_class.name} of modality {modality}", "an image as it was measured",
               "leave the screen capture out", "secondary_capture")  # fmt: skip
    colour = text(dataset, "PhotometricInterpretation", path)
    if colour not in ("MONOCHROME1", "MONOCHROME2"):
        refuse(path, "PhotometricInterpretation", colour or "nothing", "MONOCHROME1 or MONOCHROME2",
               "leave colour images out", "colour_image" if colour else "broken_header")  # fmt: skip
    if sop_class in ENHANCED:
        if text(dataset, "PixelPresentation", path).upper() == "COLOR":
            refuse(path, "PixelPresentation", "COLOR (a supplemental palette)", "MONOCHROME", "leave colour maps out",
                   "colour_image")  # fmt: skip
    elif (frames := whole(dataset, "NumberOfFrames", path) or 1) != 1:
        refuse(path, "NumberOfFrames", f"{frames} in {sop_class.name}", "1, or an enhanced CT or MR image",
               "export single frames", "multiframe")  # fmt: skip
