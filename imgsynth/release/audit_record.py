"""Of which run, and of which release, audit.json is. An audit of other weights or other files says nothing of these."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgsynth import __version__
from imgsynth.files import sha256
from imgsynth.release.folder import CHECKSUMS
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import Run

NO_RUN = "not audited: audit.json does not say of which run it is"
OTHER_RUN = "not audited: audit.json is of another run, or of this one in another state"
REFUSED = (NO_RUN, OTHER_RUN)
# Written anew after every audit, and always from public facts.
_WRITTEN_ANEW = ("privacy_card.json", "privacy_card.md", "README.md", "datasheet.md", "model_card.md", "LICENSE.txt",
                 "CITATION.cff", "croissant.json", "signing_key.pub.pem")  # fmt: skip


def audited(run: Run) -> dict[str, Any]:
    """What audit.json holds of the run that was audited. ``release`` is added by whoever searched it."""
    return {**state_of(run.root), "step": run.step, "imgsynth": __version__}


def state_of(run_dir: Path) -> dict[str, str | None]:
    """What tells a run, in its present state, from any other: its id in the ledger, and SHA-256 of plan and weights."""
    folder = RunFolder(run_dir)
    return {
        "run": folder.run_id(),
        "plan_sha256": _digest(folder.plan),
        "checkpoint_sha256": _digest(folder.checkpoint),
    }


def release_id(release: Path) -> str | None:
    """SHA-256 over the checksums of all files of ``release`` but its card and what follows from it; None where there is
    no release."""
    path = release / CHECKSUMS
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("  ")[2] not in _WRITTEN_ANEW]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def refused(audit: Mapping[str, Any], run_dir: Path) -> str | None:
    """Why ``audit`` is not of the run in ``run_dir`` as it is now, one of REFUSED; None where it is."""
    of = audit.get("of")
    if not isinstance(of, dict):
        return NO_RUN
    return None if all(of.get(key) == value for key, value in state_of(run_dir).items()) else OTHER_RUN


def searched(audit: Mapping[str, Any], release: Path | None) -> bool:
    """Whether strings of the source were looked for in the files that are in ``release`` now (None: not there yet)."""
    present = None if release is None else release_id(release)
    return present is not None and bool(audit.get("leakage")) and (audit.get("of") or {}).get("release") == present


def _digest(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None
