"""What no file of a release may hold: DICOM attributes of persons, places, times, devices; paths, machines, addresses.

The attributes are those that PS3.15 table E.1-1 (Basic Application Level Confidentiality Profile) removes, empties or
replaces and that a synthetic image has no use for. Whatever has a value of a date, a time or a person's name is
forbidden by its VR, whether listed or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# By what they would tell.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "a person": (
        "PatientBirthName", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "IssuerOfPatientID",
        "PatientMotherBirthName", "MilitaryRank", "BranchOfService", "EthnicGroup", "Occupation", "SmokingStatus",
        "PregnancyStatus", "PatientSize", "PatientWeight", "PatientInsurancePlanCodeSequence",
        "InsurancePlanIdentification", "ResponsiblePerson", "ResponsibleOrganization", "PatientReligiousPreference",
        "PatientPrimaryLanguageCodeSequence", "MedicalRecordLocator", "ReferencedPatientSequence",
        "ReferencedPatientAliasSequence", "PersonIdentificationCodeSequence", "ResponsiblePersonRole",
        "PatientSexNeutered", "LastMenstrualDate",
    ),
    "an address": (
        "PatientAddress", "PatientTelephoneNumbers", "PatientTelecomInformation", "CountryOfResidence",
        "RegionOfResidence", "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName",
        "InstitutionalDepartmentTypeCodeSequence", "InstitutionCodeSequence", "ReferringPhysicianAddress",
        "ReferringPhysicianTelephoneNumbers", "PersonAddress", "PersonTelephoneNumbers", "PersonTelecomInformation",
        "OrderCallbackPhoneNumber", "CurrentPatientLocation", "PatientInstitutionResidence",
    ),
    "who did it": (
        "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianIdentificationSequence",
        "PhysiciansOfRecordIdentificationSequence", "PerformingPhysicianIdentificationSequence",
        "PhysiciansReadingStudyIdentificationSequence", "OperatorIdentificationSequence", "RequestingService",
        "RequestingPhysicianIdentificationSequence", "InstitutionalDepartmentName", "OrderEnteredBy",
        "OrderEntererLocation",
    ),
    "a visit": (
        "AccessionNumber", "AdmissionID", "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence",
        "AdditionalPatientHistory", "MedicalAlerts", "Allergies", "PatientState", "PatientComments", "SpecialNeeds",
        "VisitComments", "ServiceEpisodeID", "ServiceEpisodeDescription", "IssuerOfAdmissionIDSequence",
        "IssuerOfAccessionNumberSequence", "ScheduledProcedureStepID", "ScheduledProcedureStepDescription",
        "RequestedProcedureDescription", "RequestedProcedureID", "RequestedProcedureComments",
        "RequestAttributesSequence", "ReasonForStudy", "ReasonForVisit", "PerformedProcedureStepID",
        "PerformedProcedureStepDescription", "CommentsOnThePerformedProcedureStep",
        "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
        "ImagingServiceRequestComments", "ConfidentialityCode", "ReferencedStudySequence",
        "ReferencedPerformedProcedureStepSequence",
    ),
    "a scan or scanner": (
        "StationName", "DeviceSerialNumber", "DeviceUID", "GantryID", "PlateID", "GeneratorID", "CassetteID",
        "DetectorID", "ProtocolName", "AcquisitionComments", "AcquisitionProtocolDescription", "ImageComments",
        "FrameComments", "ScheduledStationAETitle", "ScheduledStationName", "PerformedStationAETitle",
        "PerformedStationName", "PerformedLocation", "ContrastBolusAgent", "DateOfSecondaryCapture", "KVP",
        "ExposureTime", "XRayTubeCurrent", "SourceSerialNumber",
    ),
    "free text and attachments": (
        "TextComments", "TextString", "OverlayComments", "IconImageSequence",
        "OriginalAttributesSequence", "ModifiedAttributesSequence", "EncryptedAttributesSequence",
        "DigitalSignaturesSequence", "DataSetTrailingPadding", "AudioComments", "IdentifyingComments",
        "InterpretationText", "ResultsComments", "StructureSetLabel", "GraphicAnnotationSequence",
    ),
}  # fmt: skip
FORBIDDEN = {keyword: why for why, keywords in ATTRIBUTES.items() for keyword in keywords}

# (what it is, the pattern); each is nothing that a synthetic data set has a reason to say.
TEXTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a path", re.compile(
        r"(?<![\w./:])/(?:home|Users|root|mnt|media|tmp|var|opt|srv|data|scratch|work|private|export|nfs|etc|usr)/[\w.@-]+"
    )),
    ("a path", re.compile(r"(?<!\w)[A-Za-z]:\\[\w.@-]+")),
    ("a path", re.compile(r"(?<![\\\w])\\\\[A-Za-z0-9][\w.-]*\\[\w.$@-]+")),
    ("a path", re.compile(r"(?<!\w)file:/+\w", re.IGNORECASE)),
    ("an e-mail address", re.compile(r"(?<![\w.])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")),
    ("a host", re.compile(r"(?<![\w.])(?:[A-Za-z0-9-]+\.)+(?:local|lan|internal|intranet|localdomain|corp)\b")),
    ("an address of a machine", re.compile(r"(?<![\w.])(?:10|127|172|192)(?:\.\d{1,3}){3}(?![\w.])")),
)  # fmt: skip


def texts_in(text: str, allowed: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """(what, the string) of everything forbidden in ``text``; ``allowed`` are strings that may stand there."""
    for what, pattern in TEXTS:
        for match in pattern.finditer(text):
            if match.group() not in allowed:
                yield what, match.group()
