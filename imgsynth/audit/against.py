"""A release against the patients it was made from (`imgsynth verify RELEASE --against MANIFEST`). LOCAL ONLY.

Inside the house: strings of the source, and of this machine, in every byte of the release; copies of training patients
among its images, counted against patients who were left out; and whether the ledger has what the release says it has.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.audit.copies import find_copies
from imgsynth.audit.leakage import source_strings
from imgsynth.audit.leakage.public import program_text
from imgsynth.audit.leakage.scan import Finding, Scan, search
from imgsynth.audit.leakage.sought import Sought
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import write_json
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.measure.source import patient_images
from imgsynth.release.facts import Facts, facts_of
from imgsynth.release.folder import list_files
from imgsynth.release.provenance import PROVENANCE, ledger_entry
from imgsynth.release.read import images_of_release
from imgsynth.release.verify import Check
from imgsynth.schema import Config, DataConfig, PreprocessConfig, PrivacyConfig
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import read_config
from imgsynth.types import Fault, InputError

LOCAL_REPORT = "local/verify_against.json"


def compare(release: Path, manifest_path: Path) -> list[Check]:
    """The checks "source strings", "copies" and "ledger" of ``release`` against the run that ``manifest_path`` is of.

    What was found, strings included, goes to LOCAL_REPORT beside the manifest; faults hold none. Where the run's
    configuration does not lie there, strings of the source are taken from the manifest's files alone, and the ledger is
    not asked.

    Raises InputError for a manifest that cannot be read, or a release that is none.
    """
    run_dir = manifest_path.resolve().parent
    if not manifest_path.is_file():
        raise InputError(
            Fault(str(manifest_path), "no such file", "the run's manifest.json", "--against RUN/manifest.json")
        )
    manifest = Manifest.load(manifest_path)
    try:
        facts = facts_of(release)
        config = _config(run_dir, manifest, facts)
        real = {split: patient_images(manifest, config.preprocess, split, config.audit.n, config.audit.seed)
                for split in ("train", "holdout")}  # fmt: skip
        samples = _samples(release, facts, 4 * config.audit.n)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            Fault(
                str(release), f"{type(error).__name__}: {error}", "a release that verifies by itself", "imgsynth verify"
            )
        ) from error
    strings, found = _strings(release, manifest, config)
    copies, counts = _copies(samples, real["train"], real["holdout"], config)
    write_json(run_dir / LOCAL_REPORT, {
        "local_only": True, "strings": [vars(finding) for finding in found.findings], "not_read": found.not_read,
        "copies": counts,
    })  # fmt: skip
    return [strings, copies, _ledger(run_dir, config, manifest, facts)]


def _config(run_dir: Path, manifest: Manifest, facts: Facts) -> Config:
    """The run's own configuration where it lies beside the manifest, else what manifest and release say. Without the
    further transforms of training: images are compared as they are."""
    path = RunFolder(run_dir).config
    if path.is_file():
        config = read_config(path)
    else:
        settings = facts.made["config"]
        data = DataConfig(kind=manifest.kind, root=manifest.root, classes=list(manifest.classes))
        config = Config(data=data, preprocess=PreprocessConfig(**settings["preprocess"]),
                        privacy=PrivacyConfig(**settings["privacy"]))  # fmt: skip
    return replace(config, preprocess=replace(config.preprocess, extra=[]), release=facts.answers)


def _strings(release: Path, manifest: Manifest, config: Config) -> tuple[Check, Scan]:
    sought, unread = source_strings(manifest, config)
    names = list_files(release)
    found = search(release, names, sought)
    found.findings += search(release, names, of_this_machine(config)).findings
    remedy = f"do not hand it over; the strings are in {LOCAL_REPORT}"
    faults = [_fault(finding, remedy) for finding in found.findings]
    faults += [Fault(where, "not searched", "a file that can be read", remedy) for where in (*unread, *found.not_read)]
    said = f"{len(sought.origin)} strings of the source, and this machine's names, in {found.files} files: none"
    return Check("source strings", said, tuple(faults)), found


def _fault(finding: Finding, remedy: str) -> Fault:
    at = f"{finding.where or 'at'} byte {finding.offset}"
    return Fault(f"{finding.file}" if finding.where != "file name" else "a file's name", f"{finding.origin} ({at})",
                 "no string of the source or the machine", remedy)  # fmt: skip


def of_this_machine(config: Config) -> Sought:
    """Names that only the machine has: host, user, home, and where the run lies."""
    sought = Sought()
    home = str(Path.home())
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = ""
    for text, origin in (
        (socket.gethostname(), "host"), (user, "user"), (home, "home folder"), (str(Path.cwd()), "working folder"),
        (config.output or "", "the run's folder"), (config.privacy.ledger or "", "the ledger's folder"),
    ):  # fmt: skip
        sought.add(text, f"this machine, {origin}")
        if text in sought.origin:
            sought.whole.add(text)
    sought.leave_out_public(program_text())
    return sought


def _samples(release: Path, facts: Facts, most: int) -> Images:
    """The release's own images, the first ``most``, on the model's scale."""
    stacked: Iterator[np.ndarray] = images_of_release(release, facts, most)
    classes = facts.cohort["classes"]
    labels = [classes.index(patient.label) if patient.label else 0 for patient in facts.patients[:most]]
    return synthetic_images(np.stack(list(stacked)), np.array(labels, np.int64))


def _copies(samples: Images, train: Images, holdout: Images, config: Config) -> tuple[Check, dict[str, Any]]:
    found = find_copies(samples, train, holdout, config.audit)
    if "not_done" in found:
        return Check("copies", f"not looked for: {found['not_done']}"), found
    flat = found["invariant"]
    said = (
        f"{flat['n_synthetic']} images, {flat['n_patients_each']} patients of each side: {flat['share']:.0%} nearer to "
        f"one who was trained on (by chance {flat['chance']['low']:.0%} to {flat['chance']['high']:.0%})"
    )
    if not flat["caught"]:
        return Check("copies", said), found
    remedy = f"look at the images; {LOCAL_REPORT} has the counts. By chance one sound release in twenty comes here"
    return Check("copies", said, (Fault("images", said, "no more than by chance", remedy),)), found


def _ledger(run_dir: Path, config: Config, manifest: Manifest, facts: Facts) -> Check:
    """The digest in the release against the ledger itself."""
    if not RunFolder(run_dir).config.is_file():
        return Check("ledger", "not asked: the run's configuration does not lie beside the manifest")
    recorded, stated = ledger_entry(run_dir, config, manifest), facts.made["ledger_entry"]
    said = "the entry of this run, as the release's digest has it"
    if recorded == stated and recorded is not None:
        return Check("ledger", said)
    got = "no entry" if recorded is None else recorded["sha256"]
    expected = f"{stated['sha256'] if stated else 'an entry'}, as the release says"
    remedy = "the manifest of the run that made this release, and the ledger that it was recorded in"
    return Check("ledger", said, (Fault(f"{PROVENANCE}: ledger_entry", got, expected, remedy),))
