"""Which patients train, which are held out for the audit, which test: fixed before training."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping

from imgsynth.schema import SplitsConfig
from imgsynth.types import SPLITS, Fault, InputError, Split


def split_patients(classes: Mapping[str, int], splits: SplitsConfig) -> dict[str, Split]:
    """Assign every patient of ``classes`` (patient id -> class index) to one split, stratified by class.

    Within each class, patients are ordered by a hash of seed and id and cut at the declared shares, so the result does
    not depend on the order of files, of rows or of the mapping. Each split gets its share of each class to within one
    patient (which way a fraction is rounded is drawn once per class from the same hash, so that many small classes do
    not all round the same way), and each split whose share is above 0 gets at least one patient.

    Cutting at shares has one consequence for the privacy statement: when a patient joins or leaves the *cohort*, at
    most one other patient of the same class moves across each cut. The guarantee is therefore stated for the training
    split as it is fixed here: neighbours differ by one patient of that split.

    Raises:
        InputError: if there are fewer patients than splits.
    """
    shares = {"holdout": splits.holdout, "test": splits.test}
    wanted = [split for split in SPLITS if split == "train" or shares[split] > 0]
    if len(classes) < len(wanted):
        raise InputError(
            Fault(
                "data.root",
                f"{len(classes)} patients",
                f"{len(wanted)} or more, one for each of {', '.join(wanted)}",
                "a larger cohort: differential privacy for a handful of patients leaves nothing to learn",
            )
        )
    assigned: dict[str, Split] = {}
    for index in sorted(set(classes.values())):
        ordered = sorted((p for p in classes if classes[p] == index), key=lambda p: _unit_hash(splits.seed, "id", p))
        offset = _unit_hash(splits.seed, "class", str(index))
        first = math.floor(splits.holdout * len(ordered) + offset)
        second = math.floor((splits.holdout + splits.test) * len(ordered) + offset)
        for rank, patient in enumerate(ordered):
            assigned[patient] = "holdout" if rank < first else "test" if rank < second else "train"
    _fill_empty(assigned, wanted, splits.seed)
    return assigned


def official_splits(parts: Iterable[tuple[str, Split | None]]) -> dict[str, Split]:
    """The split of every patient where the source has parts of its own, from one (patient, part) for each image.

    No patient's split depends on who else is in the cohort. A part may be empty, but for train.

    Raises:
        InputError: for images in no part, for a patient in two, and where there is nobody to train on.
    """
    found: dict[str, set[Split | None]] = {}
    for patient, part in parts:
        found.setdefault(patient, set()).add(part)
    one = {patient: next(iter(of)) for patient, of in found.items() if len(of) == 1}
    assigned = {patient: part for patient, part in one.items() if part is not None}
    if len(assigned) < len(found) or "train" not in assigned.values():
        count = Counter(str(part) for of in found.values() for part in of)
        raise InputError(
            Fault(
                "data.splits.official",
                f"{len(found) - len(assigned)} patients in no part or in several; parts: {dict(count)}",
                "a source with parts of its own, in one of which each patient is, and some to train on",
                "data.splits.official=false, to have splits drawn",
            )
        )
    return assigned


def _fill_empty(assigned: dict[str, Split], wanted: list[Split], seed: int) -> None:
    """Give a split that got nobody one patient of the largest split."""
    for split in wanted:
        if split not in assigned.values():
            largest = max(wanted, key=lambda name: sum(s == name for s in assigned.values()))
            donors = [patient for patient, s in assigned.items() if s == largest]
            assigned[min(donors, key=lambda p: _unit_hash(seed, f"fill {split}", p))] = split


def _unit_hash(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.sha256(f"{seed}\x1f{purpose}\x1f{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
