"""What a release tells beyond who was in it: patients' attributes, pictures of classes; and sets as a whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, Tools
from imgsynth.audit.attacks.discriminator import Discriminator
from imgsynth.audit.attacks.groundhog import Groundhog, outlying
from imgsynth.audit.attacks.nearest_neighbour import NearestNeighbour
from imgsynth.audit.attacks.posterior import Posterior
from imgsynth.audit.attribute import NearestOfClass, attribute_inference, class_mean_inversion
from imgsynth.measure.images import Images

TARGETS = 8  # patients whose membership the set classifiers are asked for on held-out references
MIN_PATIENTS = 4  # on either side


def beyond_membership(members: Images, nonmembers: Images, released: Released, tools: Tools) -> dict[str, Any]:
    """``advantages`` (``attribute.Advantage``), ``set_classifier`` (``groundhog.HeldOut``) and ``not_done``. JSON-able.

    The set classifiers' targets are the most outlying patients by the encoder's features, the model unseen.
    """
    found: dict[str, Any] = {"advantages": [], "set_classifier": None, "not_done": []}
    smallest = min(members.n_patients, nonmembers.n_patients)
    if smallest < MIN_PATIENTS:
        why = f"{smallest} patients on one side; it takes {MIN_PATIENTS}"
        return found | {"not_done": [{"what": "attribute inference and set classifier", "why": why}]}
    classes = 1 + max(int(images.y_N.max()) for images in (members, nonmembers, released.samples))
    if classes > 1:
        for attack in _guessers(tools):
            try:
                attack.prepare(released)
            except NotApplicable:
                continue  # the model lacks the part: another guesser has it, or samples alone must do
            try:
                found["advantages"].append(attribute_inference(attack, members, nonmembers, classes).to_json())
            except NotApplicable as reason:  # of the cohort, so that it holds for every guesser
                found["not_done"].append({"what": "attribute inference", "why": str(reason)})
                break
    else:
        found["not_done"].append({"what": "attribute inference", "why": "there is one class"})
    random = np.random.default_rng(tools.settings.seed)
    try:
        inversion = class_mean_inversion(released, members, nonmembers, tools.settings.bootstrap, random)
        found["advantages"].append(inversion.to_json())
    except NotApplicable as reason:
        found["not_done"].append({"what": "class-mean inversion", "why": str(reason)})
    if len(released.references) >= 4:
        classifier = Groundhog("encoder", tools)
        classifier.prepare(released)
        held_out = classifier.held_out(_targets(members, nonmembers, tools))
        found["set_classifier"] = {"name": "groundhog", "space": "encoder", **asdict(held_out)}
    return found


def _guessers(tools: Tools) -> list[Attack]:
    return [
        NearestOfClass(lambda: NearestNeighbour("raw", tools)), Discriminator("", tools), Posterior("elbo", tools)
    ]  # fmt: skip


def _targets(members: Images, nonmembers: Images, tools: Tools) -> Images:
    everybody = Images.of(
        *(np.concatenate([getattr(members, f), getattr(nonmembers, f)]) for f in ("whole_NC", "y_N", "patients_N"))
    )
    first_P = np.unique(everybody.owner_N, return_index=True)[1]  # a patient's first image stands for the patient
    chosen = outlying(tools.encoder.encode(everybody.x_NC[first_P]), TARGETS)
    return everybody.of_patients(everybody.names_P[chosen])
