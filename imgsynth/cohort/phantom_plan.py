"""Who is in a phantom cohort: which patient has a lesion, how many studies, and which traps of clinical exports.

Shares are exact (rounded to whole patients), and every trap falls on at least one patient. A patient's anatomy depends
on the seed and the patient's number alone; lesion, studies and traps also on the size of the cohort.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from imgsynth.schema import PhantomConfig

FORMAT = 1  # raise when the same configuration makes other pixels, headers or files than before

# Share of patients whose export has the trap.
TRAPS = {
    "instance_reversed": 0.3,  # Instance Number counts from head to feet
    "instance_shuffled": 0.2,  # Instance Number has no geometric order
    "localizer": 0.2,  # a coronal scout under the Series Instance UID of the axial images
    "mixed_rescale": 0.15,  # another Rescale Slope and Intercept from slice to slice
    "unsigned": 0.3,  # unsigned 12-bit pixels with intercept -1024; else int16
    "padding": 0.4,  # Pixel Padding Value outside the round field of view, far below air
    "feet_first": 0.1,  # patient lay feet first: columns run toward the patient's right
    "rle": 0.04,  # RLE Lossless
    "implicit": 0.15,  # Implicit VR Little Endian
    "report": 0.25,  # a text file beside the images
    "duplicate": 0.15,  # some objects twice, under other file names
    "one_folder": 0.5,  # all series of the patient in one folder; only of patients with several studies
}


@dataclass(frozen=True)
class Job:
    """One patient to draw, render and write."""

    index: int  # from 0
    seed: int
    size: int
    key: str  # of the configuration: seeds the UIDs
    has_lesion: bool
    studies: int
    traps: frozenset[str]
    orderly: bool  # plain file names

    @property
    def patient(self) -> str:
        return f"PHANTOM-{self.index + 1:04d}"

    def random(self, *stream: int) -> np.random.Generator:
        """An independent generator for each use, whatever process it runs in."""
        return np.random.default_rng([self.seed, self.index, *stream])

    def uid(self, *name: object) -> str:
        """A UID under 2.25 (PS3.5 B.2), 44 characters long, that depends on the configuration and ``name`` alone."""
        digest = hashlib.sha256("/".join(map(str, (self.key, self.patient, *name))).encode()).digest()
        return f"2.25.{10**38 + int.from_bytes(digest[:16], 'big') % (2 * 10**38)}"


def config_key(config: PhantomConfig) -> str:
    """Two configurations make the same files if and only if their keys are equal."""
    return hashlib.sha256(json.dumps([FORMAT, asdict(config)], sort_keys=True).encode()).hexdigest()


def plan_cohort(config: PhantomConfig) -> list[Job]:
    everyone = range(config.patients)
    lesions = _choose(config, "lesion", everyone, config.lesion_share)
    several = _choose(config, "studies", everyone, config.extra_studies)
    traps: dict[str, set[int]] = {}
    if config.traps:
        for name, share in TRAPS.items():
            traps[name] = _choose(config, name, several if name == "one_folder" else everyone, share, at_least=1)
        traps["unsigned"] -= traps["mixed_rescale"]  # which needs stored values below zero
    count = np.random.default_rng([config.seed, *b"count"]).integers(2, 4, config.patients)
    key = config_key(config)
    return [
        Job(
            index=i,
            seed=config.seed,
            size=config.size,
            key=key,
            has_lesion=i in lesions,
            studies=int(count[i]) if i in several else 1,
            traps=frozenset(name for name, chosen in traps.items() if i in chosen),
            orderly=not config.traps,
        )
        for i in everyone
    ]


def _choose(config: PhantomConfig, purpose: str, among: Iterable[int], share: float, at_least: int = 0) -> set[int]:
    """A random share of patients, exact to one patient."""
    pool = sorted(among)
    count = max(round(share * len(pool)), min(at_least, len(pool)))
    random = np.random.default_rng([config.seed, *purpose.encode()])
    return {int(i) for i in random.permutation(pool)[:count]}
