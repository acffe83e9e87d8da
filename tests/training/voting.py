"""A cohort in memory, and a model whose teachers vote on it, small enough to be trained in a second."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imgsynth.models import PATEGAN
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import PrivacyConfig, TrainerConfig
from imgsynth.training.state import TrainingState
from imgsynth.training.teachers import Teachers
from imgsynth.types import PatientBatch

CPU = torch.device("cpu")


class Ward:
    """``patients`` with one image each, x [N, 1, 8, 8] and y [N]; remembers whom it was asked for."""

    def __init__(self, x_NC: Tensor, y_N: Tensor):
        self.x_NC, self.y_N = x_NC, y_N
        self.asked: list[list[int]] = []

    @classmethod
    def of(cls, patients: int, seed: int = 0) -> Ward:
        """Class 1 is bright, class 0 dark."""
        random = torch.Generator().manual_seed(seed)
        y_N = torch.arange(patients) % 2
        x_NC = 0.2 * torch.randn(patients, 1, 8, 8, generator=random) + (y_N * 1.2 - 0.6).view(-1, 1, 1, 1)
        return cls(x_NC.clamp(-1, 1), y_N)

    def __len__(self) -> int:
        return len(self.y_N)

    def patient(self, row: int) -> str:
        return f"patient {row}"

    def batch(self, indices: Sequence[int], buffer_BC: Tensor | None = None) -> PatientBatch:
        self.asked.append(list(indices))
        rows = torch.tensor(indices, dtype=torch.int64)
        return PatientBatch(self.x_NC[rows][:, None], self.y_N[rows][:, None], torch.ones(len(rows), 1))


def small(teachers: int = 4, **changes: object) -> PATEGAN:
    torch.manual_seed(0)
    settings = {"latent": 3, "channels": 4, "widest": 8, "teacher_channels": 2, "teacher_batch": 4, "images": 8,
                "student_steps": 2, "student_batch": 16, "remembered": 3}  # fmt: skip
    return PATEGAN((8, 8), 2, teachers=teachers, **{**settings, **changes})


def plan_of(patients: int, teachers: int = 4, steps: int = 5, sigma: float = 1.0) -> PrivacyPlan:
    privacy = PrivacyConfig(epsilon=None, noise_multiplier=sigma, delta=1e-3, sampling_rate=1.0, seed=1)
    return make_plan(privacy, n=patients, steps=steps, images_per_patient=1, unit="patient", teachers=teachers)


def class_of(model: PATEGAN, ward: Ward, plan: PrivacyPlan, **trainer: object) -> tuple[TrainingState, Teachers]:
    """State and teachers of a run that is about to begin."""
    state = TrainingState(model, plan, TrainerConfig(**trainer), patients=len(ward), seed=1, device=CPU)
    return state, teachers_of(model, ward, plan.teachers or 0, range(len(ward)))


def teachers_of(model: PATEGAN, ward: Ward, count: int, rows: Sequence[int], seed: int = 1) -> Teachers:
    votes = model.objectives()[0].votes
    return Teachers(votes, count, ward, [ward.patient(i) for i in range(len(ward))], rows, CPU, seed)
