"""Utility: train on synthetic, test on real (Esteban et al. 2017, arXiv:1706.02633), beside what else could be done.

Every classifier is trained on synthetic images, on the real train patients (the ceiling), on both, and on samples of
the trivial generator at the same ε (``trivial.py``), and tested on the test patients; one more is trained on the
patients by DP-SGD at the same ε (``dp_classifier.py``). How much synthetic images add to few real ones is a curve.
Intervals resample test patients, and differences are of the same resamples (paired).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import __version__, console
from imgsynth.evaluate.classifiers import Classifier
from imgsynth.evaluate.metric import require
from imgsynth.evaluate.scores import SCORES, macro_auc
from imgsynth.measure.images import Images
from imgsynth.measure.kept import digest
from imgsynth.measure.kept import kept as keep
from imgsynth.measure.resampling import bootstrap_weights, value_and_interval

MIN_PATIENTS = 5  # of each class, in each of train, test and synthetic
SYNTHETIC, REAL, BOTH, TRIVIAL, DP_SGD = "synthetic", "real", "real + synthetic", "trivial generator", "real (DP-SGD)"
ATLAS = "noised mean mask"  # of pairs: what it says of everybody

Outcome = dict[str, np.ndarray]  # for each of SCORES [1 + R]: the test set itself, then its resamples


@dataclass(frozen=True, eq=False)
class Rivals:
    """What a synthetic set must beat: samples of the trivial generator, as many as there are synthetic images, and the
    probabilities [S, N, K] that S classifiers trained by DP-SGD, on all ``n_train`` train patients, give the test
    images, of all K classes."""

    trivial: Images | None = None
    dp_sgd: Callable[[Images], np.ndarray] | None = None
    n_train: int = 0


@dataclass(frozen=True, eq=False)
class Trained:
    """One classifier on one training set: its probabilities [S, N, K] of the test images, for S seeds."""

    classifier: str
    encoder: str | None
    trained_on: str
    n_train: int
    scores_SNK: np.ndarray
    y_N: np.ndarray  # what the test images are

    def outcome(self, weights_RN: np.ndarray) -> Outcome:
        """Each score, averaged over the seeds, of the whole test set (first) and of its resamples."""
        everyone_RN = np.vstack([np.ones(len(self.y_N)), weights_RN])
        return {name: np.mean([score(s_NK, self.y_N, everyone_RN) for s_NK in self.scores_SNK], axis=0)
                for name, score in SCORES.items()}  # fmt: skip


def usable_classes(train: Images, test: Images, synthetic: Images) -> list[int]:
    """Classes with at least MIN_PATIENTS patients on every side."""

    def enough(images: Images, k: int) -> bool:
        return len(np.unique(images.patients_N[images.y_N == k])) >= MIN_PATIENTS

    return [int(k) for k in np.unique(test.y_N) if all(enough(side, int(k)) for side in (train, test, synthetic))]


def utility(
    train: Images, test: Images, synthetic: Images, classifiers: Sequence[Classifier], names: Sequence[str],
    replicates: int, seed: int, rivals: Rivals | None = None, shares: Sequence[float] = (), shared: Path | None = None,
    both: bool = True,
) -> tuple[dict[str, Any], list[Trained], Images]:  # fmt: skip
    """``names`` are the public class names, by index; ``shares`` those of the curve; ``shared`` a folder in which the
    scores of classifiers that saw nothing synthetic are kept, by content, for other runs on the cohort; ``both``: also
    train on real and synthetic images together.

    Returns the JSON-able result, all classifiers by their probabilities, and the test images of the usable classes with
    labels among those. The result: {"classes", "classes_left_out", "n_test_patients", "chance", "results":
    [{"classifier", "encoder", "trained_on", "n_train", "seeds", a {value, low, high} for each of SCORES, "gap_to_real"
    and "over_trivial": differences of AUC with a p-value, or None}], "curve", "sentences"}.

    Raises:
        NotDone: with fewer than two usable classes.
    """
    rivals = rivals or Rivals()
    kept = usable_classes(train, test, synthetic)
    require(len(np.unique(test.y_N)) > 1, "the test patients have a single class: there is nothing to classify")
    require(
        len(kept) > 1,
        f"{len(kept)} class(es) have {MIN_PATIENTS} patients each in train, test and synthetic; it takes two",
    )
    train, test, synthetic = (_relabelled(side, kept) for side in (train, test, synthetic))
    sets = {SYNTHETIC: synthetic, REAL: train}
    if rivals.trivial is not None:
        sets[TRIVIAL] = _relabelled(rivals.trivial, kept)
    weights_RN = bootstrap_weights(test.n_patients, replicates, np.random.default_rng(seed))[:, test.owner_N]

    trained: list[Trained] = []
    curve: list[dict[str, Any]] = []
    for classifier in classifiers:
        desk = Desk.of(classifier, sets, test, len(kept), shared)
        done = {on: desk.fit(on) for on in console.each([*sets, *[BOTH] * both], f"training a {classifier.name} on")}
        trained += done.values()
        if classifier is classifiers[0]:
            curve = _curve(desk, done, train, weights_RN, shares, seed)
    if rivals.dp_sgd is not None:
        scores_SNK = rivals.dp_sgd(test)[:, :, kept]
        total = scores_SNK.sum(2, keepdims=True)
        trained.append(
            Trained("small_cnn", None, DP_SGD, rivals.n_train, scores_SNK / np.maximum(total, 1e-12), test.y_N)
        )
    outcomes = {(one.classifier, one.trained_on): one.outcome(weights_RN) for one in trained}
    results = [_row(one, outcomes) for one in trained]
    found = {
        "classes": [names[k] for k in kept],
        "classes_left_out": [name for k, name in enumerate(names) if k not in kept],
        "n_test_patients": test.n_patients,
        "chance": {"auc": 0.5, "balanced_accuracy": 1 / len(kept)},
        "results": results,
        "curve": curve,
        "sentences": _sentences(results, curve),
        "note": "the best constant guess scores the values under chance; every classifier sees as many real as "
        "synthetic images only where n_train says so",
    }
    return found, trained, test


@dataclass(frozen=True, eq=False)
class Desk:
    """What one classifier sees of the images that it is to be trained on, by set, and of the test images."""

    classifier: Classifier
    sets: dict[str, tuple[np.ndarray, np.ndarray]]  # what is seen of the images, and their labels
    test: np.ndarray
    y_N: np.ndarray
    classes: int
    shared: Path | None

    @staticmethod
    def of(classifier: Classifier, sets: Mapping[str, Images], test: Images, classes: int, shared: Path | None) -> Desk:
        seen = {on: (classifier.seen(images.x_NC), images.y_N) for on, images in sets.items()}
        return Desk(classifier, seen, classifier.seen(test.x_NC), test.y_N, classes, shared)

    def fit(self, on: str, keep_N: np.ndarray | slice = slice(None)) -> Trained:
        """The classifier trained on a set, or on BOTH; of REAL images on those of ``keep_N`` alone."""
        parts = [self.sets[name] for name in ((REAL, SYNTHETIC) if on == BOTH else (on,))]
        if on in (REAL, BOTH):
            parts[0] = parts[0][0][keep_N], parts[0][1][keep_N]
        x_NC, y_N = (np.concatenate(side) if len(side) > 1 else side[0] for side in zip(*parts, strict=True))
        one = self.classifier

        like = max(len(labels_N) for _, labels_N in self.sets.values())  # trainings differ by images, not by length

        def scores_SNK() -> np.ndarray:
            return np.stack([one.scores(x_NC, y_N, self.test, self.classes, seed, like) for seed in range(one.seeds)])

        folder = self.shared if on in (REAL, TRIVIAL) else None
        who = f"{one.name} {one.settings} {like} {one.encoder} {one.seeds} {self.classes} imgsynth {__version__}"
        what = f"scores {who} {digest(x_NC, y_N, self.test)}" if folder else ""
        return Trained(one.name, one.encoder, on, len(y_N), keep(folder, what, scores_SNK), self.y_N)


def _row(one: Trained, outcomes: dict[tuple[str, str], Outcome]) -> dict[str, Any]:
    mine = outcomes[one.classifier, one.trained_on]
    real, trivial = (outcomes.get((one.classifier, on)) for on in (REAL, TRIVIAL))
    short = None if one.trained_on == REAL or real is None else difference(real["auc"], mine["auc"])
    over = None if one.trained_on != SYNTHETIC or trivial is None else difference(mine["auc"], trivial["auc"])
    return {
        "classifier": one.classifier,
        "encoder": one.encoder,
        "trained_on": one.trained_on,
        "n_train": one.n_train,
        "seeds": len(one.scores_SNK),
        **{name: value_and_interval(values_R) for name, values_R in mine.items()},
        "auc_by_seed": [float(macro_auc(s_NK, one.y_N, np.ones((1, len(one.y_N))))[0]) for s_NK in one.scores_SNK],
        "gap_to_real": short,
        "over_trivial": over,
    }


def _curve(
    desk: Desk, done: Mapping[str, Trained], train: Images, weights_RN: np.ndarray, shares: Sequence[float], seed: int
) -> list[dict[str, Any]]:  # fmt: skip
    """AUC of a classifier on a share of the train patients, alone and with all synthetic images; of all of them it has
    been ``done``."""
    rows: list[dict[str, Any]] = []
    for share in console.each(list(shares), f"training a {desk.classifier.name} on a share of the patients"):
        keep_N = _share_of(train, share, desk.classes, np.random.default_rng(seed))
        if keep_N is None:
            rows.append({"share": share, "why_not": f"fewer than {MIN_PATIENTS} patients of some class"})
            continue
        alone, both = (
            (done[on] if keep_N.all() else desk.fit(on, keep_N)).outcome(weights_RN)["auc"] for on in (REAL, BOTH)
        )
        rows.append({"share": share, "n_patients": len(np.unique(train.patients_N[keep_N])),
                     "classifier": desk.classifier.name, "real": value_and_interval(alone),
                     "real_and_synthetic": value_and_interval(both), "gain": difference(both, alone)})  # fmt: skip
    return rows


def _share_of(train: Images, share: float, classes: int, random: np.random.Generator) -> np.ndarray | None:
    """[N] images of that share of each class's patients, at least MIN_PATIENTS; None where there are not so many."""
    chosen: list[str] = []
    for k in range(classes):
        names = np.unique(train.patients_N[train.y_N == k])
        if len(names) < MIN_PATIENTS:
            return None
        chosen += random.choice(names, max(MIN_PATIENTS, round(share * len(names))), replace=False).tolist()
    return np.isin(train.patients_N, chosen)


