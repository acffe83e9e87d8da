"""Positive controls: models of the run's own recipe that were made to remember a few patients.

A leaky synthesizer copies; these leak as a model does that was trained for too long on too few. One is trained without
privacy: an attack that does not find it cannot say anything about the run. The other is trained through the run's own
clipping, without its noise (σ = 0): where it is found, clipping alone hides nothing from the attack. Few training
patients are split: some are trained on, the others are the non-members, class by class, so that nothing but training
tells them apart. LOCAL ONLY like every reference model (``references.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, full_name
from imgsynth.audit.controls import SURE, Control, power
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
UNCLIPPED, CLIPPED = "overfit non-private model", "clipped overfit model without noise"


@dataclass(frozen=True, eq=False)
class Overfit:
    """What somebody would hold who was given the overfit model: ``members`` trained it, ``nonmembers`` did not.

    ``clipped``: it was trained through the run's clipping, with σ = 0.
    """

    released: Released
    members: Images
    nonmembers: Images
    clipped: bool = False


def overfit(
    recipe: Recipe, manifest: Manifest, patients: Images, released: Released, steps: int, seed: int, folder: Path,
    clipped: bool = False,
) -> Overfit:  # fmt: skip
    """Train on at most REMEMBERED of ``patients``, or half of them, for ``steps`` steps; kept in ``folder``.

    ``released`` is the audited release: as many samples are drawn, and its reference patients are handed on. The
    patients must be of ``manifest``. Raises CheckFailed when training diverges.
    """
    random = np.random.default_rng(seed_for("overfit control", seed) % 2**63)
    classes = manifest.patient_classes()
    members = share_of_each_class(patients.names_P, [classes[name] for name in patients.names_P], random)
    inside, outside = patients.of_patients(members), patients.of_patients(np.setdiff1d(patients.names_P, members))
    chosen = [str(name) for name in members]
    trained = recipe.overfitted(len(chosen), steps, clipped)
    path = folder / f"{content_key(trained, manifest, chosen, seed)}.pt"
    if not path.is_file():
        store(path, train_reference(trained, trained.images(manifest, chosen), chosen, seed, "overfit model"))
    model = load(path, trained)
    counts = np.bincount(inside.y_N, minlength=recipe.classes).tolist()
    labels_N = class_mix(counts, len(released.samples), random)
    samples = synthetic_images(images_of(model, labels_N, torch.Generator().manual_seed(seed)), labels_N)
    setting = replace(released, samples=samples, model=model, run=None, references=())
    return Overfit(setting, inside, outside, clipped)


def share_of_each_class(names_P: np.ndarray, class_P: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """REMEMBERED of the patients, or half of them if there are fewer, sorted; as many of each class as its share, ± 1.

    Patients in random order within their class, the classes one after the other, and every so-many-th is taken. With
    another mix of classes than the others', members would be told by their class alone.
    """
    n = min(REMEMBERED, len(names_P) // 2)
    order = random.permutation(len(names_P))
    order = order[np.argsort(np.asarray(class_P)[order], kind="stable")]
    return np.sort(names_P[order[((np.arange(n) + random.random()) * len(order) / n).astype(int)]])


def overfit_of(
    run: Run, members: Images, released: Released, settings: AuditConfig, extra_transforms: Sequence[Any] = ()
) -> list[Overfit]:
    """The overfit models of an audit, on some of the run's ``members``: without privacy, and, if the run clips, through
    its clipping at σ = 0. None where ``overfit_steps`` is 0 or members are too few (``too_few_to_remember``)."""
    if not settings.overfit_steps or members.n_patients < MIN_PATIENTS:
        return []
    recipe, folder = Recipe.of(run, extra_transforms), run.root / FOLDER
    return [
        overfit(recipe, run.manifest, members, released, settings.overfit_steps, settings.seed, folder, clipped)
        for clipped in ((False, True) if run.plan.mode == "dp" else (False,))
    ]


def too_few_to_remember(who: str, members: Images, released: Released, settings: AuditConfig) -> list[Control]:
    """The controls of the attack ``who`` that were asked for and cannot be, with the reason."""
    if not settings.overfit_steps or members.n_patients >= MIN_PATIENTS:
        return []
    why = f"{members.n_patients} training patients, of which half would be remembered; it takes {MIN_PATIENTS}"
    clips = released.run is not None and released.run.plan.mode == "dp"
    return [
        Control(f"{model}, {who}", "positive", None, None, None, None, why)
        for model in ((UNCLIPPED, CLIPPED) if clips else (UNCLIPPED,))
    ]


def overfit_controls(attack: Attack, made: Sequence[Overfit]) -> list[Control]:
    """The control of each model, in the order of ``made``; see ``overfit_control`` and ``clipped_control``."""
    controls: list[Control] = []
    for one in made:
        controls.append(clipped_control(attack, one, controls[0]) if one.clipped else overfit_control(attack, one))
    return controls


def overfit_control(attack: Attack, made: Overfit) -> Control:
    """Passed when the AUC on the overfit model has its interval above one half; None where the attack cannot be run."""
    n_in, who = made.members.n_patients, full_name(attack)
    name = f"{CLIPPED if made.clipped else UNCLIPPED}, {who}"
    try:
        attack.prepare(made.released)
    except NotApplicable as reason:
        return Control(name, "positive", None, None, None, None, str(reason))
    in_P, out_Q = attack.scores(made.members), attack.scores(made.nonmembers)
    area = auc(in_P, out_Q)
    low, high = auc_interval(area, len(in_P), len(out_Q))
    how = "through the run's clipping without noise" if made.clipped else "without privacy"
    was = "was" if low > 0.5 else "was not"
    detail = f"a model that was trained for long on {n_in} patients {how} {was} caught by {who}"
    return Control(name, "positive", low > 0.5, area, low, high, detail)


def clipped_control(attack: Attack, made: Overfit, unclipped: Control) -> Control:
    """The control at σ = 0, required where the attack would see it surely if clipping took nothing away.

    Its power is that against as many copies as make the AUC that the attack has on the ``unclipped`` model, a share of
    2 AUC − 1; it is required from SURE on, like the doses. Where the attack hardly sees even that one, a miss here
    says nothing about clipping.
    """
    control = overfit_control(attack, made)
    area = 0.5 if unclipped.value is None else unclipped.value
    chance = power(max(2 * area - 1, 0.0), made.members.n_patients, made.nonmembers.n_patients)
    detail = f"{control.detail}; power if it remembers as much as without clipping {chance:.0%}"
    return replace(control, detail=detail, required=chance >= SURE)
