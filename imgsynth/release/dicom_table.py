r"""Every element that a DICOM file of a release may hold, by module of PS3.3, and what it must be.

A line is a keyword, the type that a release is held to (1: with a value, 2: there, if empty, 3: may be absent; 1C: as 1
where the condition after ``if`` holds; never looser than the standard), and what the value must be: ``=A|B`` one of
these (several values are joined by ``\``), ``empty``, or for a sequence the number of its items (1 where nothing is
said, some is one or more). ``>`` is one level further down, as in PS3.3. Later modules of an object override earlier
ones. What is not in the table is not in a release: no private element, no date, no name of a person, place or machine.
"""

from __future__ import annotations

from pydicom import uid

MODULES = {
    "File Meta Information (PS3.10 7.1)": r"""
        FileMetaInformationGroupLength    1
        FileMetaInformationVersion        1
        MediaStorageSOPClassUID           1
        MediaStorageSOPInstanceUID        1
        TransferSyntaxUID                 1   =1.2.840.10008.1.2.1|1.2.840.10008.1.2.4.90|1.2.840.10008.1.2.5
        ImplementationClassUID            1
        ImplementationVersionName         3""",
    "SOP Common (C.12.1)": r"""
        SOPClassUID                       1
        SOPInstanceUID                    1
        SyntheticData                     1   =YES
        ContributingEquipmentSequence     1
        >PurposeOfReferenceCodeSequence   1
        >>CodeValue                       1   =109100
        >>CodingSchemeDesignator          1   =DCM
        >>CodeMeaning                     1   =Synthesizing Equipment
        >Manufacturer                     1   =imgsynth
        >ManufacturerModelName            1
        >SoftwareVersions                 1
        >ContributionDescription          1""",
    "Patient (C.7.1.1)": r"""
        PatientName                       1
        PatientID                         1
        PatientBirthDate                  2   empty
        PatientSex                        2   =F|M|O
        PatientIdentityRemoved            1   =YES
        DeidentificationMethod            1C  if PatientIdentityRemoved=YES""",
    "General Study (C.7.2.1)": r"""
        StudyInstanceUID                  1
        StudyDate                         2   empty
        StudyTime                         2   empty
        ReferringPhysicianName            2   empty
        StudyID                           2   empty
        AccessionNumber                   2   empty""",
    "General Series (C.7.3.1)": r"""
        Modality                          1
        SeriesInstanceUID                 1
        SeriesNumber                      1
        SeriesDescription                 1   =Synthetic, not for diagnostic use""",
    "General Equipment (C.7.5.1)": r"""
        Manufacturer                      1   =imgsynth
        ManufacturerModelName             1
        SoftwareVersions                  1""",
    "General Image (C.7.6.1)": r"""
        InstanceNumber                    1
        ImageType                         1
        DerivationDescription             1
        BurnedInAnnotation                3   =YES|NO
        RecognizableVisualFeatures        3   =YES|NO
        LossyImageCompression             1   =00""",
    "Image Pixel (C.7.6.3)": r"""
        SamplesPerPixel                   1   =1
        PhotometricInterpretation         1   =MONOCHROME2
        Rows                              1
        Columns                           1
        BitsAllocated                     1   =16
        BitsStored                        1   =16
        HighBit                           1   =15
        PixelRepresentation               1   =0
        PixelData                         1""",
    "Frame of Reference (C.7.4.1)": r"""
        FrameOfReferenceUID               1
        PositionReferenceIndicator        2   empty
        PatientPosition                   2   empty""",
    "Image Plane (C.7.6.2)": r"""
        PixelSpacing                      1
        ImageOrientationPatient           1
        ImagePositionPatient              1
        SliceThickness                    1
        SpacingBetweenSlices              1""",
    "Modality and VOI LUT (C.11.1, C.11.2)": r"""
        RescaleIntercept                  1
        RescaleSlope                      1
        RescaleType                       1   =US
        WindowCenter                      1
        WindowWidth                       1C  if WindowCenter""",
    "CT Image (C.8.2.1)": r"""
        Modality                          1   =CT
        ImageType                         1   =DERIVED\SECONDARY\AXIAL
        PixelRepresentation               1   =1
        RescaleIntercept                  1   =0
        RescaleSlope                      1   =1
        RescaleType                       1   =HU
        KVP                               2   empty
        AcquisitionNumber                 2   empty
        Laterality                        2   empty""",
    "MR Image (C.8.3.1)": r"""
        Modality                          1   =MR
        ImageType                         1   =DERIVED\SECONDARY\OTHER
        ScanningSequence                  1   =RM
        SequenceVariant                   1   =NONE
        ScanOptions                       2   empty
        MRAcquisitionType                 2   empty
        RepetitionTime                    2   empty
        EchoTime                          2   empty
        EchoTrainLength                   2   empty
        Laterality                        2   empty""",
    "Projection without a place in the patient": r"""
        PatientOrientation                1
        ImagerPixelSpacing                1
        RescaleIntercept                  1   =0
        RescaleSlope                      1   =1""",
    "CR Series and Image (C.8.1.1, C.8.1.2)": r"""
        Modality                          1   =CR
        ImageType                         1   =DERIVED\SECONDARY
        BodyPartExamined                  2   empty
        ViewPosition                      2   empty
        Laterality                        2   empty""",
    "DX Series, Anatomy, Image, Detector (C.8.11.1 to C.8.11.4), Acquisition Context (C.7.6.14)": r"""
        Modality                          1   =DX
        ImageType                         1   =DERIVED\SECONDARY\
        PresentationIntentType            1   =FOR PRESENTATION
        AnatomicRegionSequence            2   empty
        ImageLaterality                   1   =U
        PixelIntensityRelationship        1   =LOG
        PixelIntensityRelationshipSign    1   =1
        PresentationLUTShape              1   =IDENTITY
        BurnedInAnnotation                1   =YES|NO
        DetectorType                      2   empty
        AcquisitionContextSequence        2   empty""",
    "Enhanced images (C.7.5.2, C.7.6.14, C.7.6.16, C.7.6.17, C.8.16.2)": r"""
        ImageType                         1   =DERIVED\PRIMARY\VOLUME\NONE
        DeviceSerialNumber                1   =NONE
        ContentDate                       1   =19000101
        ContentTime                       1   =000000
        BurnedInAnnotation                1   =NO
        ContentQualification              1   =RESEARCH
        PixelPresentation                 1   =MONOCHROME
        VolumetricProperties              1   =VOLUME
        VolumeBasedCalculationTechnique   1   =NONE
        PresentationLUTShape              1   =IDENTITY
        AcquisitionContextSequence        2   empty
        NumberOfFrames                    1
        DimensionOrganizationType         1   =3D
        DimensionOrganizationSequence     1
        >DimensionOrganizationUID         1
        DimensionIndexSequence            1   2 items
        >DimensionOrganizationUID         1
        >DimensionIndexPointer            1   =(0020,9056)|(0020,9057)
        >FunctionalGroupPointer           1   =(0020,9111)
        SharedFunctionalGroupsSequence    1
        >PixelMeasuresSequence            1
        >>PixelSpacing                    1
        >>SliceThickness                  1
        >>SpacingBetweenSlices            1
        >PlaneOrientationSequence         1
        >>ImageOrientationPatient         1
        >PixelValueTransformationSequence 1
        >>RescaleIntercept                1
        >>RescaleSlope                    1
        >>RescaleType                     1   =US
        >FrameVOILUTSequence              1
        >>WindowCenter                    1
        >>WindowWidth                     1
        >FrameAnatomySequence             1
        >>AnatomicRegionSequence          1
        >>>CodeValue                      1   =38266002
        >>>CodingSchemeDesignator         1   =SCT
        >>>CodeMeaning                    1   =Entire body
        >>FrameLaterality                 1   =U
        PerFrameFunctionalGroupsSequence  1   NumberOfFrames items
        >PlanePositionSequence            1
        >>ImagePositionPatient            1
        >FrameContentSequence             1
        >>StackID                         1   =1
        >>InStackPositionNumber           1
        >>DimensionIndexValues            1""",
    "Enhanced CT (C.8.15)": r"""
        Modality                          1   =CT
        PixelRepresentation               1   =1
        SharedFunctionalGroupsSequence    1
        >PixelValueTransformationSequence 1
        >>RescaleIntercept                1   =0
        >>RescaleSlope                    1   =1
        >>RescaleType                     1   =HU
        >CTImageFrameTypeSequence         1
        >>FrameType                       1   =DERIVED\PRIMARY\VOLUME\NONE
        >>PixelPresentation               1   =MONOCHROME
        >>VolumetricProperties            1   =VOLUME
        >>VolumeBasedCalculationTechnique 1   =NONE
        >IrradiationEventIdentificationSequence 1
        >>IrradiationEventUID             1""",
    "Enhanced MR (C.8.13)": r"""
        Modality                          1   =MR
        ComplexImageComponent             1   =MAGNITUDE
        AcquisitionContrast               1   =UNKNOWN
        ApplicableSafetyStandardAgency    1   =NONE
        SharedFunctionalGroupsSequence    1
        >MRImageFrameTypeSequence         1
        >>FrameType                       1   =DERIVED\PRIMARY\VOLUME\NONE
        >>PixelPresentation               1   =MONOCHROME
        >>VolumetricProperties            1   =VOLUME
        >>VolumeBasedCalculationTechnique 1   =NONE
        >>ComplexImageComponent           1   =MAGNITUDE
        >>AcquisitionContrast             1   =UNKNOWN""",
    "Segmentation (C.8.20, C.7.5.2, C.7.6.16, C.7.6.17, C.12.4)": r"""
        Modality                          1   =SEG
        ImageType                         1   =DERIVED\PRIMARY
        DeviceSerialNumber                1   =NONE
        ContentDate                       1   =19000101
        ContentTime                       1   =000000
        ContentLabel                      1   =MASK
        ContentDescription                2   empty
        BurnedInAnnotation                3   =NO
        PresentationLUTShape              3   =IDENTITY
        BitsAllocated                     1   =1
        BitsStored                        1   =1
        HighBit                           1   =0
        NumberOfFrames                    1
        FrameOfReferenceUID               3
        PositionReferenceIndicator        3   empty
        PatientOrientation                3
        CodingSchemeIdentificationSequence 1
        >CodingSchemeDesignator           1   =99IMGSYNTH
        >CodingSchemeName                 1   =Names of structures as declared by the maker of the release
        >CodingSchemeResponsibleOrganization 1 =imgsynth
        ReferencedSeriesSequence          1
        >SeriesInstanceUID                1
        >ReferencedInstanceSequence       1   some items
        >>ReferencedSOPClassUID           1
        >>ReferencedSOPInstanceUID        1
        SourceImageSequence               1   some items
        >ReferencedSOPClassUID            1
        >ReferencedSOPInstanceUID         1
        SegmentationType                  1   =BINARY
        SegmentsOverlap                   1   =NO
        SegmentSequence                   1   some items
        >SegmentNumber                    1
        >SegmentLabel                     1
        >SegmentAlgorithmType             1   =AUTOMATIC
        >SegmentAlgorithmName             1
        >SegmentationAlgorithmIdentificationSequence 1
        >>AlgorithmFamilyCodeSequence     1
        >>>CodeValue                      1   =123110
        >>>CodingSchemeDesignator         1   =DCM
        >>>CodeMeaning                    1   =Artificial Intelligence
        >>AlgorithmVersion                1
        >>AlgorithmName                   1
        >SegmentedPropertyCategoryCodeSequence 1
        >>CodeValue                       1   =declared
        >>CodingSchemeDesignator          1   =99IMGSYNTH
        >>CodeMeaning                     1   =Structure declared by the maker
        >SegmentedPropertyTypeCodeSequence 1
        >>CodeValue                       1
        >>CodingSchemeDesignator          1
        >>CodeMeaning                     1
        DimensionOrganizationSequence     1
        >DimensionOrganizationUID         1
        DimensionIndexSequence            1   some items
        >DimensionOrganizationUID         1
        >DimensionIndexPointer            1   =(0062,000B)|(0020,0032)|(0020,9165)
        >FunctionalGroupPointer           1   =(0062,000A)|(0020,9113)|(0020,9111)
        >DimensionDescriptionLabel        1
        SharedFunctionalGroupsSequence    1
        >PixelMeasuresSequence            3   some items
        >>PixelSpacing                    1
        >>SliceThickness                  3
        >>SpacingBetweenSlices            3
        >PlaneOrientationSequence         3   some items
        >>ImageOrientationPatient         1
        PerFrameFunctionalGroupsSequence  1   NumberOfFrames items
        >FrameContentSequence             1
        >>DimensionIndexValues            1
        >PlanePositionSequence            3   some items
        >>ImagePositionPatient            1
        >SegmentIdentificationSequence    1
        >>ReferencedSegmentNumber         1
        >DerivationImageSequence          1
        >>DerivationCodeSequence          1
        >>>CodeValue                      1   =113076
        >>>CodingSchemeDesignator         1   =DCM
        >>>CodeMeaning                    1   =Segmentation
        >>SourceImageSequence             1   some items
        >>>ReferencedSOPClassUID          1
        >>>ReferencedSOPInstanceUID       1
        >>>ReferencedFrameNumber          3
        >>>SpatialLocationsPreserved      1   =YES
        >>>PurposeOfReferenceCodeSequence 1
        >>>>CodeValue                     1   =121322
        >>>>CodingSchemeDesignator        1   =DCM
        >>>>CodeMeaning                   1   =Source image for image processing operation""",
}

