"""Patients in memory, models small enough for hundreds of steps, and a plan: what the tests of canaries train on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from imgsynth.audit.canaries.twin import Twin
from imgsynth.models import GAN, VAE, VAEGAN, Diffusion, GenerativeModel, Pix2Pix, Private, Update
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import TrainerConfig
from imgsynth.types import Grid, PatientBatch, Structure

SHAPE, CLASSES = (8, 8), 2


class Cohort:
    """Stands for a PatientDataset: n patients with K images each, and with masks where there are structures."""

    def __init__(self, n: int = 60, images: int = 2, shape: tuple[int, ...] = SHAPE, structures: int = 0):
        random = torch.Generator().manual_seed(0)
        self.x_PKC = torch.rand(n, images, 1, *shape, generator=random) * 2 - 1
        where_PK = torch.randint(structures + 1, (n, images, *shape), generator=random)
        masks = [torch.where(where_PK == m + 1, 1.0, -1.0)[:, :, None] for m in range(structures)]
        self.x_PKC = torch.cat([self.x_PKC, *masks], dim=2)
        named = tuple(Structure(f"part {m + 1}", m + 1) for m in range(structures))
        self.grid = Grid(shape, (1.0,) * len(shape), "RA", "DX", "a.u.", 0, 1, named)

    def __len__(self) -> int:
        return len(self.x_PKC)

    def rows(self, patients: int) -> int:
        return patients * self.x_PKC.shape[1]

    def batch(self, indices, buffer_BC=None) -> PatientBatch:
        x_PKC = self.x_PKC[torch.tensor(indices, dtype=torch.long)]
        if buffer_BC is not None:
            buffer_BC[: self.rows(len(indices))] = x_PKC.flatten(0, 1)
            x_PKC = buffer_BC[: self.rows(len(indices))].view_as(x_PKC)
        patients, images = x_PKC.shape[:2]
        y_PK = torch.tensor(indices, dtype=torch.long)[:, None].expand(-1, images) % CLASSES
        return PatientBatch(x_PKC, y_PK, torch.full((patients, images), 1 / images))


class MomentLoss(nn.Module):
    """⟨w, φ(x)⟩, whose gradient is φ(x): a step on it at rate 1 is the release of Σ φ(x), clipped and noised."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.release = nn.Linear(features, 1, bias=False)
        self.register_buffer("project", torch.randn(64, features, generator=torch.Generator().manual_seed(0)) / 8)

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return self.release(torch.cos(x_BC.flatten(1) @ self.get_buffer("project")))[:, 0]


class Moments(GenerativeModel):
    def __init__(self, features: int = 200) -> None:
        super().__init__()
        self.shape, self.classes, self.loss = SHAPE, CLASSES, MomentLoss(features)

    def objectives(self):
        return [Private("moments", self.loss, lambda n, random: ())]

    @property
    def generator(self) -> nn.Module:
        return self.loss

    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        raise NotImplementedError


class Moving(Moments):
    """After each step other features, as the candidates of Private Evolution are others after each vote."""

    def objectives(self):
        return [*super().objectives(), Update("features", self._move)]

    def _move(self, random: torch.Generator, noise_std: float, patients: float) -> None:
        project = self.loss.get_buffer("project")
        project.copy_(torch.randn(project.shape, generator=random) / 8)


MODELS = {
    "vae": lambda: VAE(SHAPE, CLASSES, latent=2, channels=4, widest=8),
    "gan": lambda: GAN(SHAPE, CLASSES, latent=2, channels=4, widest=8, every=2),
    "wgan": lambda: GAN(SHAPE, CLASSES, latent=2, channels=4, widest=8, loss="wasserstein", critic="penalty"),
    "vaegan": lambda: VAEGAN(SHAPE, CLASSES, latent=2, channels=4, widest=8, encoder_channels=4),
    "diffusion": lambda: Diffusion(SHAPE, CLASSES, channels=4, widest=8),
    "vae, masks": lambda: VAE(SHAPE, CLASSES, latent=2, channels=4, widest=8, structures=2),
    "pix2pix": lambda: Pix2Pix(SHAPE, CLASSES, latent=2, mask_latent=2, channels=4, widest=8, structures=2),
    "moments": Moments,
    "moving": Moving,
}


def make_model(name: str) -> GenerativeModel:
    torch.manual_seed(0)
    return MODELS[name]()


def make_plan(images: int = 2, n: int = 60, **changes) -> PrivacyPlan:
    values = {
        "mode": "dp", "unit": "patient", "n": n, "sampling_rate": 0.3, "steps": 12, "clipping_norm": 0.5,
        "noise_multiplier": 1.0, "images_per_patient": images, "delta": 1e-3, "seeded": True, "physical_batch": 64,
    }  # fmt: skip
    return PrivacyPlan(**{**values, **changes})


def make_twin(model: str, kind: str, coins_M: np.ndarray, plan: PrivacyPlan, seed: int = 1, **trainer) -> Twin:
    settings = TrainerConfig(steps=plan.steps, device="cpu", **trainer)
    audited = make_model(model)
    cohort = Cohort(plan.n, plan.images_per_step, structures=audited.structures)
    return Twin(audited, kind, coins_M, plan, settings, cohort, torch.device("cpu"), seed=seed)
