"""The public cohort on which the rule "public" chooses a step: opened, checked to be nobody's secret, and asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imgsynth.cohort.build import build_manifest
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.manifest import Manifest
from imgsynth.privacy.ledger import Ledger
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.public import DECLARATION, PublicImages
from imgsynth.schema import Config
from imgsynth.training.public import Others, read_privately, same_people
from imgsynth.types import Fault, InputError


def public_images(cfg: Config, manifest: Manifest) -> tuple[Manifest, PublicImages]:
    """The cohort in ``cfg.selection.data``, on which something is chosen for a run on ``manifest``, and what the plan
    says of it. All its patients vote, whatever their split.

    Raises InputError with all that stands against calling it public, or against its classes.
    """
    data, declared = cfg.selection.data, cfg.selection.public
    public = build_manifest(data)[0].hashed(Ledger(cfg.privacy.ledger).key())
    apart = "take these images or patients out of one of the two cohorts; of phantoms, another seed"
    others = Others("selection.data", public, data, apart)
    faults = list(same_people(others, cfg, manifest))
    if public.classes != manifest.classes:
        expected = f"{list(manifest.classes)}, as data.classes has: an image is held against samples of its class"
        faults.append(
            Fault("selection.data.classes", f"{list(public.classes)}", expected, "images with the same labels")
        )
    if data.kind != "phantom":
        if known := read_privately(others, cfg):
            faults.append(Fault("selection.data", known, "images that are nobody's secret",
                                "selection.rule=noisy_max asks patients, for a share of ε"))  # fmt: skip
        if declared is None:
            faults.append(Fault("selection.public", "nothing", f"{DECLARATION}; it goes on the privacy card",
                                'selection.public="radiographs of Example 2019, published under CC BY"'))  # fmt: skip
    if faults:
        raise InputError(*faults)
    phantoms = f"digital phantoms of imgsynth (seed {data.phantom.seed}), which are nobody"
    everybody = replace(public, items=tuple(replace(item, split="train") for item in public.items))
    return everybody, PublicImages(public.fingerprint, declared or phantoms)


def public_voters(cfg: Config, plan: PrivacyPlan, manifest: Manifest, extra: Sequence[Any] = ()) -> PatientDataset:
    """The images of ``public_images``, preprocessed like the run's. InputError where they are not the plan's."""
    assert plan.selection is not None and plan.selection.public is not None
    everybody, found = public_images(cfg, manifest)
    if found.digest != plan.selection.public.digest:
        raise InputError(Fault("selection.data", f"images of SHA-256 {found.digest}",
                               f"{plan.selection.public.digest}, those that the run was begun with",
                               "restore them, or train into a new output=DIR (a new entry in the ledger)"))  # fmt: skip
    return PatientDataset(everybody, "train", cfg.preprocess, cache="none", extra=extra)
