"""Whether demographics are whole, and which groups are so small that their counts are private. LOCAL ONLY."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from imgsynth.cohort.build_scan import Scan
from imgsynth.cohort.findings import Finding, finding
from imgsynth.cohort.labels import age_band_of, sex_of

FEW = 10  # patients: tables of fewer are suppressed by most statistical offices and registries


def group_findings(scans: Sequence[Scan]) -> list[Finding]:
    """Incomplete facts about patients, where any patient has them, and small groups; both are notes."""
    facts: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for scan in scans:
        patient = scan.patient or scan.names[0]
        for name, value in (("class", scan.label), ("sex", sex_of(scan.sex)), ("age", age_band_of(scan.age)),
                            ("site", scan.site)):  # fmt: skip
            facts[name][patient] |= {value} if value else set()
    unknown = [(f"patient {patient}", f"no {name}")
               for name in ("sex", "age") if any(facts[name].values())
               for patient, values in facts[name].items() if not values]  # fmt: skip
    small = [(f"{name} {value}", f"{count} patients")
             for name, patients in facts.items()
             for value, count in sorted(Counter(v for values in patients.values() for v in values).items())
             if count < FEW]  # fmt: skip
    return [*finding("unknown_sex_or_age", unknown), *finding("small_group", small)]
