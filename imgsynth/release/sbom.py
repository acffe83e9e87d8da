"""The software that made a release, as a CycloneDX 1.6 bill of materials: names, versions and licences of packages.

Of the environment only what imgsynth and its dependencies name, and is installed; nothing of the machine, no path, no
time. Written without a library, so that a release has one whatever is installed; the tests have cyclonedx-python-lib
judge it.
"""

from __future__ import annotations

import platform
import re
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imgsynth import __version__
from imgsynth.files import write_json

SBOM = "sbom.cdx.json"
_ROOT = f"imgsynth@{__version__}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST = 60  # characters of a licence's name; some packages have its whole text in that place


def write_sbom(folder: Path) -> None:
    write_json(folder / SBOM, bill())


def bill() -> dict[str, Any]:
    """The bill of materials of this Python environment: the same environment gives the same."""
    found = installed("imgsynth")
    own = found.pop("imgsynth", None)
    refs = {name: _purl(name, dist) for name, dist in found.items()}
    graph = [{"ref": _ROOT, "dependsOn": _needs(own, refs) if own else sorted(refs.values())}]
    graph += [{"ref": refs[name], "dependsOn": _needs(dist, refs)} for name, dist in found.items()]
    python = {"type": "platform", "bom-ref": "python", "name": platform.python_implementation(),
              "version": platform.python_version()}  # fmt: skip
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": _ROOT, "name": "imgsynth", "version": __version__}
        },
        "components": [python, *(_component(name, dist, refs[name]) for name, dist in found.items())],
        "dependencies": graph,
    }


@lru_cache(maxsize=1)
def _installed(root: str) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    left = [root]
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform, or of an extra that nobody asked for
            continue
        left += _required(found[name])
    return dict(sorted(found.items()))


def installed(root: str) -> dict[str, Distribution]:
    """``root`` and every package that it, or one of these, names as a dependency, of whatever extra, and that is
    installed; by normalised name, sorted."""
    return dict(_installed(root))


def _required(dist: Distribution) -> list[str]:
    names = (_NAME.match(text) for text in dist.requires or [])
    return [normalised(match.group()) for match in names if match]


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(dist: Distribution, refs: dict[str, str]) -> list[str]:
    return sorted({refs[name] for name in _required(dist) if name in refs})


def _purl(name: str, dist: Distribution) -> str:
    return f"pkg:pypi/{name}@{quote(dist.version, safe='.')}"


def _component(name: str, dist: Distribution, ref: str) -> dict[str, Any]:
    licences = _licences(dist)
    return {
        "type": "library",
        "bom-ref": ref,
        "name": name,
        "version": dist.version,
        "purl": ref,
        **({"licenses": licences} if licences else {}),
    }


def _licences(dist: Distribution) -> list[dict[str, Any]]:
    """An SPDX expression where the package has one (PEP 639), else the names that it gives its licences."""
    about = dist.metadata
    if expression := about.get_all("License-Expression"):
        return [{"expression": expression[0]}]
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    names = sorted({text.rsplit(" :: ", 1)[1] for text in classifiers})
    free = "".join(about.get_all("License") or []).strip()
    if not names and free and free != "UNKNOWN" and "\n" not in free and len(free) <= _LONGEST:
        names = [free]
    return [{"license": {"name": name}} for name in names]
