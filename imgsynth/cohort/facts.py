"""What a release may say of a synthetic patient besides the label: age band, sex and site, from public lists."""

from __future__ import annotations

from collections.abc import Sequence

from imgsynth.cohort.manifest import Manifest
from imgsynth.types import Split

UNKNOWN = "unknown"
AGE_BANDS = (*(f"{decade}-{decade + 9}" for decade in range(0, 90, 10)), "90+")
SEXES = ("F", "M", "O")
FACTS = ("age_band", "sex", "site")

Facts = tuple[str, ...]  # one value for each fact that is asked for


def domains(facts: Sequence[str], sites: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Every value that each of ``facts`` can have, known before any patient: ``sites`` as the user declares them."""
    known = {"age_band": AGE_BANDS, "sex": SEXES, "site": tuple(sites or ())}
    return {fact: (*known[fact], UNKNOWN) for fact in facts}


def facts_by_patient(
    manifest: Manifest, split: Split, of: dict[str, tuple[str, ...]] | Sequence[str]
) -> dict[str, Facts]:
    """Each patient's facts: of his images the first, in the order of their files, that says one; else UNKNOWN.

    With domains, a value that is not in its domain is UNKNOWN too. A patient's facts follow from his own data alone.
    """
    found = {}
    for patient, items in manifest.by_patient.items():
        if items[0].split == split:
            said = [next((value for item in items if (value := getattr(item, fact))), UNKNOWN) for fact in of]
            if isinstance(of, dict):
                said = [one if one in of[fact] else UNKNOWN for fact, one in zip(of, said, strict=True)]
            found[patient] = tuple(said)
    return found
