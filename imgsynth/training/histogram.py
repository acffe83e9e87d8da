"""The noisy label histogram of a run: drawn once on its spend, whatever is killed or copied."""

from __future__ import annotations

from imgsynth.cohort.manifest import Manifest
from imgsynth.files import rename, sha256, write_json
from imgsynth.privacy.histogram import noisy_histogram
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.published import Published
from imgsynth.training.disk import writing
from imgsynth.training.folder import RunFolder
from imgsynth.types import Fault, InputError


def release_histogram(
    folder: RunFolder, ledger: Ledger, run: str, plan: PrivacyPlan, manifest: Manifest, seed: int | None
) -> None:
    """Draw it where that was not done yet, and put it in place.

    In the way of checkpoints (``succession.py``): a draw is written whole, its hash noted in the ledger, and its file
    put in place. A draw that is on disk is used, and none is made where the ledger knows of one: InputError.
    """
    if folder.label_histogram.is_file():
        return
    name, drawn = f"{run}, label histogram", folder.next_histogram
    known = ledger.published(name)
    if known is None and not drawn.is_file():
        classes = manifest.classes
        counts = noisy_histogram(manifest.patient_classes("train"), len(classes), plan.histogram_epsilon, seed)
        with writing(folder.root):
            write_json(drawn, {"classes": list(classes), "counts": counts, "epsilon": plan.histogram_epsilon})
    if known is None:
        ledger.publish(name, Published(plan.steps, sha256(drawn)), after=None)
        known = ledger.published(name)
    if known is None or not drawn.is_file() or sha256(drawn) != known.token:
        raise InputError(
            Fault(str(folder.label_histogram), "no such file, of a run whose label histogram was drawn in a copy of it",
                  "the file, which cannot be made twice on one spend",
                  "restore it from there, or train into a new output=DIR (a new entry in the ledger)")
        )  # fmt: skip
    with writing(folder.root):
        rename(drawn, folder.label_histogram)
