"""Scores of a classifier on the test images, each for every row of image weights: AUC, balanced accuracy, calibration.

Shape legend: N test images, K classes, R rows of weights (the first is usually all ones, the others resamples).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 10  # of confidence, for the calibration error


def weighted_auc(scores_N: np.ndarray, positive_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] area under the ROC curve for each row of image weights; ties count half; NaN where a side has no weight."""
    order = np.argsort(scores_N)
    first_N = np.concatenate([[True], np.diff(scores_N[order]) > 0])  # of equal scores
    starts = np.flatnonzero(first_N[: len(order)])
    sorted_RN, positive = weights_RN[:, order], positive_N[order]
    pos_RG, neg_RG = (np.add.reduceat(sorted_RN * side, starts, axis=1) for side in (positive, ~positive))
    below_RG = np.cumsum(neg_RG, axis=1) - neg_RG
    total = pos_RG.sum(1) * neg_RG.sum(1)
    area = (pos_RG * (below_RG + 0.5 * neg_RG)).sum(1)
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


def accuracy(scores_NK: np.ndarray, y_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] share of images whose own class is the most probable one; among images of one class its sensitivity."""
    return weights_RN @ (scores_NK.argmax(1) == y_N) / weights_RN.sum(1)


def brier(scores_NK: np.ndarray, y_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] mean squared error of the probabilities, summed over classes (Brier 1950): 0 is best, 2 worst."""
    error_N = ((scores_NK - np.eye(scores_NK.shape[1])[y_N]) ** 2).sum(1)
    return weights_RN @ error_N / weights_RN.sum(1)


def calibration_error(scores_NK: np.ndarray, y_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] expected calibration error: over BINS equal bins of confidence, the mean distance of accuracy from confidence
    (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599)."""
    confidence_N, hit_N = scores_NK.max(1), (scores_NK.argmax(1) == y_N).astype(float)
    bin_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    gap_R = np.zeros(len(weights_RN))
    for b in range(BINS):
        of_bin = bin_N == b
        gap_R += np.abs(weights_RN[:, of_bin] @ (hit_N - confidence_N)[of_bin])
    return gap_R / weights_RN.sum(1)


Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # scores [N, K], y [N], weights [R, N] to [R]
SCORES: dict[str, Score] = {
    "auc": macro_auc,
    "balanced_accuracy": balanced_accuracy,
    "brier": brier,
    "calibration_error": calibration_error,
}
OF_ALL_CLASSES = ("auc", "balanced_accuracy")  # those that there are only where every class is
