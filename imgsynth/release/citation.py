"""CITATION.cff (Citation File Format 1.2.0): how to cite a release, where its creators are named."""

from __future__ import annotations

import yaml

from imgsynth.release.facts import Facts
from imgsynth.release.licences import LICENCES

MESSAGE = "If you use this data set, please cite it as below."


def citation(facts: Facts) -> str | None:
    """The file's text. None without ``release.creators``: the format asks for authors, and none are invented."""
    says = facts.answers
    if not says.creators:
        return None
    entry = {
        "cff-version": "1.2.0",
        "message": MESSAGE,
        "type": "dataset",
        "title": facts.title,
        "abstract": says.description or f"{len(facts.patients)} synthetic patients. {facts.card['statement']}",
        "authors": [author(name) for name in says.creators],
    }
    if says.license in LICENCES:
        entry["license"] = says.license
    if says.date is not None:
        entry["date-released"] = says.date
    return yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=1000)


def author(name: str) -> dict[str, str]:
    """A person where ``name`` is "Family, Given", else an entity: an institution."""
    family, comma, given = name.partition(", ")
    return {"family-names": family, "given-names": given} if comma else {"name": name}
