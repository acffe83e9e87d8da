"""Gradient engines: interchangeable ways to the sum of clipped per-patient gradients."""

from imgsynth.privacy.engines.base import Clipped, Engine, Precision
from imgsynth.privacy.engines.functional import FunctionalEngine
from imgsynth.privacy.engines.ghost import GhostEngine
from imgsynth.privacy.engines.loop import LoopEngine
from imgsynth.types import Fault, InputError

ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (GhostEngine, FunctionalEngine, LoopEngine)}


def get_engine(name: str, precision: Precision = "float32") -> Engine:
    if name not in ENGINES:
        raise InputError(Fault("privacy.engine", repr(name), f"one of {', '.join(ENGINES)}", "privacy.engine=ghost"))
    return ENGINES[name](precision)


__all__ = ["ENGINES", "Clipped", "Engine", "Precision", "get_engine"]
