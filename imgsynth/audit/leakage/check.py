"""The leakage part of an audit whole: strings in files, faces and text in pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imgsynth.audit.leakage.pixels import text_in_pixels
from imgsynth.audit.leakage.scan import scan_run, source_strings
from imgsynth.cohort.manifest import Manifest
from imgsynth.cohort.visible import visible_risks
from imgsynth.console import warn
from imgsynth.measure.images import Images
from imgsynth.schema import Config


def find_leakage(run_dir: Path, manifest: Manifest, config: Config, synthetic: Images) -> dict[str, Any]:
    """What ``scan_run`` found, with ``visible`` (faces and text that headers speak of) and ``pixels`` (text as read).

    Warns of each, in words without the strings.
    """
    sought, unread = source_strings(manifest, config)
    strings = {*sought.origin, *sought.left_out.get("too short", ())}
    found = scan_run(run_dir, sought, unread)
    found["visible"] = visible_risks(manifest, config.data.defaced)
    found["pixels"] = text_in_pixels(
        manifest, synthetic, strings, config.audit.ocr_pictures, config.audit.seed,
        run_dir / "local" / "text_in_pixels.json",
    )  # fmt: skip
    if not found["clean"]:
        warn(f"{found['n_findings']} strings of the source are in the run's files: see local/leakage.json")
    if found["pixels"].get("samples", {}).get("recovered"):
        warn("samples show text that is in the source's headers or names: see local/text_in_pixels.json")
    for risk in found["visible"].values():
        if risk["warning"] is not None:
            warn(risk["warning"])
    return found
