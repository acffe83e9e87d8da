"""What an enhanced multi-frame CT or MR image has in place of single-frame elements (PS3.3 A.36.2, A.38.1)."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset, uid
from pydicom.tag import Tag

from imgsynth.volumes.dicom_frames import decimals
from imgsynth.volumes.provenance import SyntheticIdentity

ENHANCED_CLASSES = {"CT": uid.EnhancedCTImageStorage, "MR": uid.EnhancedMRImageStorage}

# Image Type and Frame Type (C.8.16.1): derived from no acquisition; a volume, with no derived contrast. PRIMARY is the
# one value that C.8.16.1.2 leaves for the second place, where single-frame images say SECONDARY.
ENHANCED_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]

# Content Date and Time are type 1 here: a placeholder, as no moment of a synthetic image means anything.
NO_DATE, NO_TIME = "19000101", "000000"

# Frame Anatomy (C.7.6.16.2.8) must name a region, and none is known: the least narrow one.
WHOLE_BODY = ("38266002", "SCT", "Entire body")


def enhanced_elements(
    modality: str,
    identity: SyntheticIdentity,
    measures: Dataset,
    positions_K3: np.ndarray,
    window: tuple[float, float],
) -> Dataset:
    """All that is not shared with single-frame images; draws UIDs for the instance, for its dimensions and its event.

    ``measures`` holds the image plane and the rescale elements as a single-frame image would, of which the functional
    groups are made; ``positions_K3`` [K, 3] are Image Positions (LPS+ mm), ``window`` is centre and width.
    """
    dataset = Dataset()
    dataset.SOPClassUID = ENHANCED_CLASSES[modality]
    dataset.SOPInstanceUID = identity.new_uid()
    dataset.InstanceNumber = 1
    dataset.ImageType = ENHANCED_TYPE
    dataset.ContentDate, dataset.ContentTime = NO_DATE, NO_TIME
    dataset.Modality = modality
    dataset.PatientPosition = ""
    dataset.DeviceSerialNumber = "NONE"
    dataset.AcquisitionContextSequence = []
    dataset.ContentQualification = "RESEARCH"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.FrameOfReferenceUID = measures.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = ""
    dataset.update(_description(modality))
    if modality == "MR":
        dataset.ApplicableSafetyStandardAgency = "NONE"  # no scanner, no standard of its safety (C.8.13.3)
    dataset.NumberOfFrames = len(positions_K3)
    dataset.update(_dimensions(identity.new_uid()))
    dataset.SharedFunctionalGroupsSequence = [_shared(modality, measures, window)]
    if modality == "CT":  # asked of every enhanced CT (C.8.15.3); the event is as unreal as the patient
        event = Dataset()
        event.IrradiationEventUID = identity.new_uid()
        dataset.SharedFunctionalGroupsSequence[0].IrradiationEventIdentificationSequence = [event]
    dataset.PerFrameFunctionalGroupsSequence = [_frame(k, position) for k, position in enumerate(positions_K3, 1)]
    return dataset


def _description(modality: str) -> Dataset:
    """Common CT/MR and MR Image Description macros (C.8.16.2, C.8.13.3.1)."""
    dataset = Dataset()
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    if modality == "MR":
        dataset.ComplexImageComponent = "MAGNITUDE"
        dataset.AcquisitionContrast = "UNKNOWN"
    return dataset


def _dimensions(organization: str) -> Dataset:
    """Multi-frame Dimension (C.7.6.17): frames run along one stack."""
    dataset = Dataset()
    item = Dataset()
    item.DimensionOrganizationUID = organization
    dataset.DimensionOrganizationSequence = [item]
    dataset.DimensionOrganizationType = "3D"
    dataset.DimensionIndexSequence = []
    for keyword in ("StackID", "InStackPositionNumber"):
        index = Dataset()
        index.DimensionOrganizationUID = organization
        index.DimensionIndexPointer = Tag(keyword)
        index.FunctionalGroupPointer = Tag("FrameContentSequence")
        dataset.DimensionIndexSequence.append(index)
    return dataset


def _shared(modality: str, measures: Dataset, window: tuple[float, float]) -> Dataset:
    """Functional groups that all frames have in common (C.7.6.16.2, C.8.15.3, C.8.13.5)."""
    groups = Dataset()
    groups.PixelMeasuresSequence = [_part(measures, "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")]
    groups.PlaneOrientationSequence = [_part(measures, "ImageOrientationPatient")]
    groups.PixelValueTransformationSequence = [_part(measures, "RescaleIntercept", "RescaleSlope", "RescaleType")]
    voi = Dataset()
    voi.WindowCenter, voi.WindowWidth = decimals(window)
    groups.FrameVOILUTSequence = [voi]
    anatomy, region = Dataset(), Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = WHOLE_BODY
    anatomy.AnatomicRegionSequence = [region]
    anatomy.FrameLaterality = "U"
    groups.FrameAnatomySequence = [anatomy]
    kind = _description(modality)
    kind.FrameType = ENHANCED_TYPE
    setattr(groups, f"{modality}ImageFrameTypeSequence", [kind])
    return groups


def _frame(number: int, position: np.ndarray) -> Dataset:
    """Functional groups of frame ``number``, counted from 1."""
    groups, place, content = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = decimals(position)
    groups.PlanePositionSequence = [place]
    content.StackID = "1"
    content.InStackPositionNumber = number
    content.DimensionIndexValues = [1, number]
    groups.FrameContentSequence = [content]
    return groups


def _part(dataset: Dataset, *keywords: str) -> Dataset:
    part = Dataset()
    for keyword in keywords:
        part[keyword] = dataset[keyword]
    return part
