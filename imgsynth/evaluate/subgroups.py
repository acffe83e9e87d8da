"""Whom the generator serves and whom it lost: scores of the classifiers and coverage by sex, age band, site and label.

Synthetic images have no sex or age. So what is asked of a subgroup is whether a classifier trained on synthetic images
does for its patients what one trained on real images does, and whether there are samples near its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imgsynth.cohort.manifest import Manifest
from imgsynth.evaluate.manifold import mean_with_interval, neighbours
from imgsynth.evaluate.metric import Comparison, NotDone
from imgsynth.evaluate.scores import OF_ALL_CLASSES, SCORES, Score, accuracy
from imgsynth.evaluate.utility import REAL, SYNTHETIC, Trained
from imgsynth.measure.images import Images
from imgsynth.measure.resampling import bootstrap_weights, value_and_interval

SMALLEST = 10  # patients; smaller groups are suppressed: their numbers would be about persons
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


def suppressed(images: Images, mask_N: np.ndarray) -> bool:
    return len(np.unique(images.patients_N[mask_N])) < SMALLEST


def rows_of_groups(images: Images, groups: Sequence[Group]) -> list[tuple[dict[str, Any], np.ndarray | None]]:
    """For each group {"attribute", "value", "n_patients", "results": []} and the mask of its images; None, with the
    reason in the row, where it is too small to be shown."""
    rows: list[tuple[dict[str, Any], np.ndarray | None]] = []
    for attribute, value, mask_N in groups:
        row: dict[str, Any] = {"attribute": attribute, "value": value, "n_patients": None, "results": []}
        if suppressed(images, mask_N):
            rows.append((row | {"why_not": f"fewer than {SMALLEST} patients"}, None))
        else:
            rows.append((row | {"n_patients": len(np.unique(images.patients_N[mask_N]))}, mask_N))
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
        if mask_N is None:
            continue
        scores: Mapping[str, Score] = {"sensitivity": accuracy} if row["attribute"] == "label" else SCORES
        if row["attribute"] != "label" and len(np.unique(test.y_N[mask_N])) < len(class_names):
            row["why_not"] = "not all classes are in it"
            scores = {name: score for name, score in SCORES.items() if name not in OF_ALL_CLASSES}
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


def coverage_by_group(c: Comparison, attributes: Attributes, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Share of each subgroup's test images that have a sample in their neighbourhood, beside the share that have a
    train image there: a subgroup far below its floor is one that the generator lost.

    [{"attribute", "value", "n_patients", "coverage", "floor", "lost"}]; empty where a side has too few patients.
    """
    try:
        samples, patients = neighbours(c)
    except NotDone:
        return []
    rows: list[dict[str, Any]] = []
    for attribute, value, mask_N in [*groups_of(c.test, attributes), *labels_of(c.test, class_names)]:
        if suppressed(c.test, mask_N):
            rows.append({"attribute": attribute, "value": value, "n_patients": None,
                         "why_not": f"fewer than {SMALLEST} patients"})  # fmt: skip
            continue
        part = samples.real.select(mask_N)
        found, floor = (
            mean_with_interval(one.of_images("coverage")[0][mask_N], part, c.bootstrap, c.random())
            for one in (samples, patients)
        )
        rows.append({"attribute": attribute, "value": value, "n_patients": part.n_patients, "coverage": vars(found),
                     "floor": vars(floor), "lost": found.high < floor.low})  # fmt: skip
    return rows
