"""Whom the generator serves and whom it lost: scores of the classifiers and coverage by sex, age band, site and label.

Synthetic images have no sex or age. So what is asked of a subgroup is whether a classifier trained on synthetic images
does for its patients what one trained on real images does, and whether there are samples near its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from imgsynth.cohort.manifest import Manifest
from imgsynth.evaluate.manifold import mean_with_interval, neighbours
from imgsynth.evaluate.metric import Comparison, NotDone
from imgsynth.evaluate.scores import OF_ALL_CLASSES, SCORES, Score, accuracy
from imgsynth.evaluate.utility import MIN_PATIENTS, REAL, SYNTHETIC, Trained
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, value_and_interval

SMALLEST = 10  # patients; smaller groups are suppressed: their numbers would be about persons
CALIBRATED = 100  # images, under which a calibration error in ten bins is mostly chance
Attributes = Mapping[str, Mapping[str, str | None]]  # by attribute, each patient's value (None: unknown)
Group = tuple[str, str, np.ndarray]  # attribute, value, mask of images [N]


def attributes_of(manifest: Manifest) -> dict[str, dict[str, str | None]]:
    """Sex, age band and site of each patient, where the manifest has any; of several values the last study's."""
    found = {
        name: {patient: getattr(items[-1], name) for patient, items in manifest.by_patient.items()}
        for name in ("sex", "age_band", "site")
    }
    return {name: values for name, values in found.items() if len(set(values.values())) > 1}


def groups_of(images: Images, attributes: Attributes) -> list[Group]:
    """Each subgroup there is."""
    found = []
    for attribute, by_patient in attributes.items():
        values_N = np.array([by_patient.get(patient) or "unknown" for patient in images.patients_N])
        found += [(attribute, str(value), values_N == value) for value in np.unique(values_N)]
    return found


def labels_of(images: Images, class_names: Sequence[str]) -> list[Group]:
    """The classes as subgroups, where there are several."""
    several = len(class_names) > 1
    return [("label", class_names[k], images.y_N == k) for k in np.unique(images.y_N)] if several else []


def hidden(sizes: Sequence[int]) -> dict[int, str]:
    """Which groups of an attribute are suppressed, and why: those under SMALLEST patients, and then the next smallest
    until what is hidden cannot be computed from the others and the whole: two groups or more, of SMALLEST together."""
    order = np.argsort(sizes, kind="stable").tolist()
    found = {i: f"fewer than {SMALLEST} patients" for i in order if sizes[i] < SMALLEST}
    for i in order[len(found) :]:
        if not found or sum(sizes[k] for k in found) >= SMALLEST:
            break
        found[i] = "not shown, as a smaller group would follow from it"
    return found


def rows_of_groups(images: Images, groups: Sequence[Group]) -> list[tuple[dict[str, Any], np.ndarray | None]]:
    """For each group {"attribute", "value", "n_patients"} and the mask of its images; None, with the reason in the row,
    where it is not shown (``hidden``)."""
    rows: list[tuple[dict[str, Any], np.ndarray | None]] = []
    for attribute, same in groupby(groups, key=lambda group: group[0]):
        of_attribute = list(same)
        sizes = [len(np.unique(images.patients_N[mask_N])) for _, _, mask_N in of_attribute]
        why_not = hidden(sizes)
        for i, (_, value, mask_N) in enumerate(of_attribute):
            row: dict[str, Any] = {"attribute": attribute, "value": value, "n_patients": None}
            if i in why_not:
                rows.append((row | {"why_not": why_not[i]}, None))
            else:
                rows.append((row | {"n_patients": sizes[i]}, mask_N))
    return rows


def scores_by_group(
    trained: Sequence[Trained], test: Images, attributes: Attributes, class_names: Sequence[str], replicates: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each subgroup and classifier every score, trained on real and on synthetic images, and the gap (real −
    synthetic) on the same resamples; for each label its sensitivity. ``class_names``: of the labels of ``test``.

    [{"attribute", "value", "n_patients" (None where suppressed), "why_not" (where something is missing),
      "results": [{"classifier", "score", "real", "synthetic", "gap"}]}]
    """
    pairs = [
        (a.classifier, a, b)
        for a in trained
        for b in trained
        if a.classifier == b.classifier and (a.trained_on, b.trained_on) == (REAL, SYNTHETIC)
    ]
    weights_RN = bootstrap_weights(test.n_patients, replicates, np.random.default_rng(seed))[:, test.owner_N]
    weights_RN = np.vstack([np.ones(len(test)), weights_RN])
    rows = rows_of_groups(test, [*groups_of(test, attributes), *labels_of(test, class_names)])
    for row, mask_N in rows:
        row["results"] = []
        if mask_N is None:
            continue
        of_label = row["attribute"] == "label"
        scores = {"sensitivity": accuracy} if of_label else _scores_of(row, test, mask_N, class_names)
        y_N, drawn_RN = test.y_N[mask_N], weights_RN[:, mask_N]
        drawn_RN = drawn_RN[drawn_RN.any(1)]  # a resample may have nobody of a small group
        for classifier, *sides in pairs:
            for name, score in scores.items():
                real_R, made_R = (
                    np.mean([score(s_NK[mask_N], y_N, drawn_RN) for s_NK in one.scores_SNK], 0) for one in sides
                )
                found = {"real": real_R, "synthetic": made_R, "gap": real_R - made_R}
                known = {of: value_and_interval(values_R) for of, values_R in found.items()}
                row["results"].append({"classifier": classifier, "score": name, **known})
    return [row for row, _ in rows]


def _scores_of(row: dict[str, Any], test: Images, mask_N: np.ndarray, class_names: Sequence[str]) -> dict[str, Score]:
    """Those that a group is large enough for; ``row`` is told which are missing."""
    patients = [len(np.unique(test.patients_N[mask_N & (test.y_N == k)])) for k in range(len(class_names))]
    left_out: list[str] = []
    if min(patients) < MIN_PATIENTS:  # such an AUC is the rank of a person or two
        left_out += OF_ALL_CLASSES
        row["why_not"] = f"fewer than {MIN_PATIENTS} patients of some class: no AUC or balanced accuracy"
    if mask_N.sum() < CALIBRATED:
        left_out.append("calibration_error")
    return {name: score for name, score in SCORES.items() if name not in left_out}


def coverage_by_group(c: Comparison, attributes: Attributes, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Share of each subgroup's test images that have a sample in their neighbourhood, beside the share that have a
    train image there: a subgroup far below its floor is one that the generator lost.

    [{"attribute", "value", "n_patients", "coverage", "floor", "lost"}]; empty where a side has too few patients.
    """
    try:
        samples, patients = neighbours(c)
    except NotDone:
        return []
    rows = rows_of_groups(c.test, [*groups_of(c.test, attributes), *labels_of(c.test, class_names)])
    for row, mask_N in rows:
        if mask_N is None:
            continue
        part = samples.real.select(mask_N)
        found, floor = (
            mean_with_interval(one.of_images("coverage")[0][mask_N], part, c.bootstrap, c.random())
            for one in (samples, patients)
        )
        row |= {"coverage": vars(found), "floor": vars(floor), "lost": found.high < floor.low}
    return [row for row, _ in rows]
