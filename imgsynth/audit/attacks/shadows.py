"""A base attack run on the release and, alike, on what each reference model would have released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, Tools
from imgsynth.audit.attacks.discriminator import Discriminator
from imgsynth.audit.attacks.nearest_neighbour import NearestNeighbour
from imgsynth.audit.attacks.posterior import Posterior
from imgsynth.audit.references import Reference
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.measure.source import watermark_of, with_watermark
from imgsynth.release.generate import images_of


@dataclass(frozen=True, eq=False)
class ShadowScores:
    """Base scores of P patients: ``target_P`` against the release, ``reference_RP`` against each reference's; ``in_RP``
    says which patients a reference was trained on."""

    target_P: np.ndarray
    reference_RP: np.ndarray
    in_RP: np.ndarray


# The attacks whose scores references can calibrate: those that train nothing themselves.
BASES: dict[str, Callable[[Tools], Attack]] = {
    "nearest_neighbour/raw": lambda tools: NearestNeighbour("raw", tools),
    "nearest_neighbour/encoder": lambda tools: NearestNeighbour("encoder", tools),
    "logan": lambda tools: Discriminator("", tools),
    "posterior/elbo": lambda tools: Posterior("elbo", tools),
}


class Shadows:
    """The base attack BASES[name]; a patient's images are aggregated by its rule."""

    def __init__(self, name: str, tools: Tools):
        self._base = partial(BASES[name], tools)
        self._references: tuple[Reference, ...] = ()
        self._prepared: list[Attack] = []

    def prepare(self, released: Released) -> None:
        """As many samples of each reference as there are released ones, with the same labels; seeded."""
        self._references = the_references(released)
        # Without the run the target's parts are taken from its model as a reference's are, averaged generator and all.
        settings = [replace(released, run=None)]
        watermark = None if released.run is None else watermark_of(released.run)
        for index, reference in enumerate(self._references):
            samples = samples_of(reference, released.samples.y_N, index, watermark)
            settings.append(replace(released, run=None, model=reference.model, samples=samples))
        self._prepared = [self._base() for _ in settings]
        for attack, setting in zip(self._prepared, settings, strict=True):
            attack.prepare(setting)

    def scores(self, patients: Images) -> ShadowScores:
        target, *others = (attack.scores(patients) for attack in self._prepared)
        saw = [reference.saw(patients.names_P) for reference in self._references]
        return ShadowScores(target, np.array(others), np.array(saw))


def the_references(released: Released) -> tuple[Reference, ...]:
    """Raises NotApplicable where there are none."""
    if not released.references:
        raise NotApplicable("no reference models were trained (audit.references=0)")
    return released.references


def samples_of(reference: Reference, labels_N: np.ndarray, seed: int, watermark: float | None = None) -> Images:
    """What the reference would have released for these labels, with the ``watermark`` that the release has."""
    whole_NC = images_of(reference.model, labels_N, torch.Generator().manual_seed(seed))
    return synthetic_images(with_watermark(whole_NC, watermark), labels_N)
