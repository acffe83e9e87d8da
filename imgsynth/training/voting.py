"""Who is nearest: every patient votes for the candidate whose generated images lie nearest to his.

Shape legend: J candidates, S samples of each, D features, P patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

import torch
from torch import Tensor, nn

from imgsynth.features.maps import feature_maps

AT_ONCE = 32  # images whose features are computed together; memory, not the result

Sampler = Callable[[Tensor, torch.Generator], Tensor]  # GenerativeModel.sample of one candidate


class Candidates:
    """The generated images of all candidates, in the space of public features in which patients vote.

    A patient's vote follows from his own images and from what was released: it is the candidate j with the least mean,
    over his images, of the distance to the nearest of its samples of the image's class; of several the last. Features
    are means and spreads of the channels of a public network's maps, each in units of its spread over all samples. What
    is not finite is infinitely far, so that everybody has exactly one vote, whatever his images are.
    """

    def __init__(
        self, samplers: Iterable[Sampler], classes: int, samples: int, encoder: str, dims: int, random: torch.Generator
    ):
        self.network = feature_maps(encoder, dims, seed=0, where="selection.encoder").to(random.device).eval()
        y_S = torch.arange(max(samples, classes), device=random.device) % classes
        phi_JSD = torch.stack([self._features(_sampled(sample, y_S, random)) for sample in samplers])
        known = phi_JSD[phi_JSD.isfinite().all(2)]
        self._middle_D = known.mean(0) if len(known) else torch.zeros_like(phi_JSD[0, 0])
        self._spread_D = known.std(0).nan_to_num(1.0).clamp_min(1e-6) if len(known) else torch.ones_like(phi_JSD[0, 0])
        self._phi_JSD, self._y_S = self._standard(phi_JSD), y_S

    def votes(self, images: Iterable[tuple[str, Tensor, int]]) -> list[int]:
        """[J] how many patients voted for each candidate. ``images`` are (patient, x_C [C, *shape], class), patients
        one after another, as ``PatientDataset.all_images`` gives them."""
        votes_J = [0] * len(self._phi_JSD)
        for _, own in groupby(images, key=lambda image: image[0]):
            _, x, y = zip(*own, strict=True)
            votes_J[self.vote(torch.stack(x), torch.tensor(y))] += 1
        return votes_J

    def vote(self, x_KC: Tensor, y_K: Tensor) -> int:
        """Of one patient with all his images [K, C, *shape] and their classes."""
        device = self._phi_JSD.device
        phi_KD = self._standard(self._features(x_KC.to(device)))
        far_JKS = torch.cdist(phi_KD.expand(len(self._phi_JSD), -1, -1), self._phi_JSD)
        other_KS = y_K.to(device)[:, None] != self._y_S[None, :]
        far_JKS = far_JKS.nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(other_KS, torch.inf)
        mean_J = far_JKS.amin(2).mean(1).tolist()
        return min(range(len(mean_J)), key=lambda place: (mean_J[place], -place))

    @torch.no_grad()
    def _features(self, x_BC: Tensor) -> Tensor:
        """[B, D]; masks beside the image are not looked at."""
        parts = [_pooled(self.network, x_BC[i : i + AT_ONCE, :1].float()) for i in range(0, len(x_BC), AT_ONCE)]
        return torch.cat(parts).double()

    def _standard(self, phi: Tensor) -> Tensor:
        return (phi - self._middle_D) / self._spread_D


def _pooled(network: nn.Module, x_BC: Tensor) -> Tensor:
    flat = [maps.flatten(2) for maps in network(x_BC)]
    return torch.cat([part for m in flat for part in (m.mean(2), m.std(2, correction=0))], dim=1)


@torch.no_grad()
def _sampled(sample: Sampler, y_S: Tensor, random: torch.Generator) -> Tensor:
    return torch.cat([sample(y_S[i : i + AT_ONCE], random) for i in range(0, len(y_S), AT_ONCE)])
