"""Each patient's code under a public generator, clipped, with noise, and made into an image again, in 2D and 3D.

The latent-noise variant of private synthesis: what leaves is a patient's own code with so much Gaussian noise that it
could be another's, as in local differential privacy (Weggenmann et al. 2022, "DP-VAE: Human-Readable Text Anonymization
for Online Reviews with Differentially Private Variational Autoencoders"; Barrett et al. 2022, arXiv:2204.10986). The
noise is that of the analytic Gaussian mechanism (Balle and Wang 2018, arXiv:1805.06530), as one step of all patients
at rate 1 is accounted for.

Every image lays one vector of length at most 1 into one of S slots, which is drawn for it at random:

    v(x, y) = (√a e_y, √(1 - a) c / R),     c = code(x, y), scaled back to length R where it is longer,

and all slots are released with noise of σ in every number. So a patient moves what is released by at most 1, whoever
else is there: the unit is the patient, neighbours differ by one patient, and ε is of the same kind as that of any other
method. Which slot is whose, and which are empty, nobody is told. In the terms of local privacy, where a patient's image
is *exchanged* for another, the same noise has the larger ε that half of σ has.

What a slot says of its code is then an estimate with a known error: with c ~ N(0, 1), c given its slot is Gaussian, its
mean shrunk by what noise leaves of it. Samples are drawn from that, in slots that likely hold one code of the class
asked for; two codes in a slot are not told apart. Where noise is large this is the public generator's own prior again:
an image can be no better than ε allows for *one patient alone*. Methods that add patients up do better.

Symbols: v_SD what the slots hold, with noise; σ the noise in each number of v; λ = n/S codes to a slot, expected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from imgsynth.models.base import GenerativeModel, Objective, Private, Update
from imgsynth.models.blocks import one_hot
from imgsynth.models.public_source import encoder, latent_map, public_generator
from imgsynth.models.white_box import WhiteBox
from imgsynth.types import Fault, InputError

SHARE = 0.2  # a: of a vector's squared length that says of which class the image is
RADIUS = 1.2  # R / √L: codes under N(0, 1) have length about √L


class Slots(nn.Module):
    """The private part: ``forward(x_BC, y_B, slot_B)`` are -<w, e_slot v(x, y)'>, [B]; an image's gradient is at most 1
    long. ``w`` [S, D] starts at 0 and is then what was released, divided by the public number of patients."""

    def __init__(self, source: GenerativeModel, latent: int, classes: int, slots: int):
        super().__init__()
        self.source, self.classes = source, classes
        self.radius = RADIUS * math.sqrt(latent)
        self.held = nn.Linear(classes + latent, slots, bias=False)
        nn.init.zeros_(self.held.weight)

    def vector(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        """v [B, D], of length 1 at most."""
        c_BL = encoder(self.source)(x_BC, y_B)
        c_BL = c_BL / c_BL.norm(dim=1, keepdim=True).clamp(min=self.radius)
        return torch.cat([math.sqrt(SHARE) * one_hot(y_B, self.classes), math.sqrt(1 - SHARE) * c_BL], dim=1)

    def forward(self, x_BC: Tensor, y_B: Tensor, slot_B: Tensor) -> Tensor:
        return -(self.held(self.vector(x_BC, y_B)) * one_hot(slot_B, self.held.out_features)).sum(1)


class Codes(nn.Module):
    """What the slots say of codes, and the public network that makes images of them: all that sampling needs."""

    mean_SL: Tensor
    spread: Tensor
    chance_YS: Tensor

    def __init__(self, network: nn.Module, latent: int, classes: int, slots: int):
        super().__init__()
        self.network = network
        self.register_buffer("mean_SL", torch.zeros(slots, latent))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("chance_YS", torch.full((classes, slots), 1 / slots))

    @torch.no_grad()
    def learn(self, v_SD: Tensor, sigma: float, load: float, radius: float) -> None:
        """Take what the slots say: v_SD with noise of ``sigma`` in each number, ``load`` codes to a slot expected."""
        classes = len(self.chance_YS)
        label_SY, code_SL = v_SD.double().split([classes, v_SD.shape[1] - classes], dim=1)
        seen_SL = code_SL * (radius / math.sqrt(1 - SHARE))  # c + noise
        error = sigma * radius / math.sqrt(1 - SHARE)
        kept = 1 / (1 + error**2)
        self.mean_SL.copy_(kept * seen_SL)
        self.spread.fill_(math.sqrt(1 - kept))
        # log of P(one code of class y) / P(no code), given the slot: by its label, and by how much code is in it.
        a, least = math.sqrt(SHARE), 1e-12
        by_label_SY = (a * label_SY - a**2 / 2) / max(sigma, least) ** 2
        narrow, wide = max(error, least) ** 2, 1 + error**2
        by_code_S = seen_SL.square().sum(1) * (1 / narrow - 1 / wide) / 2
        by_code_S += seen_SL.shape[1] * math.log(narrow / wide) / 2
        odds_SY = by_label_SY + by_code_S[:, None] + math.log(load / classes)
        either_SY = torch.log_softmax(torch.cat([torch.zeros_like(odds_SY[:, :1]), odds_SY], dim=1), dim=1)
        self.chance_YS.copy_(either_SY[:, 1:].T.softmax(1))

    def draw(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        """Codes [B, L] of these classes."""
        slot_B = torch.multinomial(self.chance_YS[y_B], 1, generator=random)[:, 0]
        eps_BL = torch.randn(len(y_B), self.mean_SL.shape[1], generator=random, device=random.device)
        return self.mean_SL[slot_B] + self.spread * eps_BL.to(self.mean_SL.device)


class LatentNoise(GenerativeModel):
    """Patients' own codes under a public generator, with noise.

    Args:
        shape: voxels along two or three axes.
        classes: number of public classes, at least 1.
        source: the public generator, {_target_: …, hyperparameters}: a model with an encoder (VAE, VAEGAN). Its weights
            are those of the public run that ``init.run`` names. The fewer latent dimensions, the less noise in each.
        slots: S; about twice the training patients: more cost nothing but memory, with fewer two codes share one.
        structures: of the mask that each image comes with.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, source: Mapping[str, Any], slots: int = 1000, structures: int = 0
    ):
        super().__init__()
        if slots < 1:
            raise InputError(Fault("model.slots", str(slots), "at least 1", "model.slots=1000"))
        self.shape, self.classes, self.slots, self.structures = tuple(shape), classes, slots, structures
        self.source = public_generator(source, self.shape, classes, structures)
        latent = latent_map(self.source).size
        encoder(self.source)
        self.private = Slots(self.source, latent, classes, slots)
        self.codes = Codes(self.source.generator, latent, classes, slots)

    def objectives(self) -> Sequence[Objective]:
        def draw(n: int, random: torch.Generator) -> tuple[Tensor, ...]:
            return (torch.randint(self.slots, (n,), generator=random, device=random.device),)

        return [Private("slots", self.private, aux=draw, rounds=1), Update("codes", self._learn)]

    @torch.no_grad()
    def _learn(self, random: torch.Generator, noise_std: float, patients: float) -> None:
        v_SD = self.private.held.weight * patients
        self.codes.learn(v_SD, noise_std * patients, patients / self.slots, self.private.radius)

    @property
    def public_part(self) -> GenerativeModel:
        return self.source

    @property
    def generator(self) -> nn.Module:
        return self.codes

    @torch.no_grad()
    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return latent_map(self.source).image(self.codes.draw(y_B, random), y_B)

    def white_box(self) -> WhiteBox:
        return WhiteBox(latent=replace(latent_map(self.source), draw=self.codes.draw))
