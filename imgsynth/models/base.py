"""What a model promises: objectives that say what they may see, and a sampler that sees no data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from imgsynth.models.pace import Pace
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
class Votes:
    """Teachers whose noisy votes are all that a private objective learns from (PATE, Papernot et al. 2017).

    ``teacher()`` makes the network of one teacher, of which ``forward(x_BC, y_B, target_B)`` are losses [B] (target 1
    for real, 0 for generated) and ``logits(x_BC, y_B)`` numbers [B], without a layer that couples images. There are
    ``teachers`` of them (None: a public function of the cohort's declared size). Before each vote every one takes
    ``steps`` steps of Adam at ``learning_rate``, each on ``batch`` of its own patients and as many generated images.
    Then all are shown ``images`` generated images: ``choose(logit_KM)`` are bits [K, M], of which a teacher's follow
    its own logits alone. Released is by how much "real" leads, halved, with noise of standard deviation ``std``;
    ``label(margin_M, std, teachers)`` are targets [M] in [0, 1] made of that. The module of the objective takes
    ``student_steps`` steps, each on ``student_batch`` images of the last ``remembered`` votes: they are paid for.

    ``fakes.make(*drawn_B)`` are ``(x_BC, y_B)``. Teachers are no part of the model: they are never released.
    """

    teacher: Callable[[], nn.Module]
    choose: Callable[[Tensor], Tensor]
    fakes: FakeSource
    teachers: int | None
    steps: int
    batch: int
    learning_rate: float
    images: int
    label: Callable[[Tensor, float, int], Tensor]
    student_steps: int
    student_batch: int
    remembered: int


@dataclass(frozen=True)
class Private:
    """An objective that sees real images. What these do to its trainable parameters goes through the privacy plan.

    ``module.forward(x_BC, y_B, *aux_B) -> loss_B`` returns one loss per image, never coupling the images of a batch.
    ``aux(n, generator)`` draws the random inputs of n images (reparameterisation noise, real/fake targets); it must not
    depend on data. ``fakes`` makes generated images; how many, and how they enter, is the plan's affair.

    ``rounds`` is for a summary: a module whose result is no trained network but the noised mean itself. Its loss is
    linear in its weights w, -<w, f(x, y)> with |f| at most 1, so that a patient's gradient is -f; each of ``rounds``
    steps takes every patient and adds the noised mean of f to w, as it is. What w is in between (set back to zero, say)
    is the affair of the post-processing objectives. None: weights are trained by an optimizer, in any number of steps.

    ``votes`` is for a module that sees no real image but learns from teachers that do; its ``aux`` is then the label.
    """

    name: str
    module: nn.Module
    aux: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    fakes: FakeSource | None = None
    rounds: int | None = None
    votes: Votes | None = None


@dataclass(frozen=True)
class PostProcessing:
    """An objective that is handed no real data: a function of what the private steps already released.

    ``loss(n, generator)`` returns a scalar; only ``module``'s parameters are stepped, after ``every`` steps. n is
    ``images``, or where that is None as many images as a private batch is expected to have.

    A ``Pace`` decides from step to step how often that is, by ``accuracy(n, generator)``, a scalar without real data.
    ``module`` may share parameters with the private network: what it does to released weights costs nothing.

    With ``before`` its turn is once, before the first private step and after the queries that come before it, for
    ``trainer.steps_before`` steps in a row.
    """

    name: str
    module: nn.Module
    loss: Callable[[int, torch.Generator], Tensor]
    every: int | Pace = 1
    images: int | None = None
    accuracy: Callable[[int, torch.Generator], Tensor] | None = None
    before: bool = False

    def due(self, step: int) -> bool:
        """Whether its turn has come after ``step`` steps."""
        if self.before:
            return False
        return step % self.every == 0 if isinstance(self.every, int) else self.every.due(step)


@dataclass(frozen=True)
class Query:
    """A mean over all patients that the model asks for once, beside its training: class means, moments of codes.

    ``module.forward(x_BC, y_B) -> loss_B`` is a loss for each image that is linear in ``answers``, parameters of the
    module that nothing trains. The plan sums the patients' gradients with respect to these alone, each clipped to
    ``norm``, adds noise and divides by the public number of patients; ``answers`` are then *minus* that mean. So with
    a loss of -<w, v(x, y)>, w becomes the noisy mean of v. ``norm`` is what no patient's v exceeds, by public facts
    alone.

    ``when`` is "before" or "after" training. ``done(noise_std)`` is called with the answers in place, in the order of
    ``objectives``, so that a later query may build upon an earlier one; each coordinate of an answer has noise of
    standard deviation ``noise_std``. What it makes of them sees no real data. It may write buffers of the model.
    """

    name: str
    module: nn.Module
    answers: Sequence[nn.Parameter]
    norm: float
    when: Literal["before", "after"]
    done: Callable[[float], None]


@dataclass(frozen=True)
class Update:
    """What a model makes of each private step without a gradient, on no real data (the next candidates of votes).

    ``update(generator, noise_std, patients)`` is called after the private parameters were stepped, of whose gradient
    each coordinate had noise of standard deviation ``noise_std``. ``patients`` is the public number by which the noised
    sum over patients was divided. It may write parameters and buffers of the model.
    """

    name: str
    update: Callable[[torch.Generator, float, float], None]


Objective = Private | PostProcessing | Query | Update


def queries_of(objectives: Sequence[Objective], when: Literal["before", "after"] | None = None) -> list[Query]:
    """The queries of a model, in their order: all of them, or those ``when``."""
    return [o for o in objectives if isinstance(o, Query) and when in (None, o.when)]


def the_private(objectives: Sequence[Objective]) -> Private:
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

    Constructed with ``shape`` (spatial, two or three axes) and ``classes`` (the number of public classes, at least 1);
    with ``structures`` too where it can make a mask beside each image, of so many structures. An image then has a
    channel more for each (``blocks.in_range``).
    """

    shape: tuple[int, ...]
    classes: int
    structures: int = 0
    public_words: ClassVar[Collection[str]] = ()  # that its settings can have: a release states them, and no other text

    @property
    def image_channels(self) -> int:
        """C: the image's own channel, and one for each structure of its mask."""
        return 1 + self.structures

    @abstractmethod
    def objectives(self) -> Sequence[Objective]:
        """What to train, and what to ask; exactly one ``Private`` objective."""

    @property
    @abstractmethod
    def generator(self) -> nn.Module:
        """The part of the network that sampling needs: what EMA averages and what a release may ship."""

    @abstractmethod
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """Images [B, C, *shape] in [-1, 1] for the class indices ``y_B``, from the generator alone."""

    @property
    def public_part(self) -> GenerativeModel:
        """The model whose weights ``begin_with`` takes: this one, or a generator of public images that it holds, and
        without whose weights it is nothing."""
        return self

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of ``public_part`` as trained on public images, before this model sees any patient.

        A model in which something is a patients' mean and no weight leaves that out.
        """
        part = self.public_part
        if part is self:
            self.load_state_dict(state)
        else:
            part.begin_with(state)

    def white_box(self) -> WhiteBox:
        """The parts that an audit with the weights in hand can ask; a model that can only sample has none."""
        return WhiteBox()


class MaskToImage(ABC):
    """What a model that paints images onto masks can do beside ``sample``, which is the two of these in turn."""

    @abstractmethod
    def masks(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """Masks [B, m, *shape] for the classes ``y_B``: 1 inside a structure, -1 outside, one structure a voxel."""

    @abstractmethod
    def paint(self, mask_BM: Tensor, y_B: Tensor, random: torch.Generator) -> Tensor:
        """Images [B, 1, *shape] in [-1, 1] onto these masks, by random numbers that are the same whatever they show."""
