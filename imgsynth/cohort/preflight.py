"""The preflight: every image of a surveyed source looked at once, every finding, every file accounted for. LOCAL ONLY.

What it costs: each image is decoded once, and text is read in at most TEXT of them (those that headers suspect, and
others evenly spread). What is seen of an image is kept by the digest of its content, so that it is not read again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsynth.cohort.build import Survey
from imgsynth.cohort.excluded import Account, account
from imgsynth.cohort.findings import SEVERITIES, Finding, findings_of, ordered
from imgsynth.cohort.findings_groups import group_findings
from imgsynth.cohort.findings_identity import identity_findings
from imgsynth.cohort.findings_images import image_findings
from imgsynth.cohort.findings_visible import Reader, visible_findings
from imgsynth.cohort.look import Look, look_at
from imgsynth.cohort.look_store import LookStore
from imgsynth.console import say, table, track
from imgsynth.types import Fault
from imgsynth.volumes.dicom_element import quietly

WORKERS = 8  # images in memory at once
TEXT = 500  # images in which text is looked for, besides those whose headers speak for it


@dataclass(frozen=True)
class Preflight:
    """All findings, the worst first; ``looks`` are of the surveyed scans, in their order."""

    findings: tuple[Finding, ...]
    looks: tuple[Look, ...]
    account: Account

    def codes(self, *severities: str) -> set[str]:
        return {one.code for one in self.findings if one.severity in (severities or SEVERITIES)}

    def to_json(self) -> dict[str, Any]:
        count = {severity: sum(one.severity == severity for one in self.findings) for severity in SEVERITIES}
        read, used = len(self.account.read), len(self.account.used)
        return {
            "files": {"read": read, "used": used, "excluded": len(self.account.excluded)},
            "findings_by_severity": count,
            "findings": [one.to_json() for one in self.findings],
        }


def preflight(survey: Survey, store: Path | None = None, defaced: bool | None = None) -> Preflight:
    """Look at all of a survey; ``store`` is the file in which looks are kept from one inspection to the next."""
    found, data = survey.found, survey.data
    looks, lines = _look_at_all(survey, LookStore(store))
    looked = list(zip(found.scans, looks, strict=True))
    accounted = account(found, data)
    said = findings_of(_unsaid([*survey.faults, *found.skipped, *survey.doubts], bool(looks)), str(found.root))
    findings = [
        *said,
        *accounted.findings(),
        *identity_findings(looked, data.unit == "image"),
        *image_findings(looked),
        *visible_findings(looked, lines, defaced),
        *group_findings(found.scans),
    ]
    return Preflight(tuple(ordered(_joined(findings))), tuple(looks), accounted)


def _look_at_all(survey: Survey, store: LookStore) -> tuple[list[Look], dict[int, tuple[str, ...]]]:
    """Looks of all scans, and the lines read in those in which text was looked for."""
    scans, reader = survey.found.scans, Reader()
    spread = {n * len(scans) // TEXT for n in range(TEXT)} if len(scans) > TEXT else set(range(len(scans)))

    def one(number: int) -> tuple[Look, tuple[str, ...] | None]:
        scan = scans[number]
        key = " ".join(map(str, (scan.digest, scan.modality, *scan.frames)))
        look, lines = store.get(key)
        wanted = reader.able and lines is None and number in spread
        if look is None or wanted:
            look, volume = look_at(survey.found.root, scan)
            if volume is not None and (number in spread or look.facts.text):
                lines = reader.read(volume)
            store.put(key, look, lines)
        return look, lines

    with (
        quietly(),
        ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool,
    ):  # decoding and hashing run outside the lock
        both = list(track(pool.map(one, range(len(scans))), "Looking at images", total=len(scans)))
    store.save()
    return [look for look, _ in both], {n: lines for n, (_, lines) in enumerate(both) if lines is not None}


def _unsaid(faults: Sequence[Fault], looked: bool) -> list[Fault]:
    """Faults without those that are found again, and better, in the pixels."""
    return [fault for fault in faults if not (looked and fault.code in ("image_two_patients", "image_twice"))]


def _joined(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for each code."""
    found: dict[str, Finding] = {}
    for one in findings:
        if (first := found.get(one.code)) is None:
            found[one.code] = one
        else:
            found[one.code] = Finding(
                one.code,
                first.count + one.count,
                first.where + one.where,
                _full(first) + _full(one),
                tuple(dict.fromkeys(first.remedies + one.remedies)),
                tuple(dict.fromkeys(first.excludes + one.excludes)),
            )
    return list(found.values())


def _full(one: Finding) -> tuple[str, ...]:
    return one.details if len(one.details) == len(one.where) else ("",) * len(one.where)


def print_preflight(found: Preflight) -> None:
    """Show the findings on the terminal, what the grave ones do, and how many files were used."""
    shown = found.to_json()
    if found.findings:
        table("Findings", ("severity", "times", "finding", "for instance"), [
            (one["severity"], one["count"], f"{one['title']} ({one['code']})", one["examples"][0]["where"])
            for one in shown["findings"]
        ])  # fmt: skip
    for one in shown["findings"]:
        if one["severity"] != "note":
            say(f"{one['severity']} {one['code']}: {one['effect']} Remedy: {one['remedy']}")
    counts, files = shown["findings_by_severity"], shown["files"]
    say("Kinds of findings: " + ", ".join(f"{count} {severity}" for severity, count in counts.items())
        + f". Files: {files['read']} read = {files['used']} used + {files['excluded']} left out.")  # fmt: skip
