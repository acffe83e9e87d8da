"""Evaluate a run: every metric and the utility test, into evaluation.json. A private-data output: it stays local."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imgsynth.evaluate.classifiers import ConvolutionalNetwork, LinearProbe
from imgsynth.evaluate.diversity import ms_ssim_diversity
from imgsynth.evaluate.frechet import frechet_distance
from imgsynth.evaluate.intensity import histogram_json, intensity_distance
from imgsynth.evaluate.kid import kernel_distance
from imgsynth.evaluate.metric import Comparison, Measurement, NotDone
from imgsynth.evaluate.utility import utility
from imgsynth.files import write_json
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.source import fresh_samples, real_images
from imgsynth.schema import Config
from imgsynth.training.run import load_run

FORMAT = "imgsynth-evaluation-1"
SCOPE = "local: measured on private data without noise"
METRICS: dict[str, Callable[[Comparison], Measurement]] = {
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
    "ms_ssim": ms_ssim_diversity,
    "intensity_wasserstein": intensity_distance,
}


def evaluate(c: Comparison, class_names: Sequence[str], classifier_seeds: int) -> dict[str, Any]:
    """Every metric in METRICS and the utility test; what cannot be measured is listed with its reason. JSON-able."""
    metrics, not_done = [], []
    for name, metric in METRICS.items():
        try:
            metrics.append(metric(c).to_json())
        except NotDone as reason:
            not_done.append({"what": name, "why": str(reason)})
    classifiers = [LinearProbe(c.encoder), ConvolutionalNetwork(classifier_seeds)]
    useful: dict[str, Any] = {}
    try:
        useful = utility(c.train, c.test, c.synthetic, classifiers, class_names, c.bootstrap, c.seed)
    except NotDone as reason:
        not_done.append({"what": "utility (train on synthetic, test on real)", "why": str(reason)})
    return {
        "encoder": c.encoder.name,
        "n_real_patients": {"train": c.train.n_patients, "test": c.test.n_patients},
        "n_real_images": {"train": len(c.train), "test": len(c.test)},
        "n_synthetic": len(c.synthetic),
        "metrics": metrics,
        "histogram": histogram_json(c.test, c.synthetic, c.grid) if len(c.test) else None,
        "utility": useful,
        "not_done": not_done,
    }


def evaluate_run(run_dir: Path, cfg: Config, extra_transforms: Sequence[Any] = ()) -> dict[str, Any]:
    """Evaluate the run in ``run_dir`` and write ``evaluation.json`` there (whole or not at all).

    Real images are the test patients, and train patients for floors and ceiling; synthetic ones are fresh samples.

    ``extra_transforms`` are those of ``cfg.preprocess.extra``, instantiated.

    Raises:
        InputError: if the encoder is unknown or not installed (before anything is loaded), or the run cannot be read.
    """
    encoder = get_encoder(cfg.encoder.name, len(cfg.preprocess.shape), cfg.encoder.seed)
    run = load_run(run_dir)
    settings = cfg.evaluate
    comparison = Comparison(
        train=real_images(run, "train", settings.n, settings.seed, extra_transforms),
        test=real_images(run, "test", settings.n, settings.seed, extra_transforms),
        synthetic=fresh_samples(run, settings.n, settings.seed),
        encoder=encoder,
        grid=run.grid,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
    )
    result = evaluate(comparison, run.manifest.classes, settings.classifier_seeds)
    header = {"format": FORMAT, "scope": SCOPE, "unit": run.manifest.unit, "cohort_notes": list(run.manifest.notes)}
    result = header | result
    write_json(run_dir / "evaluation.json", result)
    return result
