"""Explain a run: the generator alone into ``explain/``, what looks at real patients into ``local/explain/``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgsynth import console
from imgsynth.explain import alone, local
from imgsynth.explain.attribution import missing_captum
from imgsynth.explain.maker import Maker
from imgsynth.explain.part import Part
from imgsynth.files import read_json, write_json
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.source import fresh_samples, real_images
from imgsynth.release.card import fresh_card
from imgsynth.release.sample import require_finished, weights_digest
from imgsynth.schema import Config
from imgsynth.training.run import Run, load_run
from imgsynth.types import Fault, InputError

FORMAT = "imgsynth-explain-1"
JSON = "explain.json"
ALONE = ("made from the generator alone, without any patient: as public as its release, where, and only where, the "
         "privacy card says that the run is releasable")  # fmt: skip
PRIVATE = "local: made from the generator alone, but the run is not releasable"
SEEN = {"classifier": "which is trained on the patients", "file": "whose weights may have seen patients"}
LOCAL = "local: shows real patients, or was measured on them without noise"


def explain_run(run_dir: Path, cfg: Config, extra_transforms: Sequence[Any] = ()) -> Path:
    """Write both parts; the folder of the first. ``extra_transforms`` are those of ``cfg.preprocess.extra``.

    What is made from the generator alone is in ``explain/``; of a run that is not releasable in
    ``local/explain/generator/``, as it may show patients.

    Raises:
        InputError: for a missing package or an encoder that saw patients (both before any work), or a run that is
            not trained to its end.
    """
    settings = cfg.explain
    faults = [missing_captum()] if settings.attributed else []
    if cfg.encoder.name in SEEN:
        faults.append(Fault("encoder.name", f"{cfg.encoder.name}, {SEEN[cfg.encoder.name]}", "a public encoder, as "
                            "what the generator alone makes may be shown", "encoder.name=random_conv"))  # fmt: skip
    if found := [fault for fault in faults if fault is not None]:
        raise InputError(*found)
    encoder = get_encoder(cfg.encoder.name, len(cfg.preprocess.shape), cfg.encoder.seed, cfg.encoder.path,
                          cfg.encoder.network)  # fmt: skip
    run = load_run(run_dir)
    require_finished(run)
    header = {"format": FORMAT, "of": weights_digest(run.model), "encoder": encoder.name, "seed": settings.seed}
    releasable = bool(fresh_card(run)["releasable"])
    for old in (run_dir / "explain", run_dir / "local" / "explain"):
        shutil.rmtree(old, ignore_errors=True)
    folder = run_dir / "explain" if releasable else run_dir / "local" / "explain" / "generator"
    maker = Maker(run.model, run.grid, run.manifest.classes, encoder, settings)
    _write(folder, *alone.explained(maker), header | {"scope": ALONE if releasable else PRIVATE})
    encoder.folder = run_dir / "local" / "features"
    parts, not_done = _beside_patients(run, cfg, maker, extra_transforms)
    _write(run_dir / "local" / "explain", parts, not_done, header | {"scope": LOCAL, "local_only": True})
    return folder


def _beside_patients(
    run: Run, cfg: Config, maker: Maker, extra: Sequence[Any]
) -> tuple[list[Part], list[dict[str, str]]]:
    settings = cfg.explain
    try:
        test = real_images(run, "test", settings.samples, settings.seed, extra)
    except (InputError, OSError) as error:  # the source has moved: the generator can be explained all the same
        console.warn("real images cannot be read: what compares with them is left out")
        return [], [{"what": "all that compares with real patients", "why": f"they cannot be read ({error})"}]
    made = fresh_samples(run, settings.samples, settings.seed)
    return local.explained(test, made, run.grid, maker.encoder, settings.attributed, settings.seed)


def _write(folder: Path, parts: Sequence[Part], not_done: list[dict[str, str]], header: dict[str, Any]) -> None:
    """Pictures first: a folder without ``explain.json`` is none."""
    written = [part.written(folder) for part in parts]
    write_json(folder / JSON, header | {"parts": written, "not_done": not_done})


def explained_alone(run: Run) -> dict[str, Any] | None:
    """What was made from the generator alone, with its ``folder``; None where it is not there or of other weights."""
    return _read(run, run.root / "explain") or _read(run, run.root / "local" / "explain" / "generator")


def explained_locally(run: Run) -> dict[str, Any] | None:
    """What looks at real patients, likewise. LOCAL ONLY."""
    return _read(run, run.root / "local" / "explain")


def _read(run: Run, folder: Path) -> dict[str, Any] | None:
    if not (folder / JSON).is_file():
        return None
    found: dict[str, Any] = read_json(folder / JSON)
    mine = found["format"] == FORMAT and found["of"] == weights_digest(run.model)
    return found | {"folder": str(folder)} if mine else None
