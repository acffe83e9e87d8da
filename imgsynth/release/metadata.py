"""Age band, sex and site of synthetic patients: from a noised histogram, or from a table that is made anonymous.

``sample.metadata_by=dp``: the run counted its patients by class and facts, with noise (``training/histogram.py``); rows
are drawn from these counts, which costs nothing more. ``anonymised``: rows are drawn from the table of training
patients after it was generalised and suppressed until k-anonymity, l-diversity and t-closeness hold
(``anonymity.py``). That is no differential privacy, and the card says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgsynth.cohort.facts import AGE_BANDS, SEXES, UNKNOWN, Facts, facts_by_patient
from imgsynth.cohort.manifest import Manifest
from imgsynth.files import read_json
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.release.anonymity import SUPPRESSED, Anonymity, anonymised, measure, suppressed
from imgsynth.schema import SampleConfig
from imgsynth.types import Fault, InputError

COUNTED = "The table of the synthetic patients ({facts}) is drawn from counts with noise, whose ε is part of the total."
OUTSIDE = (
    "THE GUARANTEE DOES NOT COVER THE TABLE: {facts} of the synthetic patients (in tables, DICOM headers and JSON "
    "files) are drawn from {source}. That is no differential privacy: whoever knows much of a patient can learn more "
    "from it, and several releases together can say what none says alone."
)
SOURCES = {
    "dp": "exact counts of the training patients, as the run was made without noise",
    "anonymised": "the training patients' own table, generalised and suppressed until k-anonymity, l-diversity and "
    "t-closeness held",
}


@dataclass(frozen=True)
class Table:
    """The facts of synthetic patients: one row each, in the order of ``facts``; ``record`` is what the card says."""

    facts: tuple[str, ...]
    rows: list[Facts]
    record: dict[str, Any] | None

    def of(self, number: int) -> dict[str, str]:
        """The facts of synthetic patient ``number``, counted from 1."""
        return dict(zip(self.facts, self.rows[number - 1], strict=True))


def draw_metadata(
    sample: SampleConfig, manifest: Manifest, labels_N: np.ndarray, histogram: Path, random: np.random.Generator
) -> Table:
    """Facts for synthetic patients of the classes ``labels_N``. Raises InputError where they cannot be had."""
    facts = tuple(sample.metadata)
    if not facts:
        return Table((), [()] * len(labels_N), None)
    record: dict[str, Any] = {"facts": list(facts), "by": sample.metadata_by}
    if sample.metadata_by == "dp":
        return Table(facts, _from_histogram(facts, labels_N, histogram, random), record)
    asked = Anonymity(sample.k, min(sample.l, len(manifest.classes)), sample.t)
    rows = _from_patients(facts, manifest, labels_N, asked, random)
    has = measure(rows, [manifest.classes[c] for c in labels_N])
    return Table(facts, rows, {**record, "asked": vars(asked), "has": vars(has)})


def _from_histogram(facts: Facts, labels_N: np.ndarray, path: Path, random: np.random.Generator) -> list[Facts]:
    stored = read_json(path) if path.is_file() else {}
    domains: dict[str, list[str]] = stored.get("facts", {})
    if tuple(domains) != facts:
        raise InputError(
            Fault("sample.metadata", f"{list(facts)}, and a run that counted {list(domains) or 'none'}",
                  "the facts that the run counted with noise while it was trained",
                  "train a new run with these settings, or sample.metadata_by=anonymised (no differential privacy)")
        )  # fmt: skip
    shape = [len(values) for values in domains.values()]
    cells = np.array(stored["cells"], dtype=float).reshape(-1, *shape)
    rows = []
    for label in labels_N:
        flat = random.choice(cells[label].size, p=shares(cells[label].ravel()))
        place = np.unravel_index(flat, shape)
        rows.append(tuple(values[i] for values, i in zip(domains.values(), place, strict=True)))
    return rows


def shares(noisy: np.ndarray) -> np.ndarray:
    """Noisy counts as probabilities: the nearest ones that are not negative (Norm-Sub, Wang et al. 2020, NDSS).

    One number is taken off all counts, those below 0 become 0, and it is such that their sum stays what it was. Counts
    that sum to 0 or less say nothing, and give equal shares.
    """
    total = noisy.sum()
    if total <= 0:
        return np.full(len(noisy), 1 / len(noisy))
    falling = np.sort(noisy)[::-1]
    offsets = (np.cumsum(falling) - total) / np.arange(1, len(noisy) + 1)
    offset = offsets[np.flatnonzero(falling > offsets)[-1]]
    kept = np.maximum(noisy - offset, 0)
    result: np.ndarray = kept / kept.sum()
    return result


def _from_patients(
    facts: Facts, manifest: Manifest, labels_N: np.ndarray, asked: Anonymity, random: np.random.Generator
) -> list[Facts]:
    """Rows drawn from the anonymised table of training patients with the same label; the drawn table keeps ``asked``
    too, as it is what others see."""
    own, classes = facts_by_patient(manifest, "train", facts), manifest.patient_classes("train")
    label_P = np.array([classes[patient] for patient in own])
    sites = sorted({row[facts.index("site")] for row in own.values()}) if "site" in facts else []
    names = [manifest.classes[c] for c in label_P]
    table = anonymised(list(own.values()), names, asked, [hierarchy(fact, sites) for fact in facts])
    said_P = np.array([set(row) != {SUPPRESSED} for row in table])
    drawn: list[Facts] = []
    for label in labels_N:
        among = np.flatnonzero((label_P == label) & said_P)
        drawn.append(table[random.choice(among)] if len(among) else (SUPPRESSED,) * len(facts))
    kept = suppressed(drawn, [manifest.classes[c] for c in labels_N], asked)
    if kept is None:
        got = measure([()] * len(drawn), [manifest.classes[c] for c in labels_N])
        raise InputError(
            Fault("sample.k, sample.l, sample.t", f"{asked}, of {len(drawn)} synthetic patients with {got}",
                  "what a table of this size and with these labels can keep",
                  "a larger sample.n, smaller sample.k or sample.l, or sample.metadata_by=dp")
        )  # fmt: skip
    return kept


def hierarchy(fact: str, sites: Sequence[str] = ()) -> list[Mapping[str, str]]:
    """What the values of ``fact`` become, level by level: ages of twenty years, of forty, none; others none at once."""
    if fact != "age_band":
        return [dict.fromkeys((*SEXES, *sites, UNKNOWN), SUPPRESSED)]
    levels = []
    for years in (20, 40):
        starts = [10 * i // years * years for i in range(len(AGE_BANDS))]
        wide = [f"{start}+" if start + years > 90 else f"{start}-{start + years - 1}" for start in starts]
        levels.append({**dict(zip(AGE_BANDS, wide, strict=True)), UNKNOWN: UNKNOWN})
    return [*levels, dict.fromkeys((*AGE_BANDS, UNKNOWN), SUPPRESSED)]


def table_faults(
    record: Mapping[str, Any] | None, rows: Sequence[Mapping[str, str]], labels: Sequence[str | None]
) -> list[Fault]:
    """What is wrong with a release's table of facts, by what its card says (``record``)."""
    facts = tuple(record["facts"]) if record else ()
    remedy = "get the release again from whoever published it"
    if any(tuple(row) != facts for row in rows):
        return [Fault("synthetic_cohort.json", "other facts than the card lists", f"{list(facts)} of each", remedy)]
    if not record or record["by"] == "dp":
        return []
    has = measure([tuple(row.values()) for row in rows], [str(label) for label in labels])
    asked, said = (Anonymity(**record[name]) for name in ("asked", "has"))
    faults = []
    if not has.keeps(asked):
        faults.append(Fault("synthetic_cohort.json", f"a table with {has}", f"{asked} or better, as was asked", remedy))
    if (has.k, has.l) != (said.k, said.l) or abs(has.t - said.t) > 1e-9:
        faults.append(Fault("synthetic_cohort.json", f"a table with {has}", f"{said}, as the card says", remedy))
    return faults


def covered(record: Mapping[str, Any], plan: PrivacyPlan) -> bool:
    """Whether the plan's ε speaks of the table, too."""
    return bool(record["by"] == "dp" and plan.histogram_epsilon > 0 and plan.releasable)


def note_of(record: Mapping[str, Any], plan: PrivacyPlan) -> str:
    """What the card says of a release's table of facts."""
    said = ", ".join(record["facts"])
    return (
        COUNTED.format(facts=said)
        if covered(record, plan)
        else OUTSIDE.format(facts=said, source=SOURCES[record["by"]])
    )


def table_limits(record: Mapping[str, Any] | None, plan: PrivacyPlan) -> list[str]:
    return [] if record is None or covered(record, plan) else [note_of(record, plan)]
