"""Terms of use: licences for data that have a name everybody knows, and LICENSE.txt."""

from __future__ import annotations

import re
from pathlib import Path

from imgsynth.schema import ReleaseConfig
from imgsynth.types import Fault, nearest_name

# SPDX id (spdx.org/licenses): name, where its text stands. Those that data are published under.
LICENCES: dict[str, tuple[str, str]] = {
    "CC0-1.0": ("Creative Commons Zero 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "CC-BY-4.0": ("Creative Commons Attribution 4.0 International", "https://creativecommons.org/licenses/by/4.0/"),
    "CC-BY-SA-4.0": (
        "Creative Commons Attribution-ShareAlike 4.0 International",
        "https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "CC-BY-NC-4.0": (
        "Creative Commons Attribution-NonCommercial 4.0 International",
        "https://creativecommons.org/licenses/by-nc/4.0/",
    ),
    "CC-BY-NC-SA-4.0": (
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    ),
    "CC-BY-ND-4.0": (
        "Creative Commons Attribution-NoDerivatives 4.0 International",
        "https://creativecommons.org/licenses/by-nd/4.0/",
    ),
    "CC-BY-NC-ND-4.0": (
        "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 International",
        "https://creativecommons.org/licenses/by-nc-nd/4.0/",
    ),
    "PDDL-1.0": (
        "Open Data Commons Public Domain Dedication and License 1.0",
        "https://opendatacommons.org/licenses/pddl/1-0/",
    ),
    "ODC-By-1.0": ("Open Data Commons Attribution License 1.0", "https://opendatacommons.org/licenses/by/1-0/"),
    "ODbL-1.0": ("Open Data Commons Open Database License 1.0", "https://opendatacommons.org/licenses/odbl/1-0/"),
    "CDLA-Permissive-2.0": (
        "Community Data License Agreement Permissive 2.0",
        "https://cdla.dev/permissive-2-0/",
    ),
}
OWN = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")  # terms of one's own, as SPDX names them
LICENSE = "LICENSE.txt"


def licence_faults(release: ReleaseConfig) -> list[Fault]:
    """What is wrong with release.license and release.license_text."""
    faults = []
    name, text = release.license, release.license_text
    if name is not None and name not in LICENCES and not OWN.fullmatch(name):
        near = nearest_name(name, LICENCES)
        faults.append(
            Fault("release.license", repr(name), f"one of {', '.join(LICENCES)}, or LicenseRef-NAME",
                  f"release.license={near or 'LicenseRef-NAME'}" + ("" if near else " release.license_text=FILE"))
        )  # fmt: skip
    if name is not None and OWN.fullmatch(name) and text is None:
        faults.append(
            Fault("release.license_text", "null", f"the file with the terms of {name}", "release.license_text=FILE")
        )
    if text is not None:
        try:
            Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            faults.append(
                Fault("release.license_text", f"{text} ({error})", "a file of text (UTF-8)", "check the path")
            )
    if text is not None and name is None:
        faults.append(
            Fault("release.license", "null", "the licence that release.license_text is of", "release.license=SPDX-ID")
        )
    return faults


def licence_text(release: ReleaseConfig) -> str | None:
    """The content of release.license_text."""
    return None if release.license_text is None else Path(release.license_text).read_text(encoding="utf-8")


def licence_url(name: str) -> str | None:
    """Where the text of the licence ``name`` stands; None for terms of one's own."""
    return LICENCES[name][1] if name in LICENCES else None


def license_document(release: ReleaseConfig, text: str | None) -> str:
    """LICENSE.txt; ``text`` is what ``licence_text`` gave."""
    if release.license is None:
        return (
            "No licence was stated (release.license).\n\nThis folder grants no rights. Ask whoever handed it over for "
            "the terms before you use, copy or\npass on anything in it.\n"
        )
    lines = [f"SPDX-License-Identifier: {release.license}"]
    if release.creators:
        lines.append(f"Rights: {'; '.join(release.creators)}")
    if release.license in LICENCES:
        name, url = LICENCES[release.license]
        lines += ["", f"This data set is available under {name}.", f"The text of the licence: {url}"]
    if text is not None:
        lines += ["", text.rstrip("\n")]
    return "\n".join(lines) + "\n"
