"""A generator of public images that a model holds and patients never train: what maps codes to images, and back.

Its weights are those of the public run that ``init.run`` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from imgsynth.models.base import GenerativeModel
from imgsynth.models.named import model_factory
from imgsynth.models.white_box import LatentMap
from imgsynth.types import Fault, InputError


def public_generator(
    source: Mapping[str, Any], shape: tuple[int, ...], classes: int, structures: int
) -> GenerativeModel:
    """The model that ``source``, {_target_: …, hyperparameters}, names, of which nothing learns any more.

    InputError for anything that does not build a model.
    """
    source = {**source, "structures": structures} if structures else source
    make = model_factory(source, "model.source")
    try:
        built = make(shape, classes)
    except (TypeError, ValueError) as error:
        raise InputError(
            Fault("model.source", f"{dict(source)} ({error})", "the model of a public run's config.json",
                  "model.source={_target_: imgsynth.models.VAE}")
        ) from error  # fmt: skip
    return built.requires_grad_(False)


def latent_map(source: GenerativeModel) -> LatentMap:
    """From codes to images. InputError for a model that has no codes."""
    latent = source.white_box().latent
    if latent is None:
        raise _lacks(source, "a map from latent codes to images", "imgsynth.models.VAE or imgsynth.models.GAN")
    return latent


def encoder(source: GenerativeModel) -> Callable[[Tensor, Tensor], Tensor]:
    """From images and classes to codes [B, L]. InputError for a model without an encoder."""
    posterior = source.white_box().posterior
    if posterior is None or posterior.code is None:
        raise _lacks(source, "an encoder, which says the code of an image", "imgsynth.models.VAE")
    return posterior.code


def _lacks(source: GenerativeModel, what: str, have: str) -> InputError:
    return InputError(Fault("model.source", type(source).__name__, f"a model with {what}", have))
