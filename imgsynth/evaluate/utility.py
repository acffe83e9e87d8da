"""Utility: train on synthetic, test on real (Esteban et al. 2017, arXiv:1706.02633), beside the real-data ceiling.

A classifier is trained on synthetic images and tested on the test patients; the ceiling is the same classifier trained
on the real train patients. Intervals resample test patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgsynth.evaluate.classifiers import Classifier
from imgsynth.evaluate.metric import require
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, percentile_interval

MIN_PATIENTS = 5  # of each class, in each of train, test and synthetic


def weighted_auc(scores_N: np.ndarray, positive_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] area under the ROC curve for each row of image weights; ties count half; NaN where a side has no weight."""
    positives, negatives = scores_N[positive_N], scores_N[~positive_N]
    wins = (positives[:, None] > negatives[None, :]) + 0.5 * (positives[:, None] == negatives[None, :])
    w_pos, w_neg = weights_RN[:, positive_N], weights_RN[:, ~positive_N]
    total = w_pos.sum(1) * w_neg.sum(1)
    area = ((w_pos @ wins) * w_neg).sum(1)
    return np.divide(area, total, out=np.full(len(total), np.nan), where=total > 0)


def macro_auc(scores_NK: np.ndarray, y_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] mean over classes of one-versus-rest AUC (for two classes: the AUC)."""
    classes = scores_NK.shape[1]
    if classes == 2:
        return weighted_auc(scores_NK[:, 1], y_N == 1, weights_RN)
    return np.mean([weighted_auc(scores_NK[:, k], y_N == k, weights_RN) for k in range(classes)], axis=0)


def balanced_accuracy(scores_NK: np.ndarray, y_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] mean over classes of recall for each row of image weights; NaN where a class has no weight."""
    hit_N = scores_NK.argmax(1) == y_N
    recalls = []
    for k in range(scores_NK.shape[1]):
        total = weights_RN[:, y_N == k].sum(1)
        hits = weights_RN[:, (y_N == k) & hit_N].sum(1)
        recalls.append(np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0))
    return np.mean(recalls, axis=0)


def usable_classes(train: Images, test: Images, synthetic: Images) -> list[int]:
    """Classes with at least MIN_PATIENTS patients on every side."""

    def enough(images: Images, k: int) -> bool:
        return len(np.unique(images.patients_N[images.y_N == k])) >= MIN_PATIENTS

    return [int(k) for k in np.unique(test.y_N) if all(enough(side, int(k)) for side in (train, test, synthetic))]


def train_and_test(
    classifier: Classifier, train: Images, test: Images, classes: int, weights_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """For each metric [1 + R], the mean over seeds; entry 0 is the test set itself, the others its resamples."""
    everyone_RN = np.vstack([np.ones(len(test)), weights_RN])
    auc, accuracy = [], []
    for seed in range(classifier.seeds):
        scores_NK = classifier.scores(train.x_NC, train.y_N, test.x_NC, classes, seed)
        auc.append(macro_auc(scores_NK, test.y_N, everyone_RN))
        accuracy.append(balanced_accuracy(scores_NK, test.y_N, everyone_RN))
    return {
        "auc": np.mean(auc, axis=0),
        "balanced_accuracy": np.mean(accuracy, axis=0),
        "auc_by_seed": np.array([a[0] for a in auc]),
    }


def utility(
    train: Images, test: Images, synthetic: Images, classifiers: Sequence[Classifier], names: Sequence[str],
    replicates: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train on synthetic and on real, test on real. ``names`` are the public class names, by index.

    Returns {"classes", "classes_left_out", "n_test_patients", "chance", "results": [{"classifier", "encoder",
    "trained_on": "synthetic" | "real", "n_train", "seeds", "auc": {value, low, high, by_seed}, "balanced_accuracy":
    {value, low, high}, "gap_to_real": {value, low, high} | None}]}; the gap is of the AUC, real minus synthetic, on
    the same resamples.

    Raises:
        NotDone: with fewer than two usable classes.
    """
    kept = usable_classes(train, test, synthetic)
    require(len(np.unique(test.y_N)) > 1, "the test patients have a single class: there is nothing to classify")
    require(
        len(kept) > 1,
        f"{len(kept)} class(es) have {MIN_PATIENTS} patients each in train, test and synthetic; it takes two",
    )
    train, test, synthetic = (_relabelled(side, kept) for side in (train, test, synthetic))
    random = np.random.default_rng(seed)
    weights_RN = bootstrap_weights(test.n_patients, replicates, random)[:, test.owner_N]
    results = []
    for classifier in classifiers:
        real = train_and_test(classifier, train, test, len(kept), weights_RN)
        made = train_and_test(classifier, synthetic, test, len(kept), weights_RN)
        gap = _interval(real["auc"] - made["auc"])
        results.append(_row(classifier, "synthetic", len(synthetic), made) | {"gap_to_real": gap})
        results.append(_row(classifier, "real", len(train), real) | {"gap_to_real": None})
    return {
        "classes": [names[k] for k in kept],
        "classes_left_out": [name for k, name in enumerate(names) if k not in kept],
        "n_test_patients": test.n_patients,
        "chance": {"auc": 0.5, "balanced_accuracy": 1 / len(kept)},
        "results": results,
        "note": "the best constant guess scores the values under chance; every classifier sees as many real as "
        "synthetic images only where n_train says so",
    }


def _relabelled(images: Images, kept: list[int]) -> Images:
    images = images.select(np.isin(images.y_N, kept))
    return Images(images.x_NC, np.searchsorted(kept, images.y_N), images.patients_N)


def _interval(values_R: np.ndarray) -> dict[str, float]:
    low, high = percentile_interval(values_R[1:])
    return {"value": float(values_R[0]), "low": low, "high": high}


def _row(classifier: Classifier, trained_on: str, n_train: int, metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "classifier": classifier.name,
        "encoder": classifier.encoder,
        "trained_on": trained_on,
        "n_train": n_train,
        "seeds": classifier.seeds,
        "auc": _interval(metrics["auc"]) | {"by_seed": metrics["auc_by_seed"].tolist()},
        "balanced_accuracy": _interval(metrics["balanced_accuracy"]),
    }
