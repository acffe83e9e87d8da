"""Attribute inference and model inversion (Fredrikson et al. 2014, "Privacy in Pharmacogenetics"; 2015, "Model
Inversion Attacks that Exploit Confidence Information").

That a model tells something about everybody (what pneumonia looks like) is what it is for. What it tells *more* about
those it was trained on than about others is the leak, so that both questions are asked of members and non-members alike
and the result is the difference (Yeom et al. 2018, arXiv:1709.01604, section 4):

* attribute: who has a patient's images guesses the patient's class, taking the one under which the model likes the
  images best. How much more often is that right?
* inversion: the mean of the generated images of a class is the attacker's picture of it. How much nearer is it to the
  mean of the members of that class than to that of the non-members?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from imgsynth.audit.attacks.attack import Attack, NotApplicable, Released, mean_by_patient
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import LEVEL, recentred_interval


@dataclass(frozen=True)
class Advantage:
    """``value`` is members' minus non-members', with its interval over patients; above 0 leaks.

    ``baseline`` is what the guess comes to without the model: the share of the commonest class among non-members for
    an attribute; None for pictures.
    """

    name: str
    guessed_by: str
    members: float
    nonmembers: float
    value: float
    low: float
    high: float
    baseline: float | None
    n_members: int
    n_nonmembers: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def attribute_inference(attack: Attack, members: Images, nonmembers: Images, classes: int) -> Advantage:
    """Guess each patient's class with a prepared ``attack`` whose scores follow the labels that images come with.

    Patients whose images have several classes are left out. Raises NotApplicable where a side has no patient left.
    """
    right_P, right_Q = (guessed_right(attack, patients, classes) for patients in (members, nonmembers))
    if not len(right_P) or not len(right_Q):
        raise NotApplicable("every patient of a side, members or non-members, has images of several classes")
    low, high = difference_interval(int(right_P.sum()), len(right_P), int(right_Q.sum()), len(right_Q))
    share_in, share_out = float(right_P.mean()), float(right_Q.mean())
    commonest = np.bincount(_class_of(nonmembers)[_pure(nonmembers)]).max() / len(right_Q)
    return Advantage(
        "attribute inference", f"{attack.name}, {attack.space}", share_in, share_out, share_in - share_out, low, high,
        float(commonest), len(right_P), len(right_Q),
    )  # fmt: skip


def guessed_right(attack: Attack, patients: Images, classes: int) -> np.ndarray:
    """[P'] whether the class with the highest score is the patient's own; of equals the lowest class is the guess."""
    pure_P = _pure(patients)
    score_CP = np.array([attack.scores(replace(patients, y_N=np.full_like(patients.y_N, c))) for c in range(classes)])
    return (score_CP.argmax(0) == _class_of(patients))[pure_P]


def class_mean_inversion(
    released: Released, members: Images, nonmembers: Images, replicates: int, random: np.random.Generator
) -> Advantage:
    """Root mean square distance (per voxel, images in [-1, 1]) of the generated classes' means to the real ones'.

    ``members`` and ``nonmembers`` here are *closeness*, minus that distance, averaged over the classes that the release
    and either side have; as many patients are taken from either side, since the mean of fewer is farther from any
    picture. The interval is over random halves of the patients (delete-half jackknife); halves that share no class
    say nothing and are left out. Raises NotApplicable with fewer than 4 patients on a side, or no class in common.
    """
    n = min(members.n_patients, nonmembers.n_patients)
    if n < 4:
        raise NotApplicable(f"{n} patients on one side; it takes 4")
    picture = _class_means(released.samples)

    def closeness(inside: Images, outside: Images) -> np.ndarray:
        """[2] of either side, not a number without a class in common."""
        sides = _class_means(inside), _class_means(outside)
        shared = sorted(picture.keys() & sides[0].keys() & sides[1].keys())
        if not shared:
            return np.full(2, np.nan)
        return np.array(
            [-np.mean([math.sqrt(((means[c] - picture[c]) ** 2).mean()) for c in shared]) for means in sides]
        )

    members, nonmembers = members.draw_patients(n, random), nonmembers.draw_patients(n, random)
    inside, outside = map(float, closeness(members, nonmembers))
    halves_R2 = np.array(
        [
            closeness(members.draw_patients(n // 2, random), nonmembers.draw_patients(n // 2, random))
            for _ in range(replicates)
        ]
    )
    halves_R2 = halves_R2[~np.isnan(halves_R2[:, 0])]
    if math.isnan(inside) or not len(halves_R2):
        raise NotApplicable("no class that members, non-members and samples have in common")
    low, high = recentred_interval(inside - outside, halves_R2[:, 0] - halves_R2[:, 1])
    return Advantage("class-mean inversion", "mean of the generated images of a class", inside, outside,
                     inside - outside, low, high, None, n, n)  # fmt: skip


def _class_means(images: Images) -> dict[int, np.ndarray]:
    return {int(c): images.x_NC[images.y_N == c].mean(0, dtype=np.float64) for c in np.unique(images.y_N)}


def difference_interval(
    right: int, n: int, right_other: int, n_other: int, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of a difference of two independent proportions from Wilson's intervals of each (Newcombe 1998,
    Stat. Med. 17:873, method 10)."""
    p, q = right / n, right_other / n_other
    (p_low, p_high), (q_low, q_high) = wilson(right, n, level), wilson(right_other, n_other, level)
    low = p - q - math.sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = p - q + math.sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return low, high


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927)."""
    z = float(norm.ppf((1 + level) / 2))
    p, shrink = successes / trials, 1 + z**2 / trials
    middle = (p + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return middle - half, middle + half


def _class_of(patients: Images) -> np.ndarray:
    """[P] the class of each patient's images; meaningful where they agree."""
    return np.rint(mean_by_patient(patients.y_N, patients)).astype(np.int64)


def _pure(patients: Images) -> np.ndarray:
    """[P] whether all images of the patient have one class."""
    mean_P = mean_by_patient(patients.y_N, patients)
    return mean_by_patient((patients.y_N != mean_P[patients.owner_N]).astype(float), patients) == 0


class NearestOfClass:
    """Guesses by samples alone: minus the distance to the nearest released image that has the label in question.

    A class that was not released is never guessed: it scores -inf.
    """

    name = "nearest sample of the class"
    access = "samples"

    def __init__(self, nearest: Callable[[], Attack]):
        self._make = nearest
        self.space = nearest().space
        self._by_class: dict[int, Attack] = {}

    def prepare(self, released: Released) -> None:
        for c in np.unique(released.samples.y_N).tolist():
            self._by_class[c] = self._make()
            self._by_class[c].prepare(replace(released, samples=released.samples.select(released.samples.y_N == c)))

    def scores(self, patients: Images) -> np.ndarray:
        """All images must have one label, as ``attribute_inference`` asks."""
        (label,) = np.unique(patients.y_N).tolist()
        nearest = self._by_class.get(label)
        return np.full(patients.n_patients, -np.inf) if nearest is None else nearest.scores(patients)
