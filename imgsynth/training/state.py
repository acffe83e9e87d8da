"""Everything that a training step changes, as one object that can be stored and restored."""

from __future__ import annotations

import secrets
from typing import Any

import torch

from imgsynth.models.base import GenerativeModel, PostProcessing, Private
from imgsynth.privacy.clipping import ClippingNorm
from imgsynth.privacy.noise import NoiseSource, seed_for
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.schema import TrainerConfig
from imgsynth.training.ema import Ema


class TrainingState:
    """Model, average, optimizers, patient sampler and noise of a run at ``step``.

    ``patients`` is how many there are to draw from. With ``seed`` None all randomness starts from the operating
    system's entropy and no random state is ever stored: a run that resumes draws afresh, and nobody who holds its
    checkpoint can recompute a batch or a noise vector. A seeded run (for tests, not releasable) stores them all and
    resumes bit for bit.
    """

    def __init__(
        self,
        model: GenerativeModel,
        plan: PrivacyPlan,
        trainer: TrainerConfig,
        *,
        patients: int,
        seed: int | None,
        device: torch.device,
    ):
        self.step = 0
        self.model = model.to(device).train()
        self.ema = Ema(self.model, trainer.ema)
        objectives = self.model.objectives()
        (self.private,) = [o for o in objectives if isinstance(o, Private)]
        self.post = [o for o in objectives if isinstance(o, PostProcessing)]
        betas = (trainer.beta1, trainer.beta2)
        self.optimizers = {self.private.name: torch.optim.Adam(_trainable(self.private), trainer.learning_rate, betas)}
        for objective in self.post:
            adam = torch.optim.Adam(_trainable(objective), trainer.generator_learning_rate, betas)
            self.optimizers[objective.name] = adam
        self.sampler = PoissonPatients(plan, seed, population=patients)
        self.noise = NoiseSource(seed)
        self.clipping = ClippingNorm(plan)
        # What data-free objectives draw from. What enters the patients' units has a generator of its own, because it
        # draws as often as there are patients in the batch: the position of this one must not follow that number.
        self.random = _generator("training", seed, device)
        self.random_real = _generator("real images", seed, device)
        # Which of a patient's images a step takes; None lets the dataset ask the operating system.
        self.picks = None if seed is None else torch.Generator().manual_seed(seed_for("images", seed) % 2**63)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "sampler": self.sampler.state_dict(),
            "noise": self.noise.state_dict(),
            "clipping": self.clipping.state_dict(),
            "random": self._random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.sampler.load_state_dict(state["sampler"])
        self.noise.load_state_dict(state["noise"])
        if "clipping" in state:  # checkpoints of earlier versions have none: their C was fixed
            self.clipping.load_state_dict(state["clipping"])
        if self.picks is not None:
            self.random.set_state(state["random"]["own"])
            self.random_real.set_state(state["random"]["real"])
            self.picks.set_state(state["random"]["picks"])
            torch.set_rng_state(state["random"]["torch"])
            torch.cuda.set_rng_state_all(state["random"]["cuda"])

    def _random_state(self) -> dict[str, Any] | None:
        if self.picks is None:
            return None
        generators = {"own": self.random, "real": self.random_real, "picks": self.picks}
        states = {name: generator.get_state() for name, generator in generators.items()}
        cuda = torch.cuda.get_rng_state_all() if self.random.device.type == "cuda" else []
        return {**states, "torch": torch.get_rng_state(), "cuda": cuda}


def _generator(name: str, seed: int | None, device: torch.device) -> torch.Generator:
    start = secrets.randbits(63) if seed is None else seed_for(name, seed) % 2**63
    return torch.Generator(device).manual_seed(start)


def _trainable(objective: Private | PostProcessing) -> list[torch.nn.Parameter]:
    return [p for p in objective.module.parameters() if p.requires_grad]
