"""Hold the toolkit against published numbers on MNIST: python benchmarks/mnist.py WHAT mnist.npz --folder DIR

WHAT is one of
  merf, mepf, diffusion
              train experiment=mnist with that model, at --epsilon (inf: without privacy); then train three classifiers
              on generated images, --generated of them, and test them on the 10,000 real test images
  logreg      logistic regression on the real training images by DP-SGD, by our own plan, sampler, noise and engine
  real        the three classifiers on the 60,000 real training images: what they can reach
  sheet       a picture of a finished run's samples: give the run as --folder and the picture as --picture

mnist.npz has the arrays x_train, y_train, x_test, y_test (Keras' file). Every repetition is a whole run with noise that
nobody can repeat; generated images and classifiers are seeded by its number. Prints one JSON object for each
repetition, then a table: mean, and standard deviation over repetitions. Everything is also kept below DIR, where a
finished repetition is not done again.

Classifiers and their training are those of DPDM's code (Dockhorn et al. 2023, arXiv 2210.09929): Adam at 3e-4, batches
of 128, the epoch chosen on generated images (ours: a tenth, held out). Of 50 epochs we take as many as --patience
allows.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgsynth import config, pipeline
from imgsynth.cohort import dataset
from imgsynth.cohort.cache import Images
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.noise import NoiseSource
from imgsynth.privacy.plan import make_plan
from imgsynth.privacy.sampling import PoissonPatients
from imgsynth.privacy.step import private_step
from imgsynth.release.generate import generate
from imgsynth.schema import PrivacyConfig
from imgsynth.training.run import load_run
from imgsynth.training.sheets import save_png, sheet
from imgsynth.types import PatientBatch

CLASSES, DELTA = 10, 1e-5
CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "LogReg": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES)),
    "MLP": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, CLASSES)),
    "CNN": lambda: nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(1152, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES),
    ),
}  # fmt: skip
Accuracies = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["merf", "mepf", "diffusion", "logreg", "real", "sheet"])
    parser.add_argument("source", type=Path, nargs="?", help="mnist.npz")
    parser.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--epsilon", type=float, nargs="+", default=[10.0])
    parser.add_argument("--runs", type=int, default=3, help="repetitions at each ε")
    parser.add_argument("--generated", type=int, default=60_000, help="images for the classifiers")
    parser.add_argument("--epochs", type=int, default=50, help="of a classifier, at most")
    parser.add_argument("--patience", type=int, default=3, help="epochs without a better one after which it stops")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of imgsynth train, key=value")
    parser.add_argument("--picture", type=Path, help="where sheet draws")
    asked = parser.parse_args()
    if asked.what == "sheet":
        print(picture(asked.folder, asked.picture))
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    reading_once()
    once: dict[str, Callable[[float, int], Accuracies]] = {
        "logreg": lambda epsilon, number: private_regression(asked.source, epsilon, number),
        "real": lambda epsilon, number: classified(*images(asked.source, "train"), asked, number),
    }
    repetition = once.get(asked.what, lambda epsilon, number: generator(asked, epsilon, number))
    rows = []
    for epsilon in asked.epsilon if asked.what != "real" else [float("inf")]:
        found = []
        for number in range(asked.runs):
            kept = asked.folder / f"{asked.what}-{epsilon:g}-{number}.json"
            if not kept.exists():
                began = time.perf_counter()
                accuracies = repetition(epsilon, number)
                kept.write_text(json.dumps({**accuracies, "seconds": time.perf_counter() - began}))
            print(kept.name, kept.read_text(), flush=True)
            found.append(json.loads(kept.read_text()))
        rows.append((epsilon, found))
    print(table(rows))


def table(rows: list[tuple[float, list[Accuracies]]]) -> str:
    """Percent correct, mean ± standard deviation over repetitions; seconds are means."""
    names = list(rows[0][1][0])
    lines = ["| ε | n | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for epsilon, found in rows:
        cells = [f"{epsilon:g}", str(len(found))]
        for name in names:
            values = [one[name] for one in found]
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            mean = statistics.fmean(values)
            cells.append(f"{mean:.0f}" if name == "seconds" else f"{100 * mean:.1f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def images(source: Path, part: str) -> tuple[Tensor, Tensor]:
    """x_NC [N, 1, 28, 28] in [-1, 1] and y_N of "train" or "test"."""
    with np.load(source) as arrays:
        x_N, y_N = arrays[f"x_{part}"], arrays[f"y_{part}"]
    return torch.from_numpy(x_N).float()[:, None] / 127.5 - 1, torch.from_numpy(y_N).long()


# --- a generator, through the toolkit --------------------------------------------------------------------------------


def in_parts(source: Path, folder: Path) -> Path:
    """The same images in MedMNIST's layout: 60,000 train, nobody in val, 10,000 test."""
    path = folder / "mnist_parts.npz"
    if not path.exists():
        with np.load(source) as arrays:
            parts = {
                "train_images": arrays["x_train"], "train_labels": arrays["y_train"],
                "val_images": arrays["x_train"][:0], "val_labels": arrays["y_train"][:0],
                "test_images": arrays["x_test"], "test_labels": arrays["y_test"],
            }  # fmt: skip
            np.savez(path, **parts)
    return path


