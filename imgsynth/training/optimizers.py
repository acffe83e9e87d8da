"""What steps the private network on its noised gradient, and the networks that see no data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from imgsynth.schema import TrainerConfig

_SMALLEST = 1e-16  # squared gradient


class AdamBC(Optimizer):
    """Adam whose second moment is freed of the noise that differential privacy put into it.

    Tang, Shpilevskiy and Lécuyer 2024, "DP-AdamBC: Your DP-Adam Is Actually DP-SGD (Unless You Apply Bias Correction)"
    (arXiv 2312.14334), Algorithm 1: with m̂ and v̂ the moments of Adam after their correction for starting at zero,

        θ <- θ - η m̂ / √max(v̂ - Φ̂, γ')

    Φ is the variance of the noise in each coordinate of the gradient, (σ_g C / (q n))². Noise adds it to v̂ in
    expectation; there it hides the squared gradients, and Adam becomes SGD with a constant rate. Where C adapts, Φ
    follows it: Φ̂ averages the steps' Φ with the weights that v̂ gives them, and is Φ where that is constant.

    ``floor`` is γ' in units of Φ̂ (the paper's is absolute): noise in m̂ is a fraction of √Φ, so that one floor keeps a
    coordinate of pure noise at steps of about η whatever σ, C and q n are. Without noise γ' is 10⁻¹⁶, which takes the
    place of Adam's addend of 10⁻⁸.

    Everything here is a function of noised gradients and public numbers: it costs nothing. Set ``noise_std`` = √Φ
    before every ``step``.
    """

    noise_std = 0.0

    def __init__(self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], floor: float):
        super().__init__(params, {"lr": lr, "betas": betas, "floor": floor, "step": 0, "noise": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "a private gradient is computed once"
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            group["step"] += 1
            group["noise"] = beta2 * group["noise"] + (1 - beta2) * self.noise_std**2
            started1, started2 = 1 - beta1 ** group["step"], 1 - beta2 ** group["step"]
            phi = group["noise"] / started2
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["m"], state["v"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["m"].lerp_(parameter.grad, 1 - beta1)
                state["v"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                second = (state["v"] / started2).sub_(phi).clamp_(min=max(group["floor"] * phi, _SMALLEST))
                parameter.addcdiv_(state["m"], second.sqrt_(), value=-group["lr"] / started1)


def private_optimizer(params: list[nn.Parameter], trainer: TrainerConfig) -> Optimizer:
    """The optimizer of ``trainer.optimizer`` for a private network.

    "summary" subtracts the gradient and does nothing else: with the loss -<w, f> of ``Private.rounds``, w grows by the
    noised mean of f, exactly.
    """
    if trainer.optimizer == "summary":
        return SGD(params, trainer.learning_rate)
    betas = (trainer.beta1, trainer.beta2)
    if trainer.optimizer == "adam_bc":
        return AdamBC(params, trainer.learning_rate, betas, trainer.second_moment_floor)
    if trainer.optimizer == "sgd":
        return SGD(params, trainer.learning_rate, momentum=trainer.beta1)
    return Adam(params, trainer.learning_rate, betas)


def take_step(optimizer: Optimizer, noise_std: float) -> None:
    """Step on gradients of which each coordinate has noise of that standard deviation."""
    if isinstance(optimizer, AdamBC):
        optimizer.noise_std = noise_std
    optimizer.step()
