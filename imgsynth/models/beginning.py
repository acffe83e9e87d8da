"""What a network begins on before the first private step: answers to queries that patients enter once, noised.

A generator in one pass (GAN, VAE-GAN, PATE-GAN) begins as DP-MERF (``merf.py``): it matches a noised mean of random
features. Then it is held to that: after each private step it takes one more towards the same answer, which is paid for.
Beside few patients the noisy gradients of a discriminator, or the votes of teachers, cannot lead random weights to an
image, nor keep from losing one. After Gong et al. 2025 (FETA-Pro), who begin a diffusion model so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from imgsynth.models.base import Objective, PostProcessing, Query
from imgsynth.models.merf import FourierFeatures
from imgsynth.models.moments import Make, MeanEmbedding, post_processing_loss
from imgsynth.types import Fault

MOMENTS = ("moments",)  # what a generator in one pass can begin on


def warm_up_faults(warm_up: object, known: Sequence[str] = MOMENTS) -> list[Fault]:
    """That ``model.warm_up`` is not a list of ``known`` words."""
    words = list(warm_up) if isinstance(warm_up, Sequence) and not isinstance(warm_up, str) else [None]
    if all(word in known and words.count(word) == 1 for word in words):
        return []
    several = f"a list of {', '.join(known)}, each once at most, or []"
    return [Fault("model.warm_up", str(warm_up), several, f"model.warm_up=[{known[0]}]")]


def moments_for(warm_up: Sequence[str], shape: tuple[int, ...], classes: int, structures: int) -> MeanEmbedding | None:
    """The mean embedding that ``on_moments`` asks for, by features as ``model=merf`` has them; None where it does
    not."""
    if "moments" not in warm_up:
        return None
    features = FourierFeatures(shape, structures=structures)
    embedding = MeanEmbedding(features, features.width, classes)
    embedding.mean.requires_grad_(False)  # a query's answer, which nothing trains
    return embedding


def on_moments(
    embedding: MeanEmbedding, name: str, network: nn.Module, make: Make, images: int | None = None
) -> list[Objective]:
    """The query for the mean embedding, and turns of ``network``, whose images ``make`` makes, to match the answer."""
    answers = list(embedding.mean.parameters())
    return [
        Query("moments", embedding, answers, 1.0, "before", lambda noise_std: None),
        PostProcessing(name, network, post_processing_loss(embedding, make), images=images, before=True),
    ]


def held_to_moments(
    embedding: MeanEmbedding | None, generator: nn.Module, make: Make, images: int | None = None
) -> list[Objective]:
    """``on_moments``, and a turn after each private step, on ``images`` (None: as many as a batch has); nothing without
    an ``embedding``."""
    if embedding is None:
        return []
    begin = on_moments(embedding, "warm_up_on_moments", generator, make, images)
    held = PostProcessing("held_to_moments", generator, post_processing_loss(embedding, make), images=images)
    return [*begin, held]


def but_for(model: nn.Module, state: Mapping[str, Tensor], own: tuple[str, ...]) -> dict[str, Tensor]:
    """``state``, another model's, but what begins with ``own`` as it is in ``model``: a patients' mean is no weight."""
    mine = {name: value for name, value in model.state_dict().items() if name.startswith(own)}
    return {name: value for name, value in state.items() if not name.startswith(own)} | mine
