"""The way back from a run's hashes to patients, for whoever has its source and the ledger's key."""

from __future__ import annotations

from pathlib import Path

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.manifest import Manifest
from imgsynth.privacy.ledger import Ledger
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import read_config
from imgsynth.types import Fault, InputError


def whois(run_dir: Path) -> dict[str, str]:
    """Hash and id of every patient of the run in ``run_dir``, sorted by id. LOCAL ONLY.

    The source is read again and its ids are hashed as they were when the run was begun; nothing is stored. Raises
    InputError where there is no run, no source, or another key than the run's.
    """
    folder = RunFolder(run_dir)
    if not folder.begun:
        raise InputError(Fault(str(run_dir), "no config.json", "the folder of a run", "imgsynth whois RUN"))
    cfg, manifest = read_config(folder.config), Manifest.load(folder.manifest)
    clear, _ = build_manifest(cfg.data)
    hashed = clear.hashed(Ledger(cfg.privacy.ledger).key())
    if hashed.key != manifest.key:
        raise InputError(
            Fault(
                f"ledger of {run_dir}",
                "another key than the one that the run's ids are hashed with",
                "the ledger that the run was begun with",
                "set $IMGSYNTH_LEDGER to it",
            )
        )
    known = set(manifest.patients())
    pairs = {own.patient: one.patient for own, one in zip(hashed.items, clear.items, strict=True)}
    return dict(sorted(((own, name) for own, name in pairs.items() if own in known), key=lambda pair: pair[1]))
