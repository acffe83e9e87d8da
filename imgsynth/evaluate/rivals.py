"""The rivals of a run's synthetic images: both see its train patients once more, at its own ε, and stay local."""

from __future__ import annotations

import functools
import itertools
import operator
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import __version__
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.evaluate.dp_classifier import classifier_plan, train_privately
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.trivial import ClassMeans, class_means, one_release
from imgsynth.evaluate.utility import Rivals
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.measure.kept import digest, kept
from imgsynth.measure.small_cnn import probabilities, shrunk
from imgsynth.schema import EvaluateConfig
from imgsynth.training.run import Run


def rivals_of(run: Run, c: Comparison, settings: EvaluateConfig, extra_transforms: Sequence[Any]) -> Rivals | None:
    """Made of the train split as the run's plan saw it: its n, K, ε and δ. None where there is one class."""
    classes = len(run.manifest.classes)
    if classes < 2:
        return None

    @functools.cache  # read when the first rival is made: where both are kept, not at all
    def patients() -> PatientDataset:
        return PatientDataset(run.manifest, "train", run.config.preprocess, run.plan.images_per_patient, "memory",
                              extra=extra_transforms)  # fmt: skip

    shared = None if settings.shared is None else Path(settings.shared) / "rivals"
    # ε that was asked for: what single runs are calibrated to differs in the third digit.
    cohort = [run.manifest.fingerprint, run.config.privacy.mode, run.config.privacy.epsilon, run.plan.delta, run.plan.n,
              run.plan.images_per_patient, run.config.preprocess, f"imgsynth {__version__}"]  # fmt: skip
    if run.config.privacy.epsilon is None and run.config.privacy.mode == "dp":
        cohort.append(run.plan.epsilon)

    def mean_KC() -> np.ndarray:
        random = np.random.default_rng(secrets.randbits(128))
        return class_means(_by_patient(patients()), run.grid.shape, classes, one_release(run.plan), random).mean_KC

    means = ClassMeans(kept(shared, f"class means {cohort}", mean_KC))
    trivial = synthetic_images(means.sample(c.synthetic.y_N, np.random.default_rng(settings.seed)), c.synthetic.y_N)

    def dp_sgd(test: Images) -> np.ndarray:
        def scores_SNK() -> np.ndarray:
            plan = classifier_plan(run.plan, len(patients()))
            networks = [train_privately(patients(), classes, plan) for _ in range(settings.classifier_seeds)]
            x_NC = shrunk(test.x_NC).numpy()
            return np.stack([probabilities(network, x_NC) for network in networks])

        what = f"dp_sgd {cohort} {settings.classifier_seeds} {digest(test.x_NC)}"
        return kept(shared, what, scores_SNK)

    return Rivals(trivial, dp_sgd)


def _by_patient(patients: PatientDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _, images in itertools.groupby(patients.all_images(), key=operator.itemgetter(0)):
        _, x, y = zip(*images, strict=True)
        yield np.stack([np.asarray(image) for image in x]), np.array(y)
