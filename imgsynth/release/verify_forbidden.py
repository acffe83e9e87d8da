"""Is anything in a release that no release has: attributes of persons, foreign UIDs, paths, machines, addresses?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pydicom
from nibabel.filebasedimages import ImageFileError
from pydicom import DataElement, Dataset
from pydicom.errors import InvalidDicomError

from imgsynth import __version__
from imgsynth.release.facts import Facts
from imgsynth.release.folder import PUBLIC_KEY, SIGNATURE, list_files
from imgsynth.release.forbidden import FORBIDDEN, TEXTS, texts_in
from imgsynth.release.sbom import SBOM
from imgsynth.types import Fault

REMEDY = "do not hand it over, or use it; tell whoever published it"
STANDARD = "1.2.840.10008."  # DICOM's own registry (PS3.6 A)
# Dates and times that some IODs must have; whatever they say, it is not of a scan.
MADE = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")
NAMES = ("PatientName", "ContentCreatorName")  # the synthetic patient, and the program
OWN = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "DimensionOrganizationUID",
       "MediaStorageSOPInstanceUID", "IrradiationEventUID", "TrackingUID",
       "SynchronizationFrameOfReferenceUID")  # fmt: skip
ATTACHED = (0x50, 0x60)  # of the repeating groups of curves and overlays, the first byte
NOTHING = "NONE"  # what says that there is none, where an IOD must have a value
IMPLEMENTATIONS = ("ImplementationClassUID",)
TEXT_VRS = {"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
IMAGES = (".dcm", ".nii", ".nii.gz")


def forbidden_faults(folder: Path, facts: Facts) -> Iterator[Fault]:
    """Faults of DICOM attributes and UIDs, of NIfTI headers, and of the text of every other file."""
    allowed = _allowed(facts)
    names = list_files(folder)
    for name in names:
        yield from _of_text(f"{name} (its name)", name, allowed)
    dicom = [name for patient in facts.patients for name in (*patient.dicom, *patient.segmentations)]
    derivation = facts.provenance.derivation if facts.made["imgsynth"] == __version__ else None
    root = f"{facts.made['config']['sample']['uid_root']}."
    yield from _dicom(folder, dicom, root, derivation, allowed)
    for name in names:
        path = folder / name
        if name.endswith((".nii", ".nii.gz")):
            yield from _of_text(name, _nifti_text(path), allowed)
        elif not name.endswith(IMAGES) and name not in (SIGNATURE, PUBLIC_KEY) and not _is_chunk(name, facts):
            text = path.read_text(encoding="utf-8", errors="replace")
            yield from _of_text(name, _without_links(text, name), allowed)


def attribute_faults(name: str, dataset: Dataset, own: set[str], allowed: frozenset[str]) -> Iterator[Fault]:
    """Faults of one DICOM header, nested items included; ``own`` are the UIDs of the release's instances."""
    for element in (*getattr(dataset, "file_meta", Dataset()).iterall(), *dataset.iterall()):
        keyword, empty = element.keyword, element.is_empty
        where = f"{name}: {keyword or element.tag}"
        if keyword in FORBIDDEN and not empty and element.value != NOTHING:
            yield Fault(
                where, f"{FORBIDDEN[keyword]}, {_short(element)}", "nothing: a synthetic image has none", REMEDY
            )
        elif element.tag.group >> 8 in ATTACHED and not empty:
            yield Fault(where, "an overlay or a curve", "nothing: a synthetic image has none", REMEDY)
        elif element.VR in ("DA", "DT", "TM") and not empty and keyword not in MADE:
            yield Fault(where, f"a date or time, {_short(element)}", "none: a synthetic image has no time", REMEDY)
        elif element.VR == "PN" and not empty and keyword not in NAMES:
            yield Fault(where, f"a name, {_short(element)}", "none but the synthetic patient's", REMEDY)
        elif element.VR == "UI" and keyword not in IMPLEMENTATIONS:
            for uid in _values(element):
                if not uid.startswith(STANDARD) and uid not in own:
                    yield Fault(where, f"UID {uid}", "a UID of this release, or one of DICOM's own", REMEDY)
        if element.VR in TEXT_VRS and not empty:
            for value in _values(element):
                yield from _of_text(where, value, allowed)


def _dicom(
    folder: Path, names: list[str], root: str, derivation: str | None, allowed: frozenset[str]
) -> Iterator[Fault]:
    """Two passes, so that a reference to a file that comes later is no foreign UID. The release's own begin with
    ``root``; ``derivation`` is what images must say of their making, None where that is not known."""
    headers: dict[str, Dataset] = {}
    own: set[str] = set()
    for name in names:
        try:
            headers[name] = pydicom.dcmread(folder / name, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError, EOFError):
            continue  # verify_dicom names it
        defined = (*headers[name].file_meta.iterall(), *headers[name].iterall())
        own.update(uid for element in defined if element.keyword in OWN for uid in _values(element))
    own = {uid for uid in own if uid.startswith(root)}
    for name, header in headers.items():
        yield from attribute_faults(name, header, own, allowed)
        said = header.get("DerivationDescription")
        if derivation is not None and said != derivation:
            where = f"{name}: DerivationDescription"
            yield Fault(where, repr(said), f"{derivation!r}, as the card has it", REMEDY)


def _nifti_text(path: Path) -> str:
    """Every byte of a NIfTI header, and of its extensions, that could be text."""
    try:
        image = nib.load(path)
    except (ImageFileError, OSError, ValueError, EOFError):
        return ""  # verify_nifti names it
    fields = [bytes(image.header[name].item()) for name in image.header if image.header[name].dtype.kind == "S"]
    contents = [extension.get_content() for extension in image.header.extensions]
    fields += [one if isinstance(one, bytes) else str(one).encode() for one in contents]
    return "\n".join(field.decode("latin-1") for field in fields)


def _is_chunk(name: str, facts: Facts) -> bool:
    """Whether it is numbers of the Zarr store: its metadata are JSON."""
    store = facts.cohort.get("zarr")
    return bool(store) and name.startswith(f"{store}/") and not name.endswith(".json")


def _allowed(facts: Facts) -> frozenset[str]:
    """What the custodian chose to say (release.*) and names of settings may look like an address or a path."""
    says = facts.answers
    told = [says.title, says.contact, says.description, says.ethics, *(says.creators or []), facts.made["licence_text"]]
    return frozenset(found for text in told if text for what, pattern in TEXTS for found in pattern.findall(text))


def _without_links(text: str, name: str) -> str:
    """Without web addresses, whose paths are none of a machine; in the bill of materials, names of licences too."""
    text = re.sub(r"https?://[^\s\"')>]+", "", text)
    return text if name != SBOM else re.sub(r'"name": "[^"]*"', "", text)


def _of_text(where: str, text: str, allowed: frozenset[str]) -> Iterator[Fault]:
    for what, found in texts_in(text, allowed):
        yield Fault(where, f"{what}, {found[:60]!r}", "nothing of a machine or a person", REMEDY)


def _values(element: DataElement) -> list[str]:
    value = element.value
    if value is None or element.VR == "SQ":
        return []
    return [str(one) for one in value] if element.VM > 1 else [str(value)] if str(value) else []


def _short(element: DataElement) -> str:
    return "a sequence" if element.VR == "SQ" else repr(str(element.value)[:40])
