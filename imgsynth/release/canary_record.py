"""canaries.json as release, audit and report read it: of which run it is, and whether it stands against a release.

The record is written by ``imgsynth audit canaries``. It speaks of one run's mechanism and settings; a record of another
run, or of the run that was in this folder before, says nothing of this one and is not taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from imgsynth.files import read_json
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.training.folder import RunFolder, binding, flatten

NAME = "canaries.json"
FORMAT = "imgsynth-canaries-2"
VIOLATION, REJECTED, BROKEN = GRAVE = ("VIOLATION", "CLAIM REJECTED", "MECHANISM BROKEN")  # the gravest first
_FREE = "physical_batch"  # memory alone, and may change while a run is trained


def identity(root: Path) -> dict[str, Any]:
    """What tells the run in ``root`` from any other: its id, its plan, and a digest of the settings that bind a run.

    Settings are not shown: paths of the source are among them. Raises OSError or ValueError where files are missing.
    """
    folder = RunFolder(root)
    plan = read_json(folder.plan)
    settings = {key: value for key, value in flatten(read_json(folder.config)).items() if binding(key)}
    return {
        "run": folder.run_id(),
        "plan": {f.name: plan[f.name] for f in fields(PrivacyPlan) if f.name in plan and f.name != _FREE},
        "settings": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    }


def read_canaries(root: Path) -> tuple[dict[str, Any] | None, str | None]:
    """(the record of the run in ``root``, None); (None, why not) where the file is not of this run; or (None, None)."""
    path = root / NAME
    if not path.is_file():
        return None, None
    try:
        record = read_json(path)
        if record["format"] != FORMAT:
            return None, f"{NAME} has the format {record['format']}, not {FORMAT}"
        other = _differing(record["of"], identity(root))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{NAME} does not say of which run it is ({type(error).__name__})"
    return (None, f"{NAME} is of another run (another {', '.join(other)})") if other else (record, None)


def grave_word(record: dict[str, Any] | None) -> str | None:
    """The word of a record that stands against any release; None where there is none."""
    return None if record is None else next((word for word in GRAVE if record["verdict"].startswith(word)), None)


def bound_of(record: dict[str, Any]) -> float:
    """The largest of the twins' lower bounds on ε, which hold together but for ``alpha_of_bounds``."""
    return max(twin["epsilon_lower_bound"] for look in looks(record) for twin in look["twins"])


def looks(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every audit of this run's twins that was brought to its end, the newest (the record itself) last."""
    return [*record.get("earlier_looks", ()), record]


def _differing(recorded: dict[str, Any], own: dict[str, Any]) -> list[str]:
    plans = recorded["plan"], own["plan"]
    changed = [key for key in sorted(plans[0].keys() | plans[1].keys()) if plans[0].get(key) != plans[1].get(key)]
    found = [f"plan: {', '.join(changed)}"] if changed else []
    return [key for key in ("run", "settings") if recorded[key] != own[key]] + found
