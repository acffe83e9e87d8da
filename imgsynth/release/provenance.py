"""How a release was made: provenance.json, which the privacy card and every other document can be checked against."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from imgsynth import __version__
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import write_json
from imgsynth.models.base import GenerativeModel
from imgsynth.privacy.events import event_to_json
from imgsynth.privacy.ledger import Ledger
from imgsynth.release.card_text import chosen_by
from imgsynth.release.licences import licence_text
from imgsynth.schema import Config, ReleaseConfig
from imgsynth.training.folder import RunFolder
from imgsynth.training.run import Run

PROVENANCE = "provenance.json"
FORMAT = "imgsynth-provenance-2"
SEEDED = "noise and sampling came from a seed: void for whoever knows it, not releasable"
UNSEEDED = "none: cryptographic generators, seeded by the operating system, of which nothing is kept"

# The settings that leave with a release: public by releasing (privacy_card.json, declared_public). What is not listed
# stays: paths, names of cohorts, issuers and tables, columns, patterns, seeds, and whatever a later version adds.
PUBLIC: dict[str, tuple[str, ...]] = {
    "data": (
        "kind", "unit", "classes", "modality", "defaced", "masks", "images_per_patient", "augmentation_multiplicity",
    ),
    "preprocess": ("shape", "spacing", "orientation", "fit", "intensity", "low", "high"),
    "privacy": (
        "mode", "epsilon", "delta", "noise_multiplier", "clipping_norm", "clipping_quantile",
        "clipping_learning_rate", "count_noise_multiplier", "query_share", "query_noise_multiplier", "fakes",
        "batch_patients", "sampling_rate", "n", "engine",
    ),
    "trainer": (
        "steps", "steps_before", "steps_after", "optimizer", "learning_rate", "generator_learning_rate", "beta1",
        "beta2", "second_moment_floor", "ema", "precision",
    ),
    "selection": ("rule", "step", "every", "share", "epsilon", "samples", "encoder"),
    "sample": (
        "n", "formats", "labels", "histogram_epsilon", "metadata", "metadata_by", "sites", "k", "l", "t",
        "masks_origin", "edits", "burned_in", "dicom", "transfer_syntax", "uid_root",
        "bids_suffix",
    ),
    "release": ("title", "creators", "license", "contact", "description", "ethics", "date", "watermark"),
}  # fmt: skip


def provenance(run: Run, cfg: Config | None = None) -> dict[str, Any]:
    """Software, model, resolved settings and the ledger's entry. From an allow-list: no path, no name of a person or
    machine but those in ``release.*``, no date but ``release.date``.

    ``cfg`` is the configuration of ``imgsynth sample`` (default: the run's); of it sample.*, release.* and data.defaced
    are taken, all else is the run's own.
    """
    cfg = cfg or run.config
    settings = {
        section: {
            key: getattr(getattr(cfg if section in ("sample", "release") else run.config, section), key) for key in keys
        }
        for section, keys in PUBLIC.items()
    }
    settings["data"]["defaced"] = cfg.data.defaced
    return {
        "format": FORMAT,
        "imgsynth": __version__,
        "torch": torch.__version__,
        "model": {"name": type(run.model).__name__, "settings": hyper_parameters(type(run.model), run.config.model)},
        "began_with": began_with(run),
        "further_transforms": len(run.config.preprocess.extra),  # how many; what they are told could be a path
        "weights": weights_of(run),
        "sampling_seed": cfg.sample.seed,  # null: drawn for this release and not kept
        "seed": SEEDED if run.plan.seeded else UNSEEDED,
        "config": settings,
        "ledger_entry": ledger_entry(run.root, run.config, run.manifest),
        "licence_text": licence_text(cfg.release),
    }


def answers(made: Mapping[str, Any]) -> ReleaseConfig:
    """The custodian's answers (``release.*``) as ``provenance.json`` has them."""
    return ReleaseConfig(**made["config"]["release"])


def ledger_entry(run_dir: Path, config: Config, manifest: Manifest) -> dict[str, str] | None:
    """The run in the cohort's ledger, by a hash of its random id, and a digest of what is on record for it.

    The id is 122 random bits, so that its hash gives nothing away; whoever has the ledger finds the entry by it. None
    where the ledger has no such run (the card then says NOT RELEASABLE).
    """
    own = RunFolder(run_dir).run_id()
    cohort = config.data.cohort or manifest.fingerprint
    for entry in Ledger(config.privacy.ledger).entries(cohort):
        if entry.run == own:
            name = hashlib.sha256(own.encode()).hexdigest()
            return {"run": name, "sha256": entry_digest(name, event_to_json(entry.event), entry.delta, entry.unit)}
    return None


def entry_digest(run: str, event: Mapping[str, Any], delta: float, unit: str) -> str:
    """SHA-256 of what the ledger recorded: the run (its hash), the mechanism, δ and the unit; ε follows from them."""
    record = {"run": run, "event": event, "delta": delta, "unit": unit}
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def began_with(run: Run) -> dict[str, Any] | str:
    """Where the first weights came from, and how much of the private network has learned since."""
    if run.plan.public is None:
        return "random numbers"
    learned = run.config.init.train if run.config.init.train == "all" else "some"
    return {**asdict(run.plan.public), "trained": learned, "rank_of_adapters": run.config.init.rank}


def weights_of(run: Run) -> str:
    """Which weights the images were made with."""
    averaged, chosen = "average over training (EMA) of the generator", chosen_by(run.plan)
    return averaged if chosen is None else f"{averaged}, after step {run.selected} of {run.step}: {chosen}"


def hyper_parameters(model: type[GenerativeModel], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The model's hyper-parameters, defaults included: numbers, its own public words, and lists of these. Other text is
    left out: it could be a path."""
    defaults = {name: p.default for name, p in inspect.signature(model).parameters.items()}
    merged = {name: settings.get(name, default) for name, default in defaults.items()}

    def public(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(map(public, value))
        return value is None or isinstance(value, (bool, int, float)) or value in model.public_words

    return {name: list(value) if isinstance(value, tuple) else value for name, value in merged.items() if public(value)}


def write_provenance(folder: Path, run: Run, cfg: Config) -> None:
    write_json(folder / PROVENANCE, provenance(run, cfg))
