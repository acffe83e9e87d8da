"""How many private steps a discriminator takes for each step of its generator, adapted to what is free to know.

Bie, Kamath and Zhang 2023, "Private GANs, Revisited" (arXiv:2302.02936): under noise a discriminator needs many more
steps to be as good as without, and more of them late in training than early. n_D walks up 1, 2, 5, 10, 20, 50, …: as
soon as the discriminator recognises only few of the *fakes*, it gets more steps. Its accuracy on fakes follows from the
released weights alone; its accuracy on real images would be a private number, and is never asked for.
"""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor, nn

from imgsynth.types import Fault


def level_of(n_d: int) -> int:
    """The first place on 1, 2, 5, 10, 20, 50, … that is at least ``n_d``."""
    return next(level for level in count() if steps_at(level) >= n_d)


def steps_at(level: int) -> int:
    """n_D at a place on 1, 2, 5, 10, 20, 50, …, counted from 0."""
    return int((1, 2, 5)[level % 3] * 10 ** (level // 3))


def pace_faults(every: int, adaptive: bool = False, patience: int = 50, loss: str = "non_saturating") -> list[Fault]:
    """What is wrong with these arguments of a model."""
    faults = []
    if every < 1:
        faults.append(Fault("model.every", str(every), "at least 1", "model.every=1"))
    if patience < 2:
        faults.append(Fault("model.patience", str(patience), "at least 2 steps of the generator", "model.patience=50"))
    if adaptive and loss == "wasserstein":
        faults.append(
            Fault("model.adaptive", "true, with model.loss=wasserstein", "a loss whose logits say real or fake by "
                  "their sign", "model.loss=hinge, or model.adaptive=false model.every=5")
        )  # fmt: skip
    return faults


class Pace(nn.Module):
    """n_D, and what it is decided from, as buffers: a run that goes on from a checkpoint goes on with them.

    Args:
        start: n_D at first, taken up to the next of 1, 2, 5, 10, …
        patience: steps of the generator on each level before the next (the paper's: 200). The accuracy is averaged with
            the decay 1 - 2 / patience (the paper's: 0.99), from the level's first step on.
        threshold: the average accuracy on fakes at which, or below which, n_D goes up.
    """

    level: Tensor
    last: Tensor
    taken: Tensor
    accuracy: Tensor

    def __init__(self, start: int, patience: int, threshold: float = 0.6):
        super().__init__()
        self.patience, self.threshold, self.decay = patience, threshold, 1 - 2 / patience
        self.register_buffer("level", torch.tensor(level_of(start)))
        self.register_buffer("last", torch.tensor(0))  # private steps there were at the generator's last one
        self.register_buffer("taken", torch.tensor(0))  # steps of the generator on this level
        self.register_buffer(
            "accuracy", torch.tensor(0.0, dtype=torch.float64)
        )  # their average, corrected for its start

    @property
    def every(self) -> int:
        """n_D now."""
        return steps_at(int(self.level))

    def due(self, step: int) -> bool:
        """Whether the generator's turn has come after ``step`` private steps."""
        return step - int(self.last) >= self.every

    def tell(self, step: int, accuracy: float) -> None:
        """The generator steps after ``step`` private steps, when the discriminator knew this share of the fakes."""
        self.last.fill_(step)
        self.taken += 1
        keep = self.decay * (1 - self.decay ** (int(self.taken) - 1)) / (1 - self.decay ** int(self.taken))
        self.accuracy.mul_(keep).add_(accuracy, alpha=1 - keep)
        if int(self.taken) >= self.patience and float(self.accuracy) <= self.threshold:
            self.level += 1
            self.taken.zero_()
            self.accuracy.zero_()
