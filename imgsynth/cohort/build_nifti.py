"""A folder of NIfTI files: plain, imagesTr/labelsTr (Medical Segmentation Decathlon, nnU-Net), or BIDS."""

from __future__ import annotations

import re
from pathlib import Path

from imgsynth.cohort.build_probe import probe_all
from imgsynth.cohort.build_scan import Found, Scan, files_under, names_of, stem_of
from imgsynth.files import read_json
from imgsynth.schema import DataConfig
from imgsynth.types import Fault

SUFFIXES = (".nii", ".nii.gz")
_ENTITY = re.compile(r"(?:^|_)(sub|ses|run)-([A-Za-z0-9]+)")
_MASK_NAME = re.compile(r"(?:^|[_\-.])(mask|seg|dseg|probseg|segmentation|label|labels|roi|lesion)$", re.IGNORECASE)
_MASK_FOLDER = re.compile(r"(masks?|labels?|labelsTr|labelsTs|segmentations?|segs?)", re.IGNORECASE)
_CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net: case_0000 is the case's first channel


def find_nifti(data: DataConfig) -> Found:
    """Find the images (never the masks, which are recorded beside their image) and read each of them once.

    Medical Segmentation Decathlon and nnU-Net folders give case ids; BIDS names give subjects and sessions; in a plain
    folder there are no patient ids, unless ``data.pattern`` or ``data.table`` has them.
    """
    root = Path(str(data.root))
    if root.name == "imagesTr":
        root = root.parent  # the decathlon's own folder, whose masks lie beside
    found = Found(root)
    if (root / "imagesTr").is_dir():
        _decathlon(found)
    else:
        paths = [path.relative_to(root) for path in files_under(root, SUFFIXES)]
        paths = [path for path in paths if "derivatives" not in path.parts]
        if any(path.name.startswith("sub-") for path in paths):
            _bids(found, paths)
        else:
            _plain(found, paths)
    _modality(found, data.modality)
    return probe_all(found, "nifti")


def _decathlon(found: Found) -> None:
    found.ids = "case"
    for path in files_under(found.root / "imagesTr", SUFFIXES):
        relative = path.relative_to(found.root)
        channel = _CHANNEL.search(stem_of(path))
        case = _CHANNEL.sub("", stem_of(path))
        if channel and int(channel.group(1)) > 0:
            found.skipped.append(
                Fault(
                    relative.as_posix(),
                    f"channel {channel.group(1)}",
                    "channel 0000",
                    "one channel a run: put the wanted channel alone in imagesTr",
                    "other_channel",
                    (relative.as_posix(),),
                )
            )
            continue
        masks = [p for suffix in SUFFIXES if (p := found.root / "labelsTr" / f"{case}{suffix}").is_file()]
        mask = masks[0].relative_to(found.root).as_posix() if masks else None
        names = (*names_of(relative), case)
        found.scans.append(Scan(names, (relative.as_posix(),), None, patient=case, study=case, series=case, mask=mask))


def _bids(found: Found, paths: list[Path]) -> None:
    """BIDS file names: anatomical images (anat/), or a cohort laid out flat; masks go to the image of their session."""
    masks = {}
    for path in paths:
        entities = dict(_ENTITY.findall(stem_of(path)))
        if "sub" not in entities:
            found.skipped.append(
                Fault(
                    path.as_posix(),
                    "a name without sub-<label>",
                    "a BIDS name",
                    "rename or remove it",
                    "other_image",
                    (path.as_posix(),),
                )
            )
        elif _MASK_NAME.search(stem_of(path)):
            masks[entities["sub"], entities.get("ses")] = path.as_posix()
        elif (
            len(path.parts) > 1
            and path.parent.name not in ("anat", "ct")
            and path.parts[-2][:4] not in ("sub-", "ses-")
        ):
            found.skipped.append(
                Fault(
                    path.as_posix(),
                    f"an image of {path.parent.name}/",
                    "anatomical images (anat/)",
                    "nothing, if these are not wanted; otherwise point data.root at them",
                    "other_image",
                    (path.as_posix(),),
                )
            )
        else:
            subject, session = f"sub-{entities['sub']}", f"ses-{entities.get('ses', '1')}"
            scan = Scan(names_of(path), (path.as_posix(),), None, patient=subject, study=session, series=stem_of(path))
            found.scans.append(scan)
    for scan in found.scans:
        entities = dict(_ENTITY.findall(scan.names[2]))
        scan.mask = masks.get((entities["sub"], entities.get("ses")))


def _plain(found: Found, paths: list[Path]) -> None:
    masks = {}
    for path in paths:
        in_mask_folder = any(_MASK_FOLDER.fullmatch(part) for part in path.parts[:-1])
        if in_mask_folder or _MASK_NAME.search(stem_of(path)):
            masks[_MASK_NAME.sub("", stem_of(path))] = path.as_posix()
        else:
            scan = Scan(names_of(path), (path.as_posix(),), None, study=stem_of(path), series=stem_of(path))
            found.scans.append(scan)
    for scan in found.scans:
        scan.mask = masks.get(scan.names[2])


def _modality(found: Found, declared: str | None) -> None:
    """NIfTI does not record the modality: dataset.json, then BIDS suffixes say it, and otherwise the configuration."""
    stated = _dataset_json(found)
    for scan in found.scans:
        suffix = scan.names[2].rpartition("_")[2].lower()
        scan.modality = (
            stated or {"ct": "CT", "t1w": "MR", "t2w": "MR", "flair": "MR", "pdw": "MR"}.get(suffix) or declared
        )


def _dataset_json(found: Found) -> str | None:
    path = found.root / "dataset.json"
    if not path.is_file():
        return None
    try:
        described = read_json(path)
        channel = str((described.get("channel_names") or described.get("modality") or {}).get("0", "")).upper()
    except (ValueError, AttributeError) as error:
        found.skipped.append(Fault(str(path), str(error), "the JSON of a decathlon or nnU-Net data set", "repair it",
                                   "broken_header", (str(path),)))  # fmt: skip
        return None
    if "CT" in channel:
        return "CT"
    return "MR" if re.search(r"MR|T1|T2|FLAIR|ADC", channel) else None
