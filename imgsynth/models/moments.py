"""What the moment-matching generators are made of: a mean embedding that patients enter, and what learns from it.

Symbols
    x_BC   images [B, C, *shape] in [-1, 1]          y_B   class indices [B], public
    φ(x)   public features of an image [B, D], of length at most 1: nothing in them is learned from patients
    m_CD   the mean embedding [C, D]: the mean over patients of e_y φ(x)', a matrix with one row that is not zero
    w_CD   m_CD as it was released, with noise of the same standard deviation τ in every entry
    s_C    the share of each class among the patients, which w_CD holds too
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from imgsynth.models.blocks import double, in_range, one_hot, pyramid, to_image, voxels, widths

SILENT = 256  # entries of every row that no image reaches: what is released there is noise alone, and tells τ
SHARE = 0.1  # of an image's squared length that says of which class it is
FLOOR = 3.0  # a class whose released share is less than this many standard deviations of noise is not believed
MOST_TEXTURE = 0.1  # standard deviation of a voxel's texture at most, before the image's tanh: a twentieth of the range


class MeanEmbedding(nn.Module):
    """The private part: a linear layer whose gradient is the mean embedding of the images, with its sign changed.

    ``forward(x_BC, y_B)`` are the losses -<w, e_y ψ(x)'>, [B], where ψ(x) is ``SILENT`` zeros, √a and √(1-a) φ(x), of
    length at most 1. Starting from w = 0, one step of length 1 on all patients leaves w at the released mean.

    ``features`` maps images to φ and has no trainable parameter.
    """

    def __init__(self, features: nn.Module, width: int, classes: int):
        super().__init__()
        self.features, self.classes = features, classes
        self.mean = nn.Linear(SILENT + 1 + width, classes, bias=False)
        nn.init.zeros_(self.mean.weight)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return -self.score(x_BC, y_B)

    def score(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """<w, e_y ψ(x)'> of each image: [B]."""
        return (self.mean(self.embed(x_BC)) * one_hot(y_B, self.classes)).sum(1)

    def embed(self, x_BC: Tensor) -> Tensor:
        """ψ(x): [B, SILENT + 1 + D]."""
        phi_BD = self.features(x_BC) * math.sqrt(1 - SHARE)
        front_BD = phi_BD.new_zeros(len(phi_BD), SILENT + 1)
        front_BD[:, -1] = math.sqrt(SHARE)
        return torch.cat([front_BD, phi_BD], dim=1)

    @torch.no_grad()
    def released(self) -> Released:
        """What w says of the classes."""
        return Released.of(self.mean.weight)


@dataclass(frozen=True)
class Released:
    """The mean embedding of each class, ``target_CD`` [C, D], an estimate of E[φ(x) | y]; ``trust_C`` [C] is how much
    it can be relied on beside the other classes, 1 for the best known one."""

    target_CD: Tensor
    trust_C: Tensor

    @classmethod
    def of(cls, w_CD: Tensor) -> Released:
        """Divide each class by its own released share. A class that is not believed has the mean of all classes."""
        noise = w_CD[:, :SILENT].square().mean().sqrt()
        share_C = w_CD[:, SILENT] / math.sqrt(SHARE)
        floor = FLOOR * noise / math.sqrt(SHARE)
        believed_C = share_C > floor
        phi_CD = w_CD[:, SILENT + 1 :] / math.sqrt(1 - SHARE)
        share_C = torch.where(believed_C, share_C, share_C.sum().clamp(min=floor))
        phi_CD = torch.where(believed_C[:, None], phi_CD, phi_CD.sum(0, keepdim=True))
        tiny = torch.finfo(w_CD.dtype).tiny
        share_C = share_C.clamp(min=tiny)
        return cls(phi_CD / share_C[:, None], (share_C / share_C.max().clamp(min=tiny)).square())


def matching_loss(phi_BD: Tensor, released: Released) -> Tensor:
    """Σ_c trust_c ‖target_c - E φ(G(z, c))‖², estimated without bias: a scalar.

    ``phi_BD`` are features of 2 M C generated images, of class 0, 1, … C - 1 in turn. With u and v the means of the two
    halves, independent of each other, (target - u)·(target - v) has the expectation ‖target - E φ‖². The squared
    distance of *one* mean would have the variance of φ over M on top, and a generator that repeats itself would be
    the cheapest way to make it small.
    """
    classes = len(released.trust_C)
    half_2CD = phi_BD.unflatten(0, (2, -1, classes)).mean(1)
    gap_2CD = released.target_CD - half_2CD
    return (released.trust_C * (gap_2CD[0] * gap_2CD[1]).sum(1)).sum()


class Generator(nn.Module):
    """G: z_BL [B, inputs], y_B [B] to images [B, 1 + structures, *shape] in [-1, 1].

    The first ``latent`` of z set what is in the image, the others, one for each voxel, its texture: noise of an
    amplitude that the network chooses for every place, up to MOST_TEXTURE; a mask has none. A network that has none
    makes images smoother than real ones, and a classifier that learns from them looks at what real images do not have.
    Without a bound it stands in for structures whose place the network has not found: images are speckled.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, latent: int, channels: int, widest: int, structures: int = 0
    ):
        super().__init__()
        grids = pyramid(shape)
        dims, coarse, up = len(shape), grids[-1], widths(channels, widest, grids)[::-1]
        self.shape, self.classes, self.latent, self.inputs = shape, classes, latent, latent + voxels(shape)
        self.stem = nn.Linear(latent + classes, up[0] * voxels(coarse))
        self.unflatten = nn.Unflatten(1, (up[0], *coarse))
        self.trunk = nn.Sequential(*(double(dims, i, o) for i, o in pairwise(up)))
        self.head, self.texture = to_image(dims, up[-1], 1 + structures), to_image(dims, up[-1])

    def forward(self, z_BL: Tensor, y_B: Tensor) -> Tensor:
        content_BL, noise_BC = z_BL[:, : self.latent], z_BL[:, self.latent :].unflatten(1, (1, *self.shape))
        h_BC = self.trunk(self.unflatten(self.stem(torch.cat([content_BL, one_hot(y_B, self.classes)], dim=1))))
        said_BC = self.head(h_BC)
        image_BC = said_BC[:, :1] + MOST_TEXTURE * self.texture(h_BC).sigmoid() * noise_BC
        return in_range(torch.cat([image_BC, said_BC[:, 1:]], dim=1))

    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """z of n images."""
        return torch.randn(n, self.inputs, generator=random, device=random.device)

    def made(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """An image of each of the classes ``y_B``."""
        images_BC: Tensor = self(self.draw(len(y_B), random), y_B)
        return images_BC


def generator_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The generator ``G`` out of a public model's weights. The mean of public features stays behind: that of the
    patients' would be added to it."""
    return {name.removeprefix("G."): value for name, value in state.items() if name.startswith("G.")}


Make = Callable[[Tensor, torch.Generator], Tensor]  # y_B [B] to images [B, C, *shape], whose gradient is known


def post_processing_loss(embedding: MeanEmbedding, make: Make) -> Callable[[int, torch.Generator], Tensor]:
    """``loss(n, random)`` on about n generated images, as many of each class, and on what was released."""

    def loss(n: int, random: torch.Generator) -> Tensor:
        classes = embedding.classes
        count = 2 * classes * max(1, round(n / (2 * classes)))
        y_B = torch.arange(count, device=random.device) % classes
        return matching_loss(embedding.features(make(y_B, random)), embedding.released())

    return loss
