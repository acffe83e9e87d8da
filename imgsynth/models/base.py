"""What a model promises: objectives that say what they may see, and a sampler that sees no data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imgsynth.models.white_box import WhiteBox
from imgsynth.types import Fault, InputError

# Shape legend: B images in a batch, P patients, K images of a patient, C channels, * the two or three spatial axes.


@dataclass(frozen=True)
class FakeSource:
    """Generated images for a private network to be trained on beside real ones (a GAN's fakes).

    ``draw(n, generator)`` draws the random inputs of n images; it must not depend on data. ``make(*drawn_B)`` turns
    them into ``(x_BC, y_B, *aux_B)``: images, public labels, and what ``Private.aux`` draws for real images.

    Where an image enters a patient's unit, its inputs are drawn for it alone, and ``make`` is mapped over the images
    with ``torch.func.vmap``, which shows it one at a time: what a patient's unit holds cannot follow who else was
    drawn. So ``make`` must be a function of its inputs and the weights that treats images alike however many there
    are, without a layer that couples them (BatchNorm), without ``.item()``, and without writing images into buffers.
    """

    draw: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    make: Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Private:
    """An objective that sees real images. Its trainable parameters are stepped by the privacy plan and by nothing else.

    ``module.forward(x_BC, y_B, *aux_B) -> loss_B`` returns one loss per image, never coupling the images of a batch.
    ``aux(n, generator)`` draws the random inputs of n images (reparameterisation noise, real/fake targets); it must not
    depend on data. ``fakes`` makes generated images; how many, and how they enter, is the plan's affair.
    """

    name: str
    module: nn.Module
    aux: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    fakes: FakeSource | None = None


@dataclass(frozen=True)
class PostProcessing:
    """An objective that is handed no real data: a function of what the private steps already released.

    ``loss(n, generator)`` returns a scalar; only ``module``'s parameters are stepped, after ``every`` private steps.
    """

    name: str
    module: nn.Module
    loss: Callable[[int, torch.Generator], Tensor]
    every: int = 1


def the_private(objectives: Sequence[Private | PostProcessing]) -> Private:
    """The one private objective, or InputError: one plan makes one clipped, noised sum a step, and its ε is of that."""
    private = [objective for objective in objectives if isinstance(objective, Private)]
    if len(private) != 1:
        names = f" ({', '.join(objective.name for objective in private)})" if private else ""
        raise InputError(
            Fault(
                "model, objectives",
                f"{len(private)} private ones{names}",
                "exactly one: one sum is clipped and noised in a step, and ε accounts for that one",
                "put the networks that see real images into one nn.Module whose forward returns the sum of their "
                "losses for each image; they are then clipped together",
            )
        )
    return private[0]


class GenerativeModel(nn.Module, ABC):
    """A conditional image generator, in 2D and 3D from the same code. Subclasses are final: no model inherits another.

    Constructed with ``shape`` (spatial, two or three axes) and ``classes`` (the number of public classes, at least 1).
    """

    shape: tuple[int, ...]
    classes: int

    @abstractmethod
    def objectives(self) -> Sequence[Private | PostProcessing]:
        """What to train; exactly one ``Private`` objective."""

    @property
    @abstractmethod
    def generator(self) -> nn.Module:
        """The part of the network that sampling needs: what EMA averages and what a release may ship."""

    @abstractmethod
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """Images [B, 1, *shape] in [-1, 1] for the class indices ``y_B``, from the generator alone."""

    def white_box(self) -> WhiteBox:
        """The parts that an audit with the weights in hand can ask; a model that can only sample has none."""
        return WhiteBox()
