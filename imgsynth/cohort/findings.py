"""What a preflight can find in a cohort: each kind of finding with its severity, what it does, and the remedy.

``error``: training would stop, or the guarantee would not mean what it says. ``warning``: training goes on with less or
with doubtful data. ``note``: left out without loss, or worth knowing. docs/intake.md shows the same table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from imgsynth.types import Fault

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN = 5  # examples of a finding
UNKNOWN = "configuration"  # of faults without a code: settings that do not fit the source


class Kind(NamedTuple):
    severity: Severity
    title: str
    effect: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found, wherever it was found. LOCAL ONLY: names files and ids of patients.

    ``where`` are all places, ``details`` what was found there (as many, or one for all), ``excludes`` the files that
    are left out because of it.
    """

    code: str
    count: int
    where: tuple[str, ...]
    details: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]

    @property
    def severity(self) -> Severity:
        return self.kind.severity

    @property
    def remedy(self) -> str:
        """What the places themselves say, else what is said of the kind."""
        text = "; ".join(self.remedies[:3]) or self.kind.remedy
        return text[:1].upper() + text[1:]

    def to_json(self) -> dict[str, Any]:
        kind = self.kind
        return {
            "code": self.code, "severity": kind.severity, "title": kind.title, "effect": kind.effect,
            "remedy": self.remedy, "count": self.count,
            "examples": [{"where": place, "detail": detail} for place, detail in self.examples()],
            "files_excluded": len(self.excludes),
        }  # fmt: skip

    def as_fault(self) -> Fault:
        """For a person at the terminal: the first place, and how many there are."""
        (where, detail), *_ = self.examples()
        more = f" ({self.count} times)" if self.count > 1 else ""
        got = f"{self.kind.title}{more}" + (f": {detail}" if detail else "")
        return Fault(where, got, "none", self.remedy, self.code)

    def examples(self) -> list[tuple[str, str]]:
        """The first places with what was found there."""
        details = self.details if len(self.details) == len(self.where) else self.details[:1] * len(self.where)
        return [(place, detail) for place, detail in zip(self.where, details or [""] * len(self.where), strict=True)][
            :SHOWN
        ]


def finding(code: str, found: Iterable[tuple[str, str]]) -> list[Finding]:
    """One finding for the ``(where, detail)`` of its places, none where there are none."""
    places = list(found)
    if not places:
        return []
    return [Finding(code, len(places), tuple(w for w, _ in places), tuple(d for _, d in places))]


def findings_of(faults: Sequence[Fault], root: str = "") -> list[Finding]:
    """Faults as findings, one for each code; file names relative to ``root``."""
    groups: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        groups[fault.code if fault.code in KINDS else UNKNOWN].append(fault)
    return [
        Finding(
            code,
            len(group),
            tuple(below(fault.where, root) for fault in group),
            tuple(f"got {fault.got}; expected {fault.expected}" for fault in group),
            tuple(dict.fromkeys(fault.remedy for fault in group)),
            tuple(dict.fromkeys(below(name, root) for fault in group for name in fault.files)),
        )
        for code, group in groups.items()
    ]


