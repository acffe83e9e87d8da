"""A model by the dotted path of its class, as configurations and checkpoints name it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from imgsynth.models.base import GenerativeModel
from imgsynth.types import Fault, InputError

ModelFactory = Callable[[tuple[int, ...], int], GenerativeModel]


def model_factory(config: Mapping[str, Any], where: str = "model") -> ModelFactory:
    """The constructor that ``{_target_: …, hyperparameter: …}`` names, waiting for shape and classes.

    Only subclasses of ``GenerativeModel`` are called, whatever a checkpoint names. Raises InputError about ``where``.
    """
    target = str(config.get("_target_", "nothing"))
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(_no_model(where, target, str(error))) from error
    if not (inspect.isclass(found) and issubclass(found, GenerativeModel)):
        raise InputError(_no_model(where, target, "something else"))
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    return lambda shape, classes: found(shape=shape, classes=classes, **arguments)


def _no_model(where: str, target: str, got: str) -> Fault:
    return Fault(f"{where}._target_", f"{target} ({got})", "the dotted path of a GenerativeModel",
                 "install or put on PYTHONPATH the module that the run was trained with")  # fmt: skip
