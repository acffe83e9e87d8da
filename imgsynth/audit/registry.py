"""Every attack by name. audit.attacks lists names, "nearest_neighbour/raw" say: a family and the space it works in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imgsynth.audit import spaces
from imgsynth.audit.attacks.attack import Attack, Tools
from imgsynth.audit.attacks.nearest_neighbour import NearestNeighbour


@dataclass(frozen=True)
class Family:
    """``build(space, tools)`` makes the attack; ``spaces`` are those it can work in, none for one without distances."""

    build: Callable[[str, Tools], Attack]
    spaces: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    NearestNeighbour.name: Family(NearestNeighbour, spaces.NAMES),
}
NAMES: tuple[str, ...] = tuple(
    f"{name}/{space}" if space else name for name, family in FAMILIES.items() for space in family.spaces or ("",)
)


def build(name: str, tools: Tools) -> Attack:
    """The attack ``name``, which is one of NAMES."""
    family, _, space = name.partition("/")
    return FAMILIES[family].build(space, tools)
