"""What can be wrong with a privacy plan, each fault by the name of the configuration key that sets the field."""

from __future__ import annotations

import math
from typing import Any

from imgsynth.privacy.engines import ENGINES
from imgsynth.schema import PrivacyConfig
from imgsynth.types import Fault


def faults_of_target(privacy: PrivacyConfig, histogram: float, queries: int = 0) -> list[Fault]:
    """What is wrong with (ε, σ), of which exactly one is given, and with what ``queries`` get of ε."""
    faults = []
    if queries and privacy.query_noise_multiplier is None:
        if privacy.epsilon is None:
            faults.append(
                Fault("privacy.query_noise_multiplier", "null", f"the noise of this model's {queries} queries, as "
                      "there is no ε to take a share of", f"privacy.query_noise_multiplier={privacy.noise_multiplier}")
            )  # fmt: skip
        elif queries * privacy.query_share >= 1:
            faults.append(
                Fault("privacy.query_share", f"{privacy.query_share:g} for each of {queries} queries",
                      "less than the whole ε for all of them together", f"privacy.query_share={0.3 / queries:.2g}")
            )  # fmt: skip
    if (privacy.epsilon is None) == (privacy.noise_multiplier is None):
        got = "neither" if privacy.epsilon is None else "both"
        remedy = "privacy.epsilon=8" if privacy.epsilon is None else "privacy.epsilon=null to keep the noise multiplier"
        faults.append(Fault("privacy.epsilon, privacy.noise_multiplier", got, "exactly one of the two", remedy))
    if privacy.epsilon is not None and not 0 < privacy.epsilon < math.inf:
        got, remedy = f"{privacy.epsilon:g}", "privacy.epsilon=8, or privacy.mode=none for no guarantee at all"
        faults.append(Fault("privacy.epsilon", got, "a finite number above 0", remedy))
    elif privacy.epsilon is not None and histogram >= privacy.epsilon:
        expected = f"less than the run's whole ε of {privacy.epsilon:g}"
        faults.append(Fault("sample.histogram_epsilon", f"{histogram:g}", expected, "sample.labels=uniform costs none"))
    return faults


def faults_of(d: dict[str, Any], counted: int = 0) -> list[Fault]:
    """Every field that is out of range, by the name of the configuration key that sets it; ``counted`` is actual n."""
    n, q, delta = d["n"], d["sampling_rate"], d["delta"]
    largest = max(n, counted, 1)
    checks = [
        (d["mode"] in ("dp", "none"), "privacy.mode", d["mode"], "dp or none", "privacy.mode=dp"),
        (d["unit"] in ("patient", "image"), "data.unit", d["unit"], "patient or image", "data.unit=patient"),
        (d["ids"] in ("patient", "case"), "manifest, ids", d["ids"], "patient or case", "build the cohort anew"),
        (n >= 1, "privacy.n", n, "at least 1 unit", "declare the size of the training cohort"),
        (n < 1 or 0 < q <= 1, "privacy.batch_patients", f"{q * n:g} of n = {n}, a rate of {q:g}", "1 to n patients",
         f"privacy.batch_patients={max(1, n // 4)}"),
        (delta > 0 and (n < 1 or delta < 1 / largest), "privacy.delta", f"{delta:g}",
         f"more than 0, less than 1/n = {1 / largest:.3g}",
         f"privacy.delta={0.1 / largest:.0e}: at 1/n, publishing one patient's data outright would pass"),
        (d["steps"] >= 1, "trainer.steps", d["steps"], "at least 1", "trainer.steps=300"),
        (0 < d["clipping_norm"] < math.inf, "privacy.clipping_norm", d["clipping_norm"], "a finite number above 0",
         "privacy.clipping_norm=1"),
        (0 <= d["noise_multiplier"] < math.inf, "privacy.noise_multiplier", d["noise_multiplier"],
         "a finite number, 0 or more", "privacy.noise_multiplier=null calibrates it from privacy.epsilon"),
        (d["engine"] in ENGINES, "privacy.engine", d["engine"], f"one of {', '.join(ENGINES)}",
         "privacy.engine=ghost"),
        (d["images_per_patient"] >= 1, "data.images_per_patient", d["images_per_patient"], "at least 1",
         "data.images_per_patient=1"),
        (0 <= d["histogram_epsilon"] < math.inf, "sample.histogram_epsilon", d["histogram_epsilon"],
         "a finite number, 0 or more", "sample.histogram_epsilon=0.5"),
        (d["augmentation_multiplicity"] >= 1, "data.augmentation_multiplicity", d["augmentation_multiplicity"],
         "at least 1", "data.augmentation_multiplicity=1"),
        (d["fakes"] in ("joint", "plain", "separate"), "privacy.fakes", d["fakes"], "joint or plain",
         "privacy.fakes=joint"),
        (d["physical_batch"] >= 1, "privacy.physical_batch", d["physical_batch"], "at least 1 patient",
         "privacy.physical_batch=32"),
    ]  # fmt: skip
    if d["clipping_quantile"] is not None:
        checks += _adaptive_checks(d)
    if d.get("teachers") is not None:
        checks += _teacher_checks(d)
    checks += _query_checks(d)
    if d.get("public") is not None:
        checks += d["public"].faults()
    if d.get("selection") is not None:
        checks += d["selection"].faults(d["mode"])
    return [Fault(where, str(got), expected, remedy) for good, where, got, expected, remedy in checks if not good]


