"""Generated images that a private network is trained on beside real ones (a GAN's fakes): two ways to take them in.

"joint": each drawn patient's unit holds fakes of its own, and its gradient is clipped with them. Adding or removing a
patient still adds or removes one vector of length C at most, provided that the fakes are independent and identically
distributed whatever their number, which is for the caller to see to (``training/fakes.py``): then no patient's fakes
follow who else is drawn, and one who is not drawn brings none. Real and fake keep their balance whatever C is, because
one factor scales both.

"plain": a public number of fakes, whose mean gradient is added without clipping. It is a function of released weights
and fresh randomness, post-processing. Where C is below the patients' norms, fakes weigh more than real images.

Shape legend: P patients, K images of a patient, F fakes of a patient, C channels, * spatial axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgsynth.privacy.engines.base import Aux, Engine
from imgsynth.privacy.plain import plain_sum
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.ranks import Ranks, Sums, Units
from imgsynth.types import PatientBatch

Fakes = Units  # units of one image each, with their aux tensors


def how_many(plan: PrivacyPlan, patients: int) -> int:
    """How many fakes ``private_step`` takes beside ``patients`` drawn ones. In "plain" they do not matter."""
    assert plan.fakes in ("joint", "plain"), f"no step takes fakes as {plan.fakes}"
    return patients * plan.fakes_per_patient if plan.fakes == "joint" else plan.companion_size


def joined(plan: PrivacyPlan, batch: PatientBatch, aux: Aux, fakes: Fakes) -> tuple[PatientBatch, Aux]:
    """Every patient's K images and then F fakes of weight 1/F each: a unit's loss is the mean of either, added."""
    patients, images = batch.w_PK.shape
    made, made_aux = fakes
    own = plan.fakes_per_patient
    assert len(made) == patients * own, f"{len(made)} fakes for {patients} patients with {own} each"

    def beside(real_B: Tensor, fake_B: Tensor) -> Tensor:
        real_PK = real_B.reshape(patients, images, *real_B.shape[1:])
        return torch.cat([real_PK, fake_B.reshape(patients, own, *fake_B.shape[1:]).to(real_B)], dim=1)

    x_PKC = beside(batch.x_PKC.flatten(0, 1), made.x_PKC.flatten(0, 1))
    y_PK = beside(batch.y_PK.flatten(), made.y_PK.flatten())
    w_PK = torch.cat([batch.w_PK, batch.w_PK.new_full((patients, own), 1 / own)], dim=1)
    both = tuple(beside(a, b).flatten(0, 1) for a, b in zip(aux, made_aux, strict=True))
    return PatientBatch(x_PKC, y_PK, w_PK), both


def plain_sums(plan: PrivacyPlan, engine: Engine, module: nn.Module, fakes: Fakes, ranks: Ranks) -> Sums:
    """Σ_j ∇ℓ_j by parameter, over this rank's share of m fakes, m being the plan's constant and nothing else."""
    made, m = len(fakes[0]), plan.companion_size
    assert made == m, f"{made} fakes, but the plan's public number is {m}"
    return plain_sum(engine, module, *ranks.share(fakes), plan.physical_batch).sums
