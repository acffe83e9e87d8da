"""The rivals of a run's synthetic images: both see its train patients once more, at its own ε, and stay local."""

from __future__ import annotations

import itertools
import operator
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from imgsynth.cohort.dataset import PatientDataset
from imgsynth.evaluate.dp_classifier import classifier_plan, train_privately
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.trivial import class_means, one_release
from imgsynth.evaluate.utility import Rivals
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.measure.small_cnn import probabilities, shrunk
from imgsynth.schema import EvaluateConfig
from imgsynth.training.run import Run


def rivals_of(run: Run, c: Comparison, settings: EvaluateConfig, extra_transforms: Sequence[Any]) -> Rivals | None:
    """Made of the train split as the run's plan saw it: its n, K, ε and δ. None where there is one class."""
    classes = len(run.manifest.classes)
    if classes < 2:
        return None
    patients = PatientDataset(run.manifest, "train", run.config.preprocess, run.plan.images_per_patient, "memory",
                              extra=extra_transforms)  # fmt: skip
    random = np.random.default_rng(secrets.randbits(128))
    means = class_means(_by_patient(patients), run.grid.shape, classes, one_release(run.plan), random)
    trivial = synthetic_images(means.sample(c.synthetic.y_N, np.random.default_rng(settings.seed)), c.synthetic.y_N)

    def dp_sgd(test: Images) -> np.ndarray:
        plan = classifier_plan(run.plan, len(patients))
        networks = [train_privately(patients, classes, plan) for _ in range(settings.classifier_seeds)]
        x_NC = shrunk(test.x_NC).numpy()
        return np.stack([probabilities(network, x_NC) for network in networks])

    return Rivals(trivial, dp_sgd)


def _by_patient(patients: PatientDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _, images in itertools.groupby(patients.all_images(), key=operator.itemgetter(0)):
        _, x, y = zip(*images, strict=True)
        yield np.stack([np.asarray(image) for image in x]), np.array(y)
