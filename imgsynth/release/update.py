"""A release brought up to date with what was found after it was written: its card, what follows from it, its seal."""

from __future__ import annotations

from pathlib import Path

from imgsynth.files import read_json
from imgsynth.release.card import CARD_JSON, fresh_card, write_card
from imgsynth.release.documents import write_documents
from imgsynth.release.provenance import FORMAT, PROVENANCE
from imgsynth.release.sign import seal
from imgsynth.training.run import load_run


def update_card(run_dir: Path, sign: str | None = None) -> Path | None:
    """Bring the card of ``run_dir/release`` up to date with audit.json and the ledger, then documents and checksums.

    ``sign`` is sample.sign; without it a signature of before, which is of other checksums now, is removed. Returns the
    card's path, or None where there is no release yet (its card will have the audit when it is written).
    """
    release = run_dir / "release"
    if not (release / CARD_JSON).is_file():
        return None
    write_card(release, fresh_card(load_run(run_dir)))
    if read_json(release / PROVENANCE).get("format") == FORMAT:  # of an earlier version the facts do not suffice
        write_documents(release)
    seal(release, sign)
    return release / CARD_JSON
