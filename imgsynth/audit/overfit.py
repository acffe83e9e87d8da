"""Positive control: a model of the run's own recipe that was made to remember, without privacy, a few patients.

A leaky synthesizer copies; this one leaks as a model does that was trained for too long on too few. An attack that does
not find it cannot say anything about the run. Few training patients are split: some are trained on, the others are the
non-members, so that nothing but training tells them apart. LOCAL ONLY like every reference model (``references.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, full_name
from imgsynth.audit.controls import Control
from imgsynth.audit.references import FOLDER, Recipe, content_key, load, store, train_reference
from imgsynth.audit.roc import auc, auc_interval
from imgsynth.cohort.manifest import Manifest
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.measure.source import class_mix
from imgsynth.privacy.noise import seed_for
from imgsynth.release.generate import images_of
from imgsynth.schema import AuditConfig
from imgsynth.training.run import Run

REMEMBERED = 25  # patients at most
MIN_PATIENTS = 8  # of which half are remembered


@dataclass(frozen=True, eq=False)
class Overfit:
    """What somebody would hold who was given the overfit model: ``members`` trained it, ``nonmembers`` did not."""

    released: Released
    members: Images
    nonmembers: Images


def overfit(
    recipe: Recipe, manifest: Manifest, patients: Images, released: Released, steps: int, seed: int, folder: Path
) -> Overfit:
    """Train on at most REMEMBERED of ``patients``, or half of them, for ``steps`` steps; kept in ``folder``.

    ``released`` is the audited release: as many samples are drawn, and its reference patients are handed on. The
    patients must be of ``manifest``. Raises CheckFailed when training diverges.
    """
    random = np.random.default_rng(seed_for("overfit control", seed) % 2**63)
    names = random.permutation(patients.names_P)
    n = min(REMEMBERED, len(names) // 2)
    inside, outside = patients.of_patients(names[:n]), patients.of_patients(names[n:])
    chosen = [str(name) for name in np.sort(names[:n])]
    trained = recipe.overfitted(n, steps)
    path = folder / f"{content_key(trained, manifest, chosen, seed)}.pt"
    if not path.is_file():
        store(path, train_reference(trained, trained.images(manifest, chosen), chosen, seed, "overfit model"))
    model = load(path, trained)
    counts = np.bincount(inside.y_N, minlength=recipe.classes).tolist()
    labels_N = class_mix(counts, len(released.samples), random)
    samples = synthetic_images(images_of(model, labels_N, torch.Generator().manual_seed(seed)), labels_N)
    setting = replace(released, samples=samples, model=model, run=None, references=())
    return Overfit(setting, inside, outside)


def overfit_of(
    run: Run, members: Images, released: Released, settings: AuditConfig, extra_transforms: Sequence[Any] = ()
) -> Overfit | None:
    """The overfit model of an audit, on some of the run's ``members``; None where ``overfit_steps`` is 0."""
    if not settings.overfit_steps or members.n_patients < MIN_PATIENTS:
        return None
    recipe = Recipe.of(run, extra_transforms)
    return overfit(
        recipe, run.manifest, members, released, settings.overfit_steps, settings.seed, run.root / FOLDER
    )  # fmt: skip


def overfit_control(attack: Attack, made: Overfit) -> Control:
    """Passed when the AUC on the overfit model has its interval above one half; None where the attack cannot be run."""
    name = f"overfit non-private model, {full_name(attack)}"
    n_in, n_out = made.members.n_patients, made.nonmembers.n_patients
    try:
        attack.prepare(made.released)
    except NotApplicable as reason:
        return Control(name, "positive", None, None, None, None, str(reason))
    area = auc(attack.scores(made.members), attack.scores(made.nonmembers))
    low, high = auc_interval(area, n_in, n_out)
    was = "was" if low > 0.5 else "was not"
    detail = f"a model that was trained for long on {n_in} patients without privacy {was} caught by {full_name(attack)}"
    return Control(name, "positive", low > 0.5, area, low, high, detail)
