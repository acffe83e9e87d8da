"""Whose images these are: one person under two ids, two persons under one, images that are there twice. LOCAL ONLY."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.findings import Finding, finding
from imgsynth.cohort.labels import sex_of
from imgsynth.cohort.look import Look

Looked = Sequence[tuple[Scan, Look]]
_YEARS = 2  # by which years of birth that are estimated from ages may differ: ages are rounded down


def identity_findings(looked: Looked, by_image: bool = False) -> list[Finding]:
    """Findings about persons; ``by_image``: the privacy unit is the image, whatever ids there are."""

    def owner(scan: Scan) -> str:
        return scan.names[0] if by_image else scan.patient or scan.names[0]

    return [
        *_same_pixels(looked, owner, "image_twice" if by_image else "image_two_patients"),
        *_same_slices(looked, owner, "image_twice" if by_image else "image_two_patients"),
        *_same_uids(looked, owner),
        *([] if by_image else _same_person(looked)),
        *([] if by_image else _clashes(looked)),
    ]


def _same_pixels(looked: Looked, owner: Callable[[Scan], str], code: str) -> list[Finding]:
    """Images whose decoded pixels are equal: a copy in another compression is one too, one that lost some is not."""
    groups = _groups((look.pixels, scan) for scan, look in looked if look.pixels and not look.empty)
    across = [group for group in groups if len({owner(scan) for scan in group}) > 1]
    within = [group for group in groups if len({owner(scan) for scan in group}) == 1]
    return [
        *finding(code, ((_names(group), _ids(map(owner, group))) for group in across)),
        *finding("duplicate_image", ((_names(group), _ids(map(owner, group))) for group in within)),
    ]


def _same_slices(looked: Looked, owner: Callable[[Scan], str], code: str) -> list[Finding]:
    """Different images that have planes in common: a series and a part or an extension of it."""
    holders: dict[str, list[int]] = defaultdict(list)
    for number, (_, look) in enumerate(looked):
        for one in set(look.slices):
            holders[one].append(number)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for numbers in holders.values():
        for other in numbers[1:]:
            if looked[numbers[0]][1].pixels != looked[other][1].pixels:
                shared[numbers[0], other] += 1
    places: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for (first, second), count in shared.items():
        pair = [looked[first][0], looked[second][0]]
        owners = [owner(scan) for scan in pair]
        places[owners[0] == owners[1]].append((_names(pair), f"{count} slices in common; {_ids(owners)}"))
    return [*finding(code, places[False]), *finding("shared_slices", places[True])]


def _same_uids(looked: Looked, owner: Callable[[Scan], str]) -> list[Finding]:
    """DICOM UIDs that belong to one thing: a study, series or instance of two patients, an instance in two images."""
    dicom = [(scan, look) for scan, look in looked if scan.affine]
    across: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, pairs in (
        ("Study", [(scan.study, scan) for scan, _ in dicom]),
        ("Series", [(scan.series, scan) for scan, _ in dicom]),
        ("SOP", [(uid, scan) for scan, look in dicom for uid in set(look.facts.sop) if uid]),
    ):
        for group in _groups(pairs):
            owners = tuple(sorted({owner(scan) for scan in group}))
            if len(owners) > 1 and name not in across[owners]:
                across[owners].append(name)
    held = _groups((uid, scan) for scan, look in dicom for uid in set(look.facts.sop) if uid)
    pairs_within = dict.fromkeys(
        _names(group)
        for group in held
        if len({owner(scan) for scan in group}) == 1 and len({s.files for s in group}) > 1
    )
    found = [
        (_ids(owners), f"the same {' and '.join(names)} Instance UID") for owners, names in across.items() if names
    ]
    return [
        *finding("uids_two_patients", found),
        *finding("duplicate_uid", ((names, "the same SOP Instance UID in two images") for names in pairs_within)),
    ]


def _same_person(looked: Looked) -> list[Finding]:
    groups = _groups((look.facts.person, scan) for scan, look in looked if look.facts.person)
    several = (sorted({str(scan.patient) for scan in group}) for group in groups)
    return finding(
        "same_name_and_birth", ((_ids(ids), "same name and date of birth") for ids in several if len(ids) > 1)
    )


def _clashes(looked: Looked) -> list[Finding]:
    """Patients whose images disagree on sex or year of birth, header and table taken together."""
    patients: dict[str, list[tuple[Scan, Look]]] = defaultdict(list)
    for scan, look in looked:
        if scan.patient:
            patients[scan.patient].append((scan, look))
    found = []
    for patient, images in patients.items():
        sexes = {sex_of(said) for scan, look in images for said in (scan.sex, look.facts.sex)} - {None}
        years = [year for _, look in images for year in look.facts.born]
        slack = _YEARS if any(look.facts.estimated for _, look in images) else 0
        said = [f"sex {' and '.join(sorted(map(str, sexes)))}"] if len(sexes) > 1 else []
        said += [f"born {min(years)} and {max(years)}"] if years and max(years) - min(years) > slack else []
        if said:
            found.append((f"patient {patient}", "; ".join(said)))
    return finding("demographic_clash", found)


def _groups(pairs: Iterable[tuple[Hashable, Scan]]) -> list[list[Scan]]:
    """Scans of one key, where there are several."""
    groups: dict[Hashable, list[Scan]] = defaultdict(list)
    for key, scan in pairs:
        groups[key].append(scan)
    return [group for group in groups.values() if len(group) > 1]


def _names(scans: Sequence[Scan]) -> str:
    return " and ".join(scan.names[0] for scan in scans[:3]) + (" …" if len(scans) > 3 else "")


def _ids(ids: Iterable[str]) -> str:
    found = sorted(set(ids))
    return ("patients " if len(found) > 1 else "patient ") + " and ".join(found[:3]) + (" …" if len(found) > 3 else "")