def below(name: str, root: str) -> str:
    """``name`` without the path of the root in front of it."""
    return name.removeprefix(root.rstrip("/") + "/") if root else name


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then by how often."""
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), -one.count, one.code))


_LESS = "These images are missing from the cohort."
_TWICE = (
    "The guarantee for one patient covers a part of this person's data only, and they may be in training and in test."
)
_EXPORT = "Export the series again, or leave it out."

KINDS: dict[str, Kind] = {
    # files that are left out
    "unreadable": Kind("warning", "File that cannot be read", _LESS, "Copy or export it again, or remove it."),
    "broken_header": Kind("warning", "Header element that cannot be understood", _LESS, "Repair or remove the file."),
    "truncated": Kind("warning", "File that ends before its pixels do", _LESS, "Copy or export the file again."),
    "no_pixels": Kind("warning", "Image object without pixel data", _LESS, "Export it again with its pixels."),
    "absurd_size": Kind("warning", "File whose size or content cannot be what it says", _LESS,
                        "Export it again, uncompressed, or remove it."),
    "unsafe_zip": Kind("warning", "Zip, or file in a zip, that cannot be unpacked safely", _LESS,
                       "Unpack it by hand, and point data.root at the folder."),
    "odd_name": Kind("warning", "File whose name is no text", _LESS, "Rename it."),
    "missing_listed": Kind("warning", "DICOMDIR that lists files which are not there", "The export is not whole.",
                           "Copy the medium again, whole."),
    "mask_left_out": Kind("warning", "Mask that is not used", "Its image is kept, without a mask.",
                          "See the example."),
    "no_geometry": Kind("warning", "Image without position, orientation or pixel size",
                        "It cannot be placed in space, and is left out.", "Export it again with its geometry."),
    "colour_image": Kind("warning", "Colour image", "Colour is not synthesised: it is left out.",
                         "Nothing, or export it in grey."),
    "multiframe": Kind("warning", "Several frames in an object of another kind than enhanced CT or MR",
                       "Its frames have no place in space: it is left out.", "Export single frames."),
    "mixed_frames": Kind("warning", "Multi-frame object with stacks of several orientations or pixel sizes",
                         "It is no one volume, and is left out.", "Export one stack per file."),
    "duplicate_uid": Kind("warning", "One SOP Instance UID with different contents",
                          "Nobody can say which is right: in one series all of it is left out.",
                          "Remove the file that is wrong."),
    "missing_slices": Kind("warning", "Series with missing slices",
                           "A hole would be learnt as anatomy: the series is left out, never interpolated.", _EXPORT),
    "irregular_spacing": Kind("warning", "Series with uneven steps from slice to slice",
                              "As a volume it would be distorted: it is left out.", _EXPORT),
    "overlapping_slices": Kind("warning", "Series with several slices at one position",
                               "Phases, echoes or time points in one series: it is left out.",
                               "Export one phase, echo or time point per series."),
    "gantry_tilt": Kind("warning", "Series taken with a tilted gantry",
                        "Stacked as it is, anatomy would be sheared: it is left out.",
                        "Resample it to a straight stack first."),
    "localizer": Kind("note", "Localizer or scout", "Set aside: it is no slice of the volume.", "Nothing."),
    "secondary_capture": Kind("note", "Secondary capture of CT or MR",
                              "A picture of a screen, often with names in it: left out.", "Nothing."),
    "other_object": Kind("note", "DICOM object that is no image of a kind that is read",
                         "Reports, contours, segmentations and the like are left out.", "Nothing, if none is wanted."),
    "other_modality": Kind("note", "Series of another modality", "Left out by data.modality.",
                           "Nothing, or choose the other modality."),
    "other_channel": Kind("note", "Further channel of a case", "One channel is read: the others are left out.",
                          "Nothing, or put the wanted channel alone."),
    "other_image": Kind("note", "Image file that is not of the cohort",
                        "Another kind of image, a derivative or a mask without an image: left out.",
                        "Nothing, if it is not wanted."),
    "unmatched_path": Kind("warning", "Path that data.pattern does not match", _LESS, "Widen the pattern."),
    "duplicate_file": Kind("note", "File that is there twice", "The copy is dropped.", "Nothing."),
    "not_an_image": Kind("note", "File that is no image", "Passed over.", "Nothing."),
    "hidden_file": Kind("note", "Hidden file", "Passed over.", "Nothing."),
    "unaccounted": Kind("error", "File that was neither used nor refused", "A mistake of imgsynth: nothing may vanish.",
                        "Please report it with the kind of file."),
    # who is who
    "no_patient_id": Kind("error", "Image without a patient id", "The unit of privacy is the patient: nobody knows "
                          "whose guarantee this image would count for.", "Give ids by data.patient or data.pattern."),
    "lookalike_ids": Kind("error", "Ids that differ only by case, blanks, zeros or invisible characters", _TWICE,
                          "Write them alike if they are one person, rename one if they are two."),
    "image_two_patients": Kind("error", "The same pixels under two ids", _TWICE,
                               "Remove one copy, or give both the same id."),
    "image_twice": Kind("warning", "The same pixels in two images, where the unit is the image",
                        "Who is in the cohort twice has the weaker guarantee of two images (about 2ε), and may be in "
                        "training and in test.", "Remove one of them."),
    "uids_two_patients": Kind("error", "A study, series or instance UID under two patient ids", _TWICE,
                              "Find out whose it is, and give it one id."),
    "same_name_and_birth": Kind("warning", "Two ids with the same name and date of birth", _TWICE,
                                "Join the ids if they are one person."),
    "demographic_clash": Kind("warning", "One id with two sexes or two years of birth",
                              "Two persons may be filed under one id: they would share one contribution, one split and "
                              "one label.", "Correct the header or table, or separate the persons."),
    "unit_is_image": Kind("error", "Unit image though there are patient ids",
                          "A guarantee for an image says little about a person who has several.", "data.unit=patient"),
    "one_patient": Kind("error", "A cohort of one patient", "No guarantee can hide the only one.", "More patients."),
    # images that are there twice
    "duplicate_image": Kind("warning", "The same pixels twice in one patient",
                            "The image counts twice among the patient's images.", "Remove one of them."),
    "shared_slices": Kind("warning", "Two images of a patient with slices in common",
                          "A series and a part or a re-export of it: this anatomy counts twice.", "Keep one of them."),
    # series
    "mixed_orientations": Kind("warning", "One series with stacks of several orientations",
                               "Each stack counts as an image of its own, also one of a single slice.",
                               "Leave out what is no volume of the cohort."),
    "several_stacks": Kind("note", "Multi-frame file of several stacks, time points or frame types",
                           "Each is taken as an image of its own.", "Leave out what is no volume of the cohort."),
    "split_series": Kind("warning", "One series with several stacks: other matrices, pixel sizes or time points",
                         "Each stack counts as an image of its own, also one of a single slice.",
                         "Leave out what is no volume of the cohort."),
    "derived_image": Kind("warning", "Derived image: a reformat, projection or map",
                          "No anatomy of its own, or other intensities than the measured images.",
                          "Keep original images only, unless these are what you want to synthesise."),
    "spacing_assumed": Kind("warning", "Pixel size or slice distance that the header does not tell",
                            "1 mm is assumed: lengths in this image mean nothing.", "Leave it out, or use fit=resize."),
    "enhanced": Kind("note", "Multi-frame (enhanced) object", "Read: frames are sorted by their position.", "Nothing."),
    "instance_order": Kind("note", "Instance Numbers that do not follow the geometry",
                           "Nothing: slices are sorted by position.", "Nothing."),
    "orientations_differ": Kind("note", "Image stored along other axes than most",
                                "Nothing: all are turned to the grid's axes.", "Nothing."),
    # intensities
    "broken_pixels": Kind("error", "Pixels that cannot be decoded", "Training would stop at this image.",
                          "Export it again, or remove it."),
    "not_finite": Kind("warning", "Voxels that are NaN or infinite", "The image is left out.",
                       "Repair or remove the file."),
    "no_scale": Kind("error", "Stored values without a linear scale to intensities",
                     "Training would stop at this image.", "Export with Rescale Slope and Intercept."),
    "mixed_units": Kind("error", "Units that differ within a series", "Training would stop at this image.",
                        "Export one unit per series."),
    "rescale_type": Kind("warning", "CT that is not in Hounsfield units (Rescale Type)",
                         "One window cannot fit it and the others.", "Leave it out, or export it in HU."),
    "implausible_hu": Kind("warning", "CT without any value below 0 HU",
                           "No air in the image: its scale is probably lost, and all tissue would be shifted.",
                           "Check Rescale Intercept, or leave it out."),
    "padding": Kind("note", "Padding outside the field of view",
                    "Filled with the lowest intensity (-1024 HU in CT).", "Nothing."),
    "empty_image": Kind("warning", "Image with one value in nearly all voxels",
                        "There is nothing to learn from it, and a step is spent on it.", "Leave it out."),
    "blank_slices": Kind("warning", "Blank slices inside a volume", "A lost slice would be learnt as anatomy.",
                         _EXPORT),
    "outlier_shape": Kind("warning", "Field of view unlike the others'",
                          "Another body part, a crop or a stray: the grid will not fit it.", "Look at it."),
    "outlier_spacing": Kind("warning", "Voxel size unlike the others'",
                            "Thick slices or another protocol: detail that others have is missing.", "Look at it."),
    "outlier_intensity": Kind("warning", "Intensities unlike the others'",
                              "Another scale, contrast or a fault of the export: it will pull the window or the model.",
                              "Look at it."),
    # what can be seen
    "text_in_pixels": Kind("warning", "Text in the pixels",
                           "Names drawn into images pass by every search of headers, and a generator can draw them.",
                           "Blank it or leave the image out."),
    "text_by_header": Kind("warning", "Header that speaks for text in the pixels",
                           "Names drawn into images pass by every search of headers, and a generator can draw them.",
                           "Look at the image; blank it or leave it out."),
    "face": Kind("warning", "Volume that looks like a head", "A face in a volume can be matched to photographs.",
                 "Remove faces or strip skulls, and declare it by data.defaced=true."),
    "text_not_read": Kind("note", "Text in pixels was not looked for everywhere",
                          "Nothing is known of text in these images.", "Install imgsynth[ocr]; look at the samples."),
    # labels, groups, table, settings
    "no_label": Kind("error", "Image without a label", "Training stops: every image needs its class.",
                     "Label it or take it out."),
    "unknown_label": Kind("error", "Label that is not declared", "The list of classes is public, and must be whole.",
                          "Declare it in data.classes, or correct it."),
    "labels_unused": Kind("note", "Folders that may be labels", "They are not used.", "Declare data.classes."),
    "incomplete_table": Kind("error", "Patient or image that the table does not have", "Training stops.",
                             "Complete the table."),
    "contradictory_table": Kind("error", "Rows of the table that contradict each other", "Training stops.",
                                "Correct the table."),
    "rows_without_image": Kind("note", "Row of the table without an image", "Passed over.", "Nothing."),
    "mixed_modalities": Kind("error", "A mixture of modalities", "One run synthesises one modality.",
                             "Choose one by data.modality."),
    "unknown_sex_or_age": Kind("note", "Patient without sex or age",
                               "Splits and fairness can say nothing about this patient.", "Complete the table."),
    "small_group": Kind("note", "Group of few patients",
                        "A model under privacy can hardly learn it, and its exact count says much about few people: "
                        "this report must stay local.", "Join groups; do not publish the count."),
    "no_image": Kind("error", "No usable image", "There is nothing to train on.", "Check data.root and data.kind."),
    UNKNOWN: Kind("error", "Setting that does not fit the source", "Training stops.", "See the example."),
}  # fmt: skip