def generator(asked: argparse.Namespace, epsilon: float, number: int) -> Accuracies:
    """Train one, and the classifiers on what it makes, as many images of each class."""
    run = asked.folder / f"{asked.what}-{epsilon:g}-{number}"
    without = ["privacy=none", "privacy.epsilon=null"]
    privacy = without if math.isinf(epsilon) else [f"privacy.epsilon={epsilon}"]
    overrides = [
        "experiment=mnist", f"model={asked.what}", f"data.root={in_parts(asked.source, asked.folder)}",
        *privacy, f"privacy.delta={DELTA}",
        f"privacy.ledger={asked.folder / 'ledger'}", f"output={run}", *asked.set,
    ]  # fmt: skip
    pipeline.train(config.from_overrides("train", overrides))
    trained = load_run(run)
    assert trained.finished and trained.plan.n == 60_000 and trained.plan.epsilon <= epsilon
    labels_N = np.arange(asked.generated) % CLASSES
    made_NC = generate(trained, labels_N, torch.Generator().manual_seed(number))
    return classified(torch.from_numpy(made_NC), torch.from_numpy(labels_N), asked, number)


def reading_once() -> None:
    """Let repetitions of this process share the preprocessed images: there are 60,000 of them, always the same."""
    read, kept = dataset.cached, []

    def cached(*arguments: Any) -> Images:
        if not kept:
            kept.append(read(*arguments))
        return kept[0]

    dataset.cached = cached


def picture(run: Path, path: Path) -> Path:
    """Four samples of each class, a column each, from the generator alone."""
    labels_B = np.tile(np.arange(CLASSES), 4)
    trained = load_run(run)
    made_BC = generate(trained, labels_B, torch.Generator().manual_seed(0))
    return save_png(sheet(made_BC, [str(y) for y in labels_B], trained.grid, columns=CLASSES), path)


# --- classifiers -----------------------------------------------------------------------------------------------------


def classified(x_NC: Tensor, y_N: Tensor, asked: argparse.Namespace, seed: int) -> Accuracies:
    """Each classifier trained on these images: its accuracy on MNIST's test images."""
    test = images(asked.source, "test")
    return {name: accuracy(best(make, x_NC, y_N, asked, seed), *test) for name, make in CLASSIFIERS.items()}


def best(make: Callable[[], nn.Module], x_NC: Tensor, y_N: Tensor, asked: argparse.Namespace, seed: int) -> nn.Module:
    """The classifier at the epoch that is best on a tenth of its own images, which it does not train on."""
    torch.manual_seed(seed)
    network = make()
    order = torch.randperm(len(x_NC))
    held, rest = order[: len(order) // 10], order[len(order) // 10 :]
    adam = torch.optim.Adam(network.parameters(), 3e-4)
    reached, since, weights = -1.0, 0, {}
    for epoch in range(1, asked.epochs + 1):
        network.train()
        for pick in rest[torch.randperm(len(rest))].split(128):
            adam.zero_grad()
            F.cross_entropy(network(x_NC[pick]), y_N[pick]).backward()
            adam.step()
        now = accuracy(network, x_NC[held], y_N[held])
        print(f"epoch {epoch}: {100 * now:.1f} % of the held-out tenth", file=sys.stderr, flush=True)
        since += 1
        if now > reached:
            reached, since = now, 0
            weights = {name: value.clone() for name, value in network.state_dict().items()}
        if since >= asked.patience:
            break
    network.load_state_dict(weights)
    return network


@torch.no_grad()
def accuracy(network: nn.Module, x_NC: Tensor, y_N: Tensor) -> float:
    network.eval()
    correct = sum(
        int((network(x).argmax(1) == y).sum()) for x, y in zip(x_NC.split(1000), y_N.split(1000), strict=True)
    )
    return correct / len(x_NC)


# --- logistic regression by DP-SGD -----------------------------------------------------------------------------------


class Regression(nn.Module):
    """Cross-entropy of each image; pixels in [0, 1], so that paper is 0 and adds nothing to a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, CLASSES)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def logits(self, x_BC: Tensor) -> Tensor:
        scores: Tensor = self.linear((x_BC.flatten(1) + 1) / 2)
        return scores

    def forward(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(x_BC), y_B, reduction="none")


# Ours, by ε up to which they hold: expected batch, steps, learning rate of SGD with momentum 0.9. C is 1.
SETTINGS = {0.2: (6000, 60, 0.5), 1.0: (6000, 150, 0.5), 10.0: (6000, 400, 0.5)}


def private_regression(
    source: Path, epsilon: float, number: int, settings: tuple[int, int, float] | None = None
) -> Accuracies:
    """One training on all 60,000 images."""
    batch, steps, rate = settings or next(s for bound, s in SETTINGS.items() if epsilon <= bound)
    x_NC, y_N = images(source, "train")
    privacy = PrivacyConfig(epsilon=epsilon, delta=DELTA, batch_patients=batch, clipping_norm=1.0, physical_batch=2048)
    plan = make_plan(privacy, n=len(x_NC), steps=steps, images_per_patient=1, unit="image")
    losses, engine = Regression(), get_engine(plan.engine, "float32")
    noise, sampler = NoiseSource(), PoissonPatients(plan)
    sgd = torch.optim.SGD(losses.parameters(), rate, momentum=0.9)
    for _ in range(plan.steps):
        drawn = torch.tensor(sampler.draw(), dtype=torch.long)
        x_PKC, y_PK = x_NC[drawn][:, None], y_N[drawn][:, None]
        private_step(plan, engine, losses, PatientBatch(x_PKC, y_PK, torch.ones(len(drawn), 1)), (), None, noise)
        sgd.step()
    test_NC, test_N = images(source, "test")
    with torch.no_grad():
        return {"LogReg": float((losses.logits(test_NC).argmax(1) == test_N).float().mean())}


if __name__ == "__main__":
    main()
