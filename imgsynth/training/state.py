"""Everything that a training step changes, as one object that can be stored and restored."""

from __future__ import annotations

import io
import secrets
from typing import Any, cast

import torch

from imgsynth.models.base import GenerativeModel, PostProcessing, Private, Update, the_private
from imgsynth.privacy.clipping import ClippingNorm
from imgsynth.privacy.engines import Precision, get_engine
from imgsynth.privacy.noise import NoiseSource, seed_for
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.schema import TrainerConfig
from imgsynth.training.device import lay_out
from imgsynth.training.ema import Ema
from imgsynth.training.optimizers import private_optimizer
from imgsynth.training.team import SOLO, Team
from imgsynth.types import Fault, InputError


class TrainingState:
    """Model, average, optimizers, patient sampler and noise of a run at ``step``.

    ``patients`` is how many this rank has to draw from. With ``seed`` None all randomness starts from the operating
    system's entropy and no random state is ever stored: a run that resumes draws afresh, and nobody who holds its
    checkpoint can recompute a batch or a noise vector. A seeded run (for tests, not releasable) stores them all and
    resumes bit for bit.

    On a ``team`` of several ranks, model, average and optimizers are the same on all of them, and so is the generator
    of generated images. Coins, the picks of images and what real images draw are each rank's own; noise is drawn by
    the first rank.
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
        team: Team = SOLO,
    ):
        self.step = 0
        self.asked = 0  # queries of the model that are answered
        # Images, labels and noisy answers of the last votes (``Private.votes``): released, and learned from again.
        self.told: list[tuple[torch.Tensor, ...]] = []
        # Averages after the steps that may be chosen in the end, until they are; then the step that was (selecting.py).
        self.candidates: dict[int, dict[str, torch.Tensor | int]] = {}
        self.selected: dict[str, Any] | None = None
        self.team = team
        own = seed if seed is None or team.size == 1 else seed_for(f"rank {team.rank} of {team.size}", seed) % 2**63
        self.model = lay_out(model.to(device), trainer.memory_format).train()
        self.ema = Ema(self.model, trainer.ema)
        objectives = self.model.objectives()
        self.private = the_private(objectives)
        self.post = [o for o in objectives if isinstance(o, PostProcessing)]
        self.updates = [o for o in objectives if isinstance(o, Update)]
        self.engine = get_engine(plan.engine, cast(Precision, trainer.precision))
        self.optimizers = {self.private.name: private_optimizer(_trainable(self.private), trainer)}
        betas = (trainer.beta1, trainer.beta2)
        for objective in self.post:
            adam = torch.optim.Adam(_trainable(objective), trainer.generator_learning_rate, betas)
            self.optimizers[objective.name] = adam
        self.sampler = PoissonPatients(plan, own, population=patients)
        self.noise = NoiseSource(seed)
        self.clipping = ClippingNorm(plan)
        # What data-free objectives draw from. What enters the patients' units has a generator of its own, because it
        # draws as often as there are patients in the batch: the position of this one must not follow that number.
        self.random = _generator("training", team.tell(lambda: secrets.randbits(63)) if seed is None else seed, device)
        self.random_real = _generator("real images", own, device)
        # Which of a patient's images a step takes; None lets the dataset ask the operating system.
        self.picks = None if own is None else torch.Generator().manual_seed(seed_for("images", own) % 2**63)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "asked": self.asked,
            "told": self.told,
            "candidates": self.candidates,
            "selected": self.selected,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "clipping": self.clipping.state_dict(),
            **self.streams(),
        }

    def streams(self) -> dict[str, Any]:
        """The part of ``state_dict`` that is this rank's own: what it draws from, and how often it has drawn."""
        return {"sampler": self.sampler.state_dict(), "noise": self.noise.state_dict(), "random": self._random_state()}

    def spread(self, streams: list[dict[str, Any]]) -> None:
        """Bring all ranks to the first one's state; ``streams`` are every rank's own, or empty at a run's start.

        Raises InputError for a seeded run on another number of ranks than its checkpoint was made on: it could not
        repeat. An unseeded one has no random state, and goes on on any number of ranks.
        """
        if self.picks is not None and streams and len(streams) != self.team.size:
            raise InputError(
                Fault("torchrun", f"{self.team.size} processes for a seeded run that was begun on {len(streams)}",
                      "the same number, as a seeded run is one that repeats",
                      f"{len(streams)} processes in all (torchrun --nproc_per_node {len(streams)} on one machine)")
            )  # fmt: skip
        state = self.team.tell(lambda: _packed(self.state_dict()))
        if not self.team.first:
            own = self.streams() if not streams else streams[self.team.rank if self.picks is not None else 0]
            self.load_state_dict({**_unpacked(state), **own})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.asked = state.get("asked", 0)  # checkpoints of earlier versions have none
        device = self.random.device
        self.told = [tuple(part.to(device) for part in vote) for vote in state.get("told", [])]
        self.candidates = state.get("candidates", {})
        self.selected = state.get("selected")
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


def _packed(state: dict[str, Any]) -> bytes:
    """As bytes, so that tensors of one rank's device can be read on another's."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpacked(state: bytes) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return content


def _generator(name: str, seed: int | None, device: torch.device) -> torch.Generator:
    start = secrets.randbits(63) if seed is None else seed_for(name, seed) % 2**63
    return torch.Generator(device).manual_seed(start)


def _trainable(objective: Private | PostProcessing) -> list[torch.nn.Parameter]:
    return [p for p in objective.module.parameters() if p.requires_grad]
