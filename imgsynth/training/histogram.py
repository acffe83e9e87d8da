"""The noisy histogram of a run, by label and by what else is released: drawn once, whatever is killed or copied."""

from __future__ import annotations

import itertools
from typing import Any

from imgsynth.cohort.facts import domains, facts_by_patient
from imgsynth.cohort.manifest import Manifest
from imgsynth.privacy.histogram import noisy_histogram
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import SampleConfig
from imgsynth.training.folder import RunFolder
from imgsynth.training.once import draw_once


def release_histogram(
    folder: RunFolder, ledger: Ledger, run: str, plan: PrivacyPlan, manifest: Manifest, sample: SampleConfig,
    seed: int | None,
) -> None:  # fmt: skip
    """Draw it where that was not done yet, and put it in place (``once.py``)."""

    def draw() -> dict[str, Any]:
        counted = count(manifest, sample, plan.histogram_epsilon, seed)
        return {"classes": list(manifest.classes), "epsilon": plan.histogram_epsilon, **counted}

    draw_once(folder.label_histogram, ledger, f"{run}, label histogram", plan.steps, "label histogram", draw)


def count(manifest: Manifest, sample: SampleConfig, epsilon: float, seed: int | None) -> dict[str, Any]:
    """``counts`` of training patients by class, and with ``sample.counted`` also ``cells`` by class and facts.

    Cells are in the order of itertools.product over classes and the ``facts``' domains, with noise and so maybe below
    0; each patient is in exactly one of them, so that all cells together cost ε once. ``counts`` are sums of cells.
    """
    classes, allowed = manifest.patient_classes("train"), domains(sample.counted, sample.sites)
    said = facts_by_patient(manifest, "train", allowed)
    cells = list(itertools.product(range(len(manifest.classes)), *allowed.values()))
    place = {cell: index for index, cell in enumerate(cells)}
    noisy = noisy_histogram(
        {p: place[(c, *said[p])] for p, c in classes.items()}, len(cells), epsilon, seed, clip=False
    )
    each = len(cells) // len(manifest.classes)
    counts = [max(0, sum(noisy[start : start + each])) for start in range(0, len(cells), each)]
    facts = {"facts": {fact: list(values) for fact, values in allowed.items()}, "cells": noisy} if allowed else {}
    return {"counts": counts, **facts}