def _sentences(results: Sequence[dict[str, Any]], curve: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers come to, for people: does the synthetic set beat the trivial one and DP-SGD, does it add."""
    said = []
    for row in results:
        over = row["over_trivial"]
        if over is not None:
            beats = "beats" if over["low"] > 0 else "does not beat"
            said.append(
                f"{row['classifier']}: the synthetic set {beats} noised class means at the same ε (AUC "
                f"{over['value']:+.3f} [{over['low']:+.3f}, {over['high']:+.3f}])."
            )
    auc = {(row["classifier"], row["trained_on"]): row["auc"]["value"] for row in results}
    for (name, on), direct in auc.items():
        if on == DP_SGD and (name, SYNTHETIC) in auc:
            said.append(
                f"A {name} trained by DP-SGD on the patients at the same ε has AUC {direct:.3f}, trained on synthetic "
                f"images {auc[name, SYNTHETIC]:.3f}."
            )
    helped = [f"{row['share']:.0%}" for row in curve if "gain" in row and row["gain"]["low"] > 0]
    if curve:
        said.append(f"Beside {', '.join(helped)} of the real patients synthetic images help." if helped else
                    "Beside real patients, few or all, synthetic images were not seen to help.")  # fmt: skip
    return said


def _relabelled(images: Images, kept: list[int]) -> Images:
    keep_N = np.isin(images.y_N, kept)
    images = images if keep_N.all() else images.select(keep_N)
    return Images(images.x_NC, np.searchsorted(kept, images.y_N), images.patients_N)


def difference(a_R: np.ndarray, b_R: np.ndarray) -> dict[str, float]:
    """a − b on the same resamples, with the two-sided p-value of the bootstrap (Davison and Hinkley 1997, 4.2)."""
    gap_R = a_R - b_R
    known_R = gap_R[1:][np.isfinite(gap_R[1:])]
    tail = min((known_R <= 0).sum(), (known_R >= 0).sum())
    return value_and_interval(gap_R) | {"p": float(min(1.0, 2 * (tail + 1) / (len(known_R) + 1)))}