def _query_checks(d: dict[str, Any]) -> list[tuple[bool, str, Any, str, str]]:
    names = [query.name for query in d.get("queries", ())]
    checks = [
        (len(set(names)) == len(names), "model, queries", ", ".join(names), "a name of its own for each",
         "rename one of them in the model"),
    ]  # fmt: skip
    for query in d.get("queries", ()):
        checks += [
            (0 < query.clipping_norm < math.inf, f"model, query {query.name}, norm", query.clipping_norm,
             "a finite number above 0", "the largest norm that a patient's vector can have, from public facts alone"),
            (0 <= query.noise_multiplier < math.inf, "privacy.query_noise_multiplier", query.noise_multiplier,
             "a finite number, 0 or more", "privacy.query_noise_multiplier=null takes a share of privacy.epsilon"),
        ]  # fmt: skip
    return checks


def _teacher_checks(d: dict[str, Any]) -> list[tuple[bool, str, Any, str, str]]:
    return [
        (d["teachers"] >= 1, "model.teachers", d["teachers"], "at least 1", "model.teachers=50"),
        (d["sampling_rate"] == 1, "privacy.sampling_rate", f"{d['sampling_rate']:g}",
         "1, as every patient's teacher votes in every step", "privacy.sampling_rate=1"),
        (d["clipping_quantile"] is None, "privacy.clipping_quantile", d["clipping_quantile"],
         "null, as votes are bounded by themselves", "privacy.clipping_quantile=null"),
    ]  # fmt: skip


def _adaptive_checks(d: dict[str, Any]) -> list[tuple[bool, str, Any, str, str]]:
    """Of a clipping norm that follows a quantile. The count's noise is not there before σ is known."""
    gamma, eta, sigma = d["clipping_quantile"], d["clipping_learning_rate"], d["noise_multiplier"]
    count = d.get("count_noise_multiplier", math.inf)
    return [
        (d["mode"] == "dp", "privacy.clipping_quantile", f"{gamma:g} in mode none", "null, as nothing is clipped",
         "privacy.clipping_quantile=null"),
        (0 < gamma < 1, "privacy.clipping_quantile", gamma, "a share in (0, 1)", "privacy.clipping_quantile=0.5"),
        (0 < eta < math.inf, "privacy.clipping_learning_rate", eta, "a finite number above 0",
         "privacy.clipping_learning_rate=0.2"),
        (2 * count > sigma or (sigma == 0 and count == 0), "privacy.count_noise_multiplier", f"{count:g}",
         f"more than {sigma / 2:g}, half of the noise multiplier: with less, the count alone would cost more than σ",
         "privacy.count_noise_multiplier=null"),
    ]  # fmt: skip
