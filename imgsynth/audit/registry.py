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
from imgsynth.audit.attacks.released import ReleasedMean
from imgsynth.audit.attacks.rmia import Rmia
from imgsynth.audit.attacks.shadows import BASES
from imgsynth.schema import AuditConfig
from imgsynth.types import Fault, nearest_name


@dataclass(frozen=True)
class Family:
    """``build(space, tools)`` makes the attack; ``spaces`` are those it can work in, none for one without distances."""

    build: Callable[[str, Tools], Attack]
    spaces: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    NearestNeighbour.name: Family(NearestNeighbour, spaces.NAMES),
    Discriminator.name: Family(Discriminator),
    ReleasedMean.name: Family(ReleasedMean),
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
BY_RECIPE = (Rmia.name, Lira.name, Groundhog.name)  # compare with reference models
NAMES: tuple[str, ...] = tuple(
    f"{name}/{space}" if space else name for name, family in FAMILIES.items() for space in family.spaces or ("",)
)


def settings_faults(settings: AuditConfig) -> list[Fault]:
    """What is wrong with the attacks that are asked for, all of it, before anything is loaded or trained."""
    names, faults = settings.attacks, []
    if not names:
        faults.append(Fault("audit.attacks", "[]", "one attack or more", "audit=default"))
    for name in dict.fromkeys(names):
        if name not in NAMES:
            faults.append(Fault("audit.attacks", repr(name), f"some of {', '.join(NAMES)}", _meant(name)))
        elif names.count(name) > 1:
            faults.append(
                Fault("audit.attacks", f"{name} {names.count(name)} times", "each at most once", "leave it out")
            )
    if settings.primary is not None and settings.primary not in names:
        near = nearest_name(settings.primary, names)
        remedy = f"did you mean {near}?" if near else f"audit.primary={names[0] if names else 'null'}"
        expected = f"one of audit.attacks: {', '.join(names)}"
        faults.append(Fault("audit.primary", settings.primary, expected, remedy))
    by_recipe = [name for name in names if name.partition("/")[0] in BY_RECIPE]
    if by_recipe and not settings.references:
        faults.append(
            Fault("audit.references", f"0, with {', '.join(by_recipe)}", "reference models, which these compare with",
                  "audit.references=16, or leave them out of audit.attacks")
        )  # fmt: skip
    return faults


def _meant(name: str) -> str:
    """A known attack of a like name; for a family alone, its spaces."""
    family = FAMILIES.get(name.partition("/")[0])
    if family is not None and family.spaces:
        return "one of " + ", ".join(known for known in NAMES if known.startswith(name.partition("/")[0] + "/"))
    near = nearest_name(name, NAMES)
    return f"did you mean {near}?" if near else "audit=default, or names from docs/audit/attacks.md"


def build(name: str, tools: Tools) -> Attack:
    """The attack ``name``, which is one of NAMES."""
    family, _, space = name.partition("/")
    return FAMILIES[family].build(space, tools)
