"""Evaluate a run: every metric and the utility test, into evaluation.json. A private-data output: it stays local."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth import console
from imgsynth.evaluate.classifiers import Boosted, Classifier, ConvolutionalNetwork, LinearProbe, ResidualNetwork
from imgsynth.evaluate.continuity import continuity
from imgsynth.evaluate.detect import detectability
from imgsynth.evaluate.diversity import ms_ssim_diversity
from imgsynth.evaluate.fid import fid
from imgsynth.evaluate.frechet import frechet_distance
from imgsynth.evaluate.intensity import histogram_json, intensity_distance
from imgsynth.evaluate.kid import kernel_distance
from imgsynth.evaluate.manifold import NOTES, manifold_metric
from imgsynth.evaluate.metric import Comparison, Measurement, NotDone
from imgsynth.evaluate.plausibility import plausibility
from imgsynth.evaluate.reader_study import key_of, write_kit
from imgsynth.evaluate.rivals import pair_rivals_of, rivals_of
from imgsynth.evaluate.segmentation import PairRivals, segmentation_utility
from imgsynth.evaluate.slices import slice_frechet
from imgsynth.evaluate.spectrum import spectrum_distance
from imgsynth.evaluate.subgroups import SMALLEST, Attributes, attributes_of, coverage_by_group, scores_by_group
from imgsynth.evaluate.utility import Rivals, utility
from imgsynth.files import write_json
from imgsynth.measure.encoders import Encoder, get_encoder
from imgsynth.measure.images import Images
from imgsynth.measure.source import fresh_samples, real_images, watermark_of
from imgsynth.schema import Config, EvaluateConfig
from imgsynth.training.run import Run, load_run

FORMAT = "imgsynth-evaluation-1"
SCOPE = "local: measured on private data without noise"
METRICS: dict[str, Callable[[Comparison], Measurement]] = {
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
    **{name: manifold_metric(name) for name in NOTES},
    "ms_ssim": ms_ssim_diversity,
    "intensity_wasserstein": intensity_distance,
    "noise_power_spectrum": spectrum_distance,
}
VOLUMES: dict[str, Callable[[Comparison], Measurement]] = {  # those that only volumes have
    "slice_frechet_distance": slice_frechet,
    "through_plane_continuity": continuity,
}
TELLERS = ("small_cnn", "logistic_regression")  # that try to tell synthetic images from real ones
OF_MASKS = ("segmentation", "plausibility")
STANDARD: dict[str, Callable[[Comparison], Measurement]] = {"fid": fid}  # those of the one encoder that is called so


def metrics_for(c: Comparison) -> dict[str, Callable[[Comparison], Measurement]]:
    """The metrics that images of this kind and features of this encoder have."""
    return METRICS | (VOLUMES if c.grid.spatial_dims == 3 else {}) | (STANDARD if c.encoder.standard_fid else {})


CLASSIFIERS: dict[str, Callable[[Encoder, int], Classifier]] = {
    "small_cnn": lambda encoder, seeds: ConvolutionalNetwork(seeds),
    "resnet": lambda encoder, seeds: ResidualNetwork(seeds),
    "logistic_regression": lambda encoder, seeds: LinearProbe(encoder),
    "gradient_boosting": Boosted,
}

PARTS = {  # schema.EVALUATION_PARTS, and what each is called for people
    "metrics": "metrics",
    "classes": "metrics of each class",
    "subgroups": "coverage by subgroup",
    "utility": "utility (train on synthetic, test on real)",
    "augmentation": "training on real and synthetic images together",
    "segmentation": "segmentation (train on synthetic, test on real)",
    "plausibility": "anatomical plausibility of masks",
    "detectability": "detectability (synthetic or real)",
}


def evaluate(
    c: Comparison, class_names: Sequence[str], settings: EvaluateConfig, rivals: Rivals | None = None,
    attributes: Attributes | None = None, shared: Path | None = None, pairs: PairRivals | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The parts of ``settings``; what cannot be measured, or was not asked for, is listed with its reason. JSON-able.

    ``shared`` is a folder for what does not depend on the generator."""
    seeds, asked = settings.classifier_seeds, set(settings.parts)
    classifiers = [CLASSIFIERS[name](c.encoder, seeds) for name in settings.classifiers]
    not_done = [{"what": PARTS[part], "why": "not asked for (evaluate.parts)"} for part in PARTS if part not in asked]
    both = "augmentation" in asked

    def useful() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found, trained, test = utility(c.train, c.test, c.synthetic, classifiers, class_names, c.bootstrap, c.seed,
                                       rivals, settings.shares, shared, both)  # fmt: skip
        return found, scores_by_group(trained, test, attributes or {}, found["classes"], c.bootstrap, c.seed)

    def segmented() -> dict[str, Any]:
        return segmentation_utility(c.train, c.test, c.synthetic, c.grid.structures, c.bootstrap, seeds, c.seed,
                                    both, shared, pairs, settings.shares if both else (), attributes)  # fmt: skip

    parts: dict[str, Callable[[], Any]] = {
        "metrics": lambda: _measured(c, not_done),
        "classes": lambda: _by_class(c, class_names),
        "subgroups": lambda: coverage_by_group(c, attributes or {}, class_names),
        "utility": useful,
        "segmentation": segmented,
        "plausibility": lambda: plausibility(c),
        "detectability": lambda: detectability(c, [CLASSIFIERS[name](c.encoder, seeds) for name in TELLERS]),
    }
    wanted = [part for part in parts if part in asked and (c.grid.structures or part not in OF_MASKS)]
    found: dict[str, Any] = {}
    for part in console.each(["features", *wanted], "evaluating"):
        try:
            if part == "features":
                _ = c.test_features, c.train_features, c.synthetic_features
            else:
                found[part] = parts[part]()
        except NotDone as reason:
            not_done.append({"what": PARTS[part], "why": str(reason)})
    useful_found, by_group = found.get("utility", ({}, []))
    return {
        "encoder": c.encoder.name,
        "n_real_patients": {"train": c.train.n_patients, "test": c.test.n_patients},
        "n_real_images": {"train": len(c.train), "test": len(c.test)},
        "n_synthetic": len(c.synthetic),
        "about_encoder": c.encoder.about,
        "metrics": found.get("metrics", []),
        "per_class": found.get("classes", {}),
        "histogram": histogram_json(c.test, c.synthetic, c.grid) if len(c.test) else None,
        "utility": useful_found,
        "segmentation": found.get("segmentation", {}),
        "plausibility": found.get("plausibility", {}),
        "detectability": found.get("detectability"),
        "subgroups": {"smallest": SMALLEST, "coverage": found.get("subgroups", []), "utility": by_group},
        "not_done": not_done,
    }


