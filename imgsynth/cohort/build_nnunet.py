"""Folders with imagesTr and labelsTr: Medical Segmentation Decathlon, nnU-Net of both versions."""

from __future__ import annotations

import re
from pathlib import Path

from imgsynth.cohort.build_images import SUFFIXES as PICTURES
from imgsynth.cohort.build_mask_check import check_masks
from imgsynth.cohort.build_probe import probe_all
from imgsynth.cohort.build_scan import Found, Scan, files_under, names_of, stem_of
from imgsynth.cohort.dataset_json import Described, modality_of, read_dataset_json
from imgsynth.schema import DataConfig
from imgsynth.types import Fault, InputError, nearest_name

SUFFIXES = (".nii", ".nii.gz", *PICTURES)
SHOWN = 10  # names in a message; the fault has them all
_CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net: case_0000 is the case's first channel


def find_nnunet(data: DataConfig) -> Found:
    """One image per case, the channel ``data.channel`` of it where there are several, with its mask from labelsTr.

    Ids are case ids (``Found.ids``). What dataset.json says is held against the files; it must be there where
    ``data.kind`` is nnunet. A mask with labels that it does not declare, or on another grid than its image, is left
    out with a fault.

    Raises:
        InputError: with every listed file that is absent, and all else in which folder and dataset.json differ.
    """
    root = Path(str(data.root))
    if root.name == "imagesTr":
        root = root.parent  # its masks and its dataset.json lie beside
    if not (root / "imagesTr").is_dir():
        raise InputError(
            Fault(str(root), "a folder without imagesTr", "imagesTr, labelsTr and dataset.json", "data.root=DATASET")
        )
    described = read_dataset_json(root / "dataset.json", required=data.kind == "nnunet")
    found = Found(root, ids="case")
    images = [path for path in files_under(root / "imagesTr", SUFFIXES) if _ends(path, described)]
    labels = {stem_of(path): path for path in files_under(root / "labelsTr", SUFFIXES) if _ends(path, described)}
    cases = _cases(images, set(described.training or ()) | set(labels))
    number, faults = _channel(cases, described, data.channel)
    faults += _listing_faults(root, cases, labels, described)
    if faults:
        raise InputError(*faults)
    for case, channels in sorted(cases.items()):
        for other, path in sorted(channels.items()):
            if other != number or (described.training is not None and case not in described.training):
                found.skipped.append(_left_out(path.relative_to(root), other, number, described))
        if number in channels and (described.training is None or case in described.training):
            name = channels[number].relative_to(root)
            mask = labels[case].relative_to(root).as_posix() if case in labels else None
            modality = modality_of(described.channels.get(number, "")) or data.modality
            found.scans.append(
                Scan((*names_of(name), case), (name.as_posix(),), modality, patient=case, study=case, series=case,
                     mask=mask)
            )  # fmt: skip
    _others(found, root, labels)
    return check_masks(probe_all(found), set(described.labels) or None)


def _ends(path: Path, described: Described) -> bool:
    return described.ending is None or path.name.endswith(described.ending)


def _cases(images: list[Path], own: set[str]) -> dict[str, dict[int, Path]]:
    """The files of each case by channel. A stem that is a case's name (listed, or with a mask) has no channel in it."""
    cases: dict[str, dict[int, Path]] = {}
    for path in images:
        stem = stem_of(path)
        match = None if stem in own else _CHANNEL.search(stem)
        case, number = (stem[: match.start()], int(match.group(1))) if match else (stem, 0)
        cases.setdefault(case, {})[number] = path
    return cases


def _channel(cases: dict[str, dict[int, Path]], described: Described, asked: str | None) -> tuple[int, list[Fault]]:
    """The number of the channel that is wanted, and what is wrong with the wish or with the channels."""
    on_disk = {number for channels in cases.values() for number in channels}
    names = {number: described.channels.get(number, "") for number in sorted(on_disk | set(described.channels))}
    listed = ", ".join(f"{number} {name}".strip() for number, name in names.items())
    if len(described.channels) > 1 and on_disk == {0} and cases:
        return 0, [
            Fault(str(described.path), f"{len(described.channels)} channels ({listed}) in one file a case",
                  "a file for each channel, CASE_0000, CASE_0001, …", "split them (nnUNetv2_convert_MSD_dataset does)")
        ]  # fmt: skip
    if asked is None and len(names) > 1:
        return 0, [
            Fault("data.channel", f"nothing, and several channels: {listed}", "one channel a run",
                  f"data.channel={next(iter(names.values())) or 0}")
        ]  # fmt: skip
    if asked is None:
        return next(iter(names), 0), []
    wanted = [number for number, name in names.items() if asked in (str(number), f"{number:04d}", name)]
    if len(wanted) == 1:
        without = [case for case, channels in sorted(cases.items()) if wanted[0] not in channels]
        return wanted[0], _absent("data.channel", f"cases without channel {wanted[0]}", without)
    near = nearest_name(asked, [name for name in names.values() if name]) or next(iter(names), 0)
    return 0, [Fault("data.channel", asked, f"one of {listed}", f"data.channel={near}")]


def _listing_faults(
    root: Path, cases: dict[str, dict[int, Path]], labels: dict[str, Path], described: Described
) -> list[Fault]:
    """Where dataset.json and the folder do not say the same."""
    where, faults = str(described.path), []
    listed = described.training
    if listed is not None:
        faults += _absent(where, "listed images that are not in imagesTr", sorted(set(listed) - set(cases)))
        without = sorted(case for case, labelled in listed.items() if labelled and case not in labels)
        faults += _absent(where, "listed labels that are not in labelsTr", without)
    number = len(cases) if listed is None else len(listed)
    if described.count is not None and described.count != number:
        faults.append(
            Fault(where, f"numTraining {described.count}, and {number} cases {'listed' if listed else 'in imagesTr'}",
                  "as many cases as it states", "complete the copy of the data set, or correct dataset.json")
        )  # fmt: skip
    return faults


def _absent(where: str, what: str, names: list[str]) -> list[Fault]:
    if not names:
        return []
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return [Fault(where, f"{len(names)} {what}: {shown}", "every one of them",
                  "complete the copy of the data set, or correct dataset.json")]  # fmt: skip


def _left_out(name: Path, number: int, wanted: int, described: Described) -> Fault:
    if number != wanted:
        return Fault(name.as_posix(), f"channel {number:04d}", f"channel {wanted:04d}", "nothing, or data.channel",
                     "other_channel", (name.as_posix(),))  # fmt: skip
    return Fault(name.as_posix(), "an image that dataset.json does not list", "a listed case",
                 "list it under training, if it belongs to the cohort", "other_image", (name.as_posix(),))  # fmt: skip


def _others(found: Found, root: Path, labels: dict[str, Path]) -> None:
    """Masks without an image, and images for testing, are not of the cohort, and are said to be there."""
    used = {scan.mask for scan in found.scans}
    spare = [name for path in labels.values() if (name := path.relative_to(root).as_posix()) not in used]
    tests = [path.relative_to(root).as_posix() for path in files_under(root / "imagesTs", SUFFIXES)]
    for names, what in ((spare, "masks without an image in the cohort"), (tests, "images for testing (imagesTs)")):
        if names:
            found.skipped.append(
                Fault(f"{root}/{Path(names[0]).parent}", f"{len(names)} {what}", "images for training, with masks",
                      "nothing, if these are not wanted", "other_image", tuple(names))
            )  # fmt: skip
