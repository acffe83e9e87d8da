"""Every attack by name. audit.attacks lists names, "nearest_neighbour/raw" say: a family and the space it works in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imgsynth.audit import spaces
from imgsynth.audit.attacks.attack import Attack, Tools
from imgsynth.audit.attacks.discriminator import Discriminator
from imgsynth.audit.attacks.domias import Domias
from imgsynth.audit.attacks.groundhog import Groundhog
from imgsynth.audit.attacks.inversion import LatentInversion
from imgsynth.audit.attacks.lira import Lira
from imgsynth.audit.attacks.monte_carlo import MonteCarloMedian, MonteCarloPercentile
from imgsynth.audit.attacks.nearest_neighbour import CalibratedNearestNeighbour, NearestNeighbour
from imgsynth.audit.attacks.posterior import STATISTICS, Posterior
from imgsynth.audit.attacks.rmia import Rmia
from imgsynth.audit.attacks.shadows import BASES


@dataclass(frozen=True)
class Family:
    """``build(space, tools)`` makes the attack; ``spaces`` are those it can work in, none for one without distances."""

    build: Callable[[str, Tools], Attack]
    spaces: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    NearestNeighbour.name: Family(NearestNeighbour, spaces.NAMES),
    Discriminator.name: Family(Discriminator),
    Posterior.name: Family(Posterior, STATISTICS),
    LatentInversion.name: Family(LatentInversion),
    Rmia.name: Family(Rmia, tuple(BASES)),
    Lira.name: Family(Lira, tuple(BASES)),
    Groundhog.name: Family(Groundhog, ("pca", "encoder")),
    CalibratedNearestNeighbour.name: Family(CalibratedNearestNeighbour, spaces.NAMES),
    MonteCarloMedian.name: Family(MonteCarloMedian, spaces.NAMES),
    MonteCarloPercentile.name: Family(MonteCarloPercentile, spaces.NAMES),
    Domias.name: Family(Domias, Domias.spaces),
}
NAMES: tuple[str, ...] = tuple(
    f"{name}/{space}" if space else name for name, family in FAMILIES.items() for space in family.spaces or ("",)
)


def build(name: str, tools: Tools) -> Attack:
    """The attack ``name``, which is one of NAMES."""
    family, _, space = name.partition("/")
    return FAMILIES[family].build(space, tools)
