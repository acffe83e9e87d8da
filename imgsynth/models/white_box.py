"""What somebody who holds a model's weights can ask it about an image, beyond samples: what white-box audits work on.

A model names the parts that it has; a hybrid names several. Nothing here is used in training, and none of it sees more
than it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Shape legend: B images in a batch, C channels and the two or three spatial axes, L latent dimensions.


@dataclass(frozen=True)
class Posterior:
    """How well the model encodes and decodes an image, by random draws.

    ``draw(n, generator)`` makes the random inputs of n images. ``errors(x_BC, y_B, *drawn_B)`` are two numbers for each
    image, [B] each, in the model's own units: the error of its reconstruction, and the negative ELBO. Smaller is
    better. No image's numbers follow the other images. ``code(x_BC, y_B)`` are the images' mean codes [B, L], without
    a draw, of the latent map's size; None where the model has no encoder.
    """

    draw: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    errors: Callable[..., tuple[Tensor, Tensor]]
    code: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class LatentMap:
    """``image(z_BL, y_B)``: the images [B, C, *shape] of latent vectors of ``size`` L, whose prior is N(0, 1).

    The same map that ``sample`` uses; differentiable in z, and every image follows its own z alone.

    ``draw(y_B, generator)``: latent vectors [B, L] as ``sample`` draws them for these classes; None: from the prior.
    """

    size: int
    image: Callable[[Tensor, Tensor], Tensor]
    draw: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def codes(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """Latent vectors [B, L] whose images are what ``sample`` makes of the same classes and generator."""
        if self.draw is not None:
            return self.draw(y_B, random)
        return torch.randn(len(y_B), self.size, generator=random, device=random.device).to(y_B.device)


@dataclass(frozen=True)
class WhiteBox:
    """The parts that a model has; None for those that it has not.

    ``discriminator(x_BC, y_B)``: a score [B] that is higher the more the image looks like a training image of its class
    to the network that was trained to tell them from generated ones.
    ``released(x_BC, y_B)``: a score [B] that is higher the more of what the image adds to a released mean is in it.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor] | None = None
    posterior: Posterior | None = None
    latent: LatentMap | None = None
    released: Callable[[Tensor, Tensor], Tensor] | None = None
