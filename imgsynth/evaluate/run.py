"""Evaluate a run: every metric and the utility test, into evaluation.json. A private-data output: it stays local."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from imgsynth import console
from imgsynth.evaluate.classifiers import Boosted, ConvolutionalNetwork, LinearProbe, ResidualNetwork
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
from imgsynth.evaluate.rivals import rivals_of
from imgsynth.evaluate.segmentation import segmentation_utility
from imgsynth.evaluate.slices import slice_frechet
from imgsynth.evaluate.spectrum import spectrum_distance
from imgsynth.evaluate.subgroups import SMALLEST, Attributes, attributes_of, coverage_by_group, scores_by_group
from imgsynth.evaluate.utility import Rivals, utility
from imgsynth.files import write_json
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images
from imgsynth.measure.source import fresh_samples, real_images, watermark_of
from imgsynth.schema import Config
from imgsynth.training.run import Run, load_run

T = TypeVar("T")
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
STANDARD: dict[str, Callable[[Comparison], Measurement]] = {"fid": fid}  # those of the one encoder that is called so


def metrics_for(c: Comparison) -> dict[str, Callable[[Comparison], Measurement]]:
    """The metrics that images of this kind and features of this encoder have."""
    return METRICS | (VOLUMES if c.grid.spatial_dims == 3 else {}) | (STANDARD if c.encoder.standard_fid else {})


def evaluate(
    c: Comparison, class_names: Sequence[str], classifier_seeds: int, rivals: Rivals | None = None,
    attributes: Attributes | None = None, shares: Sequence[float] = (), shared: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Every metric, of all and of each class, and the utility test; what cannot be measured is listed with its reason.
    JSON-able."""
    classifiers = [ConvolutionalNetwork(classifier_seeds), ResidualNetwork(classifier_seeds),
                   LinearProbe(c.encoder), Boosted(c.encoder, classifier_seeds)]  # fmt: skip
    not_done: list[dict[str, str]] = []

    def attempt(what: str, compute: Callable[[], T]) -> T | None:
        try:
            return compute()
        except NotDone as reason:
            not_done.append({"what": what, "why": str(reason)})
            return None

    def useful() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found, trained, test = utility(
            c.train, c.test, c.synthetic, classifiers, class_names, c.bootstrap, c.seed, rivals, shares, shared
        )
        return found, scores_by_group(trained, test, attributes or {}, c.bootstrap, c.seed)

    def segmented() -> dict[str, Any]:
        return segmentation_utility(
            c.train, c.test, c.synthetic, c.grid.structures, c.bootstrap, classifier_seeds, c.seed
        )

    parts: dict[str, Callable[[], Any]] = {
        "features": lambda: (c.test_features, c.train_features, c.synthetic_features),
        "metrics": lambda: _measured(c, not_done),
        "metrics by class": lambda: _by_class(c, class_names),
        "coverage by subgroup": lambda: coverage_by_group(c, attributes or {}, class_names),
        "utility": lambda: attempt("utility (train on synthetic, test on real)", useful) or ({}, []),
        "segmentation": lambda: (
            attempt("segmentation (train on synthetic, test on real)", segmented) if c.grid.structures else None
        ),
        "plausibility": lambda: (
            attempt("anatomical plausibility of masks", lambda: plausibility(c)) if c.grid.structures else None
        ),
        "detectability": lambda: attempt(
            "detectability (synthetic or real)", lambda: detectability(c, [classifiers[0], classifiers[2]])
        ),
    }
    found = {name: parts[name]() for name in console.each(list(parts), "evaluating")}
    return {
        "encoder": c.encoder.name,
        "n_real_patients": {"train": c.train.n_patients, "test": c.test.n_patients},
        "n_real_images": {"train": len(c.train), "test": len(c.test)},
        "n_synthetic": len(c.synthetic),
        "about_encoder": c.encoder.about,
        "metrics": found["metrics"],
        "per_class": found["metrics by class"],
        "histogram": histogram_json(c.test, c.synthetic, c.grid) if len(c.test) else None,
        "utility": found["utility"][0],
        "segmentation": found["segmentation"] or {},
        "plausibility": found["plausibility"] or {},
        "detectability": found["detectability"],
        "subgroups": {
            "smallest": SMALLEST,
            "coverage": found["coverage by subgroup"],
            "utility": found["utility"][1],
        },
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
    result = evaluate(
        comparison, run.manifest.classes, settings.classifier_seeds,
        rivals_of(run, comparison, settings, extra_transforms) if settings.rivals else None,
        attributes_of(run.manifest), settings.shares,
        None if settings.shared is None else Path(settings.shared) / "scores",
    )  # fmt: skip
    if settings.readers:
        kit = write_kit(run_dir / "local" / "readers", comparison.test, comparison.synthetic, settings.readers)
        console.say(f"Reader study: {kit}; what is what: {key_of(kit)}; then python scripts/score_readers.py FORM KEY")
    header = {"format": FORMAT, "scope": SCOPE, "unit": run.manifest.unit, "cohort_notes": list(run.manifest.notes),
              "watermark": watermark_of(run)}  # fmt: skip
    result = header | result
    write_json(run_dir / "evaluation.json", result)
    return result
