"""The exponential moving average of the generator's weights, which is what samples and releases are made from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from imgsynth.models.base import GenerativeModel


class Ema:
    """Averages the parameters of ``model.generator``, without a bias toward the random initial weights.

    After updates w_1 … w_t the average is (1-β) Σ β^(t-i) w_i / (1-β^t), the bias correction of Adam (Kingma and Ba
    2015, section 3): weights of an exponential window that sum to 1 over the steps there were. ``model`` is a copy in
    evaluation mode whose generator holds the average; the copy's other parts are not trained and not used.

    The average is a function of weights that the privacy plan has already released, so it costs nothing.
    """

    def __init__(self, model: GenerativeModel, decay: float):
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: GenerativeModel) -> None:
        self.updates += 1
        keep = self.decay * (1 - self.decay ** (self.updates - 1)) / (1 - self.decay**self.updates)
        averages = dict(self.model.generator.named_parameters())
        for name, weight in model.generator.named_parameters():
            averages[name].lerp_(weight, 1 - keep)
        self.follow_buffers(model)

    @torch.no_grad()
    def follow_buffers(self, model: GenerativeModel) -> None:
        """What is no weight is not averaged, but taken as it is."""
        buffers = dict(self.model.generator.named_buffers())
        for name, value in model.generator.named_buffers():
            buffers[name].copy_(value)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"updates": self.updates, **self.model.generator.state_dict(prefix="generator.")}

    def snapshot(self) -> dict[str, Tensor | int]:
        """``state_dict`` as it is now, in memory of its own."""
        return {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        weights = {k.removeprefix("generator."): v for k, v in state.items() if isinstance(v, Tensor)}
        self.model.generator.load_state_dict(weights)
        self.updates = int(state["updates"])
