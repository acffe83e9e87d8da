"""The rival of every synthetic set: a network trained on the patients by DP-SGD, at the same ε, by the same plan.

Whoever only wants that one network needs no images. It is measured on private data and stays local: nothing of it is
released, so that nothing is added to what the run has spent; its noise comes from the operating system all the same.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgsynth import console
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.measure.small_cnn import SmallCNN, shrunk
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.privacy.step import private_step
from imgsynth.schema import PrivacyConfig
from imgsynth.types import PatientBatch

STEPS, LEARNING_RATE, CLIPPING_NORM = 200, 4e-3, 1.0  # fixed: nothing is tuned on the data


class Losses(nn.Module):
    """Cross-entropy of each image."""

    def __init__(self, network: SmallCNN):
        super().__init__()
        self.network = network

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return F.cross_entropy(self.network(x_BC), y_B, reduction="none")


def classifier_plan(plan: PrivacyPlan, n: int, seed: int | None = None) -> PrivacyPlan:
    """DP-SGD for STEPS steps at the ε, δ, n, unit and K of ``plan``, on a quarter of the ``n`` patients a step, at most
    256. ``seed`` is for tests."""
    batch = max(1, min(256, n // 4))
    noised = plan.mode == "dp" and math.isfinite(plan.epsilon)
    privacy = PrivacyConfig(mode="dp" if noised else "none", epsilon=plan.epsilon if noised else None, n=plan.n,
                            delta=plan.delta, clipping_norm=CLIPPING_NORM, batch_patients=batch, seed=seed,
                            engine=plan.engine, physical_batch=plan.physical_batch)  # fmt: skip
    return make_plan(privacy, n=n, steps=STEPS, images_per_patient=plan.images_per_patient, unit=plan.unit)


def train_privately(patients: PatientDataset, classes: int, plan: PrivacyPlan, seed: int | None = None) -> SmallCNN:
    """The small CNN after all steps of ``plan`` (``classifier_plan``) on ``patients``. ``seed`` is that
    of the plan."""
    with own_seed(seed):
        network = SmallCNN(patients.grid.spatial_dims, classes)
    learn_privately(Losses(network), patients, plan, _shrunk, LEARNING_RATE, seed)
    return network.eval()


def learn_privately(
    losses: nn.Module, patients: PatientDataset, plan: PrivacyPlan, seen: Callable[[Tensor], Tensor], rate: float,
    seed: int | None,
) -> None:  # fmt: skip
    """All steps of ``plan`` on ``losses`` (images as ``seen`` [B, …] and classes [B] to losses [B]), in place, by
    Adam at the learning rate ``rate``."""
    engine, noise = get_engine(plan.engine, "float32"), NoiseSource(seed)
    sampler = PoissonPatients(plan, seed, population=len(patients))  # plan.n may be declared
    adam = torch.optim.Adam(losses.parameters(), rate)
    for _ in console.track(range(plan.steps), "training by DP-SGD", total=plan.steps):
        batch = patients.batch(sampler.draw())
        p, k = batch.y_PK.shape
        x_PKC = seen(batch.x_PKC.flatten(0, 1)).unflatten(0, (p, k))
        private_step(plan, engine, losses, PatientBatch(x_PKC, batch.y_PK, batch.w_PK), (), None, noise)
        adam.step()


@contextmanager
def own_seed(seed: int | None) -> Iterator[None]:
    """torch's random numbers from ``seed``, or from one of the system's entropy; as they were, behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(secrets.randbits(63) if seed is None else seed)
        yield


def _shrunk(x_BC: Tensor) -> Tensor:
    """What the small CNN sees of images, with or without masks."""
    return shrunk(x_BC[:, :1].numpy())
