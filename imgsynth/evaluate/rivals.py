"""The rivals of a run's synthetic images: they see its train patients once more, each at its own ε, and stay local."""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from imgsynth import __version__
from imgsynth.cohort.dataset import PatientDataset
from imgsynth.cohort.manifest import Manifest
from imgsynth.evaluate.dp_classifier import classifier_plan, train_privately
from imgsynth.evaluate.dp_segmenter import segment_privately
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.segmentation import PairRivals, found
from imgsynth.evaluate.trivial import ClassMeans, class_means, one_release
from imgsynth.evaluate.utility import Rivals
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.measure.kept import digest, kept
from imgsynth.measure.small_cnn import probabilities, shrunk
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.schema import EvaluateConfig
from imgsynth.training.run import Run


@dataclass(frozen=True, eq=False)
class _Cohort:
    """The train split of ``run``, and its plan's n, K, ε and δ. ``folder`` keeps what it comes to."""

    run: Run
    settings: EvaluateConfig
    extra_transforms: Sequence[Any]

    @functools.cached_property  # read when the first rival is made: where all are kept, not at all
    def patients(self) -> PatientDataset:
        run = self.run
        return PatientDataset(run.manifest, "train", run.config.preprocess, run.plan.images_per_patient, "memory",
                              extra=self.extra_transforms)  # fmt: skip

    @property
    def folder(self) -> Path | None:
        return None if self.settings.shared is None else Path(self.settings.shared) / "rivals"

    @property
    def about(self) -> list[Any]:
        """All that a rival depends on."""
        run, privacy = self.run, self.run.config.privacy
        # ε that was asked for: what single runs are calibrated to differs in the third digit.
        said = [run.manifest.fingerprint, privacy.mode, privacy.epsilon, run.plan.delta, run.plan.n,
                run.plan.images_per_patient, run.config.preprocess, f"imgsynth {__version__}",
                run.manifest.structures, _content(run.manifest)]  # fmt: skip
        return said + [run.plan.epsilon] * (privacy.epsilon is None and privacy.mode == "dp")

    def means(self, channels: int) -> ClassMeans:
        """Noised means of the first ``channels``: of the images alone, or with their masks."""
        run, classes = self.run, len(self.run.manifest.classes)

        def mean_KC() -> np.ndarray:
            random = np.random.default_rng(secrets.randbits(128))
            patients = ((x_KC[:, :channels], y_K) for x_KC, y_K in _by_patient(self.patients))
            return class_means(patients, (channels, *run.grid.shape), classes, one_release(run.plan), random).mean_KC

        what = "class means" if channels == 1 else "means of images and masks"
        return ClassMeans(kept(self.folder, f"{what} {self.about}", mean_KC))

    def trivial(self, channels: int, y_N: np.ndarray) -> Images:
        """As many as there are synthetic ones, of the same classes."""
        whole_NC = self.means(channels).sample(y_N, np.random.default_rng(self.settings.seed))
        return synthetic_images(whole_NC, y_N)

    def by_networks(
        self, what: str, train: Callable[[PrivacyPlan], nn.Module], answer: Callable[[nn.Module], np.ndarray],
        test: Images,
    ) -> np.ndarray:  # fmt: skip
        """What ``classifier_seeds`` networks, trained by DP-SGD, ``answer`` about the test images."""
        seeds = self.settings.classifier_seeds

        def answers() -> np.ndarray:
            plan = classifier_plan(self.run.plan, len(self.patients))
            return np.stack([answer(train(plan)) for _ in range(seeds)])

        return kept(self.folder, f"{what} {self.about} {seeds} {digest(test.x_NC)}", answers)


def rivals_of(run: Run, c: Comparison, settings: EvaluateConfig, extra_transforms: Sequence[Any]) -> Rivals | None:
    """Those of images with classes. None where there is one class."""
    classes = len(run.manifest.classes)
    if classes < 2:
        return None
    cohort = _Cohort(run, settings, extra_transforms)

    def dp_sgd(test: Images) -> np.ndarray:
        return cohort.by_networks(
            "dp_sgd",
            lambda plan: train_privately(cohort.patients, classes, plan),
            lambda network: probabilities(network, shrunk(test.x_NC).numpy()),
            test,
        )

    return Rivals(cohort.trivial(1, c.synthetic.y_N), dp_sgd, len(run.manifest.patients("train")))


def pair_rivals_of(
    run: Run, c: Comparison, settings: EvaluateConfig, extra_transforms: Sequence[Any]
) -> PairRivals | None:  # fmt: skip
    """Those of pairs of image and mask. None where there are no masks."""
    structures = len(run.grid.structures)
    if not structures:
        return None
    cohort = _Cohort(run, settings, extra_transforms)

    def dp_sgd(test: Images) -> np.ndarray:
        return cohort.by_networks(
            f"dp_sgd segmentation {structures}",
            lambda plan: segment_privately(cohort.patients, structures, plan),
            lambda network: found(network, test.x_NC),
            test,
        )

    return PairRivals(cohort.trivial(1 + structures, c.synthetic.y_N), dp_sgd, len(run.manifest.patients("train")))


def _content(manifest: Manifest) -> str:
    """A digest of the train images and their masks: the fingerprint has neither masks nor splits."""
    train = sorted((item.patient, item.digest, item.mask_digest) for item in manifest.items if item.split == "train")
    return hashlib.sha256(repr(train).encode()).hexdigest()


def _by_patient(patients: PatientDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _, images in itertools.groupby(patients.all_images(), key=operator.itemgetter(0)):
        _, x, y = zip(*images, strict=True)
        yield np.stack([np.asarray(image) for image in x]), np.array(y)