_BY_FIRST_WORDS = {name.split(" (")[0]: name for name in MODULES}
_ALL = ("SOP Common", "Patient", "General Study", "General Series", "General Equipment", "General Image", "Image Pixel")
_PLANE = ("Frame of Reference", "Image Plane", "Modality and VOI LUT")
_FLAT = ("Modality and VOI LUT", "Projection without a place in the patient")
_MULTI = ("Frame of Reference", "Enhanced images")


def _modules(*names: str) -> tuple[str, ...]:
    return tuple(_BY_FIRST_WORDS[name] for name in (*_ALL, *names))


FILE_META = (_BY_FIRST_WORDS["File Meta Information"],)

# SOP class to the modules of its object, by their names in MODULES.
OBJECTS = {
    uid.CTImageStorage: _modules(*_PLANE, "CT Image"),
    uid.MRImageStorage: _modules(*_PLANE, "MR Image"),
    uid.ComputedRadiographyImageStorage: _modules(*_FLAT, "CR Series and Image"),
    uid.DigitalXRayImageStorageForPresentation: _modules(*_FLAT, "DX Series, Anatomy, Image, Detector"),
    uid.EnhancedCTImageStorage: _modules(*_MULTI, "Enhanced CT"),
    uid.EnhancedMRImageStorage: _modules(*_MULTI, "Enhanced MR"),
    uid.SegmentationStorage: _modules("Segmentation"),
}