def _measured(c: Comparison, not_done: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Every metric that ``c`` has; what cannot be measured is added to ``not_done``."""
    metrics, found = metrics_for(c), []
    for name in console.each(list(metrics), "measuring"):
        try:
            found.append(metrics[name](c).to_json())
        except NotDone as reason:
            not_done.append({"what": name, "why": str(reason)})
    return found


def _by_class(c: Comparison, class_names: Sequence[str]) -> dict[str, Any]:
    per_class: dict[str, Any] = {}
    for k, name in enumerate(console.each(class_names, "class")):
        not_done: list[dict[str, str]] = []
        if len(class_names) > 1:
            per_class[name] = {"metrics": _measured(c.of_class(k), not_done), "not_done": not_done}
    return per_class


def evaluate_run(run_dir: Path, cfg: Config, extra_transforms: Sequence[Any] = ()) -> dict[str, Any]:
    """Evaluate the run in ``run_dir`` and write ``evaluation.json`` there (whole or not at all).

    Real images are the test patients, and train patients for floors and ceiling; synthetic ones are fresh samples.

    ``extra_transforms`` are those of ``cfg.preprocess.extra``, instantiated.

    Raises:
        InputError: if the encoder is unknown or not installed (before anything is loaded), or the run cannot be read.
    """
    chosen, settings = cfg.encoder, cfg.evaluate
    loaded: dict[str, tuple[Run, Images]] = {}

    def train_side() -> tuple[Run, Images]:
        if not loaded:
            run = load_run(run_dir)
            loaded["train"] = run, real_images(run, "train", settings.n, settings.seed, extra_transforms)
        return loaded["train"]

    def train_on() -> tuple[np.ndarray, np.ndarray, int]:
        run, images = train_side()
        return images.x_NC, images.y_N, len(run.manifest.classes)

    # Whatever is wrong with the encoder is said before images are read, unless it is to be trained on them.
    dims = len(cfg.preprocess.shape)
    encoder = get_encoder(chosen.name, dims, chosen.seed, chosen.path, chosen.network, train_on)
    encoder.folder = Path(settings.shared or run_dir / "local") / "features"
    run, train = train_side()
    comparison = Comparison(
        train=train,
        test=real_images(run, "test", settings.n, settings.seed, extra_transforms),
        synthetic=fresh_samples(run, settings.n, settings.seed),
        encoder=encoder,
        grid=run.grid,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
    )
    asked = set(settings.parts) if settings.rivals else set()
    of_run = run, comparison, settings, extra_transforms
    result = evaluate(
        comparison, run.manifest.classes, settings,
        rivals_of(*of_run) if "utility" in asked else None,
        attributes_of(run.manifest), None if settings.shared is None else Path(settings.shared) / "scores",
        pair_rivals_of(*of_run) if "segmentation" in asked else None,
    )  # fmt: skip
    if settings.readers:
        kit = write_kit(run_dir / "local" / "readers", comparison.test, comparison.synthetic, settings.readers)
        console.say(f"Reader study: {kit}; what is what: {key_of(kit)}; then python scripts/score_readers.py FORM KEY")
    header = {"format": FORMAT, "scope": SCOPE, "unit": run.manifest.unit, "cohort_notes": list(run.manifest.notes),
              "watermark": watermark_of(run)}  # fmt: skip
    result = header | result
    write_json(run_dir / "evaluation.json", result)
    return result
