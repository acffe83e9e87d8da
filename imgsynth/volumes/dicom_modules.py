"""The modules of a synthetic image's header: every element that a release may hold is named in this file or the writer.

Clauses are of PS3.3. Type 2 elements that would have to be invented (dates, kVp, manufacturer of a scanner) are empty.
"""

from __future__ import annotations

from pydicom import Dataset, uid

from imgsynth.volumes.provenance import Provenance, SyntheticIdentity

SOP_CLASSES = {
    "CT": uid.CTImageStorage,
    "MR": uid.MRImageStorage,
    "CR": uid.ComputedRadiographyImageStorage,
    "DX": uid.DigitalXRayImageStorageForPresentation,
}

# Image Type (0008,0008): derived from no acquisition, secondary; a third value where the IOD asks for one.
IMAGE_TYPES = {
    "CT": ["DERIVED", "SECONDARY", "AXIAL"],  # C.8.2.1.1.1; the other choice is LOCALIZER
    "MR": ["DERIVED", "SECONDARY", "OTHER"],  # C.8.3.1.1.1
    "CR": ["DERIVED", "SECONDARY"],
    "DX": ["DERIVED", "SECONDARY", ""],  # C.8.11.3.1.1: empty but for biopsy and stereo views
}


def patient_elements(identity: SyntheticIdentity) -> Dataset:
    """Patient, General Study and General Series (C.7.1.1, C.7.2.1, C.7.3.1) of a person who does not exist."""
    dataset = Dataset()
    dataset.PatientID = identity.patient_id
    dataset.PatientName = f"{identity.patient_id}^Synthetic"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = identity.sex
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic image: no person was imaged"
    dataset.StudyInstanceUID = identity.study_uid
    dataset.SeriesInstanceUID = identity.series_uid
    dataset.StudyDate = dataset.StudyTime = ""
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.SeriesNumber = identity.series_number
    dataset.SeriesDescription = "Synthetic, not for diagnostic use"
    return dataset


def provenance_elements(provenance: Provenance, modality: str) -> Dataset:
    """What says that the image is synthetic, and how it was made (C.12.1, C.7.5.1, C.7.6.1)."""
    dataset = Dataset()
    dataset.SyntheticData = "YES"
    dataset.Manufacturer = "imgsynth"
    dataset.ManufacturerModelName = provenance.model
    dataset.SoftwareVersions = f"imgsynth {provenance.version}"
    dataset.DerivationDescription = provenance.derivation
    if (burned_in := burned_in_annotation(provenance.burned_in, modality)) is not None:
        dataset.BurnedInAnnotation = burned_in
    if provenance.recognizable is not None:
        dataset.RecognizableVisualFeatures = provenance.recognizable
    dataset.ContributingEquipmentSequence = [_equipment(provenance)]
    return dataset


def burned_in_annotation(judged: str | None, modality: str) -> str | None:
    """The value of Burned In Annotation (0028,0301); None: the element is left out, "may or may not" (C.7.6.1.1).

    DX images must have it (type 1, C.8.11.3): where nobody judged them, with the answer that makes people look.
    """
    return "YES" if judged is None and modality == "DX" else judged


def _equipment(provenance: Provenance) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue = "109100"  # CID 7005
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Synthesizing Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer = "imgsynth"
    item.ManufacturerModelName = provenance.model
    item.SoftwareVersions = f"imgsynth {provenance.version}"
    item.ContributionDescription = provenance.method
    return item


def modality_elements(modality: str) -> Dataset:
    """What the modality's own modules require, and nothing that a scanner would have had to measure."""
    dataset = {"CT": _ct, "MR": _mr, "CR": _cr, "DX": _dx}[modality]()
    dataset.Modality = modality
    return dataset


def _ct() -> Dataset:
    """CT Image (C.8.2.1)."""
    dataset = Dataset()
    dataset.KVP = None
    dataset.AcquisitionNumber = None
    dataset.PatientPosition = ""
    dataset.Laterality = ""
    return dataset


def _mr() -> Dataset:
    """MR Image (C.8.3.1): no pulse sequence was run, so "research mode" and empty times."""
    dataset = Dataset()
    dataset.ScanningSequence = "RM"
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = ""
    dataset.RepetitionTime = None
    dataset.EchoTime = None
    dataset.EchoTrainLength = None
    dataset.PatientPosition = ""
    dataset.Laterality = ""
    return dataset


def _cr() -> Dataset:
    """CR Series (C.8.1.1)."""
    dataset = Dataset()
    dataset.BodyPartExamined = ""
    dataset.ViewPosition = ""
    dataset.Laterality = ""
    return dataset


def _dx() -> Dataset:
    """DX Series, Anatomy, Image, Detector and Acquisition Context (C.8.11.1 to C.8.11.4, C.7.6.14)."""
    dataset = Dataset()
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality = "U"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.DetectorType = ""
    dataset.AnatomicRegionSequence = []
    dataset.AcquisitionContextSequence = []
    return dataset
