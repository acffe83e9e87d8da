"""The search once more: of what was written after the audit (a new release, its card), and of the public report.

The public report is searched before it has its name, so that none with a string of the source ever lies in the run's
folder. What the search found before is kept where less can be sought now, say because the source has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imgsynth.audit.conclude import conclude
from imgsynth.audit.leakage.scan import scan_run, search, searched_files, write_findings
from imgsynth.audit.leakage.sought import Sought
from imgsynth.console import warn
from imgsynth.files import read_json, rename, write_json, write_text
from imgsynth.release.audit_record import refused, release_id
from imgsynth.release.canary_record import read_canaries
from imgsynth.types import CheckFailed, Fault

WITHHELD = "local/withheld.json"


def search_again(run_dir: Path, sought: Sought, unread: Sequence[str]) -> bool:
    """Search the run's files as they are now, and conclude its audit.json anew; False where no audit has searched yet.

    ``sought`` and ``unread`` are what ``source_strings`` returned.
    """
    path = run_dir / "audit.json"
    audit = read_json(path) if path.is_file() else {}
    before = audit.get("leakage")
    if not before or refused(audit, run_dir):  # another run's audit does not become this one's by a search
        return False
    less = len(sought.origin) < before["strings"]["sought"]
    if less and not search(run_dir, searched_files(run_dir), sought).findings:
        return True
    of = audit["of"] | {"release": release_id(run_dir / "release")}  # before the search, as in an audit
    found = scan_run(run_dir, sought, list(unread))
    if not found["clean"]:
        warn(f"{found['n_findings']} strings of the source are in the run's files: see local/leakage.json")
    write_json(path, conclude(audit | {"of": of, "leakage": before | found}, *read_canaries(run_dir)))
    return True


def write_searched(path: Path, text: str, sought: Sought) -> Path:
    """Write ``text`` to ``path`` if no string of ``sought`` is in it.

    Else nothing is at ``path``, an older file neither; the strings are in WITHHELD, and CheckFailed says how many.
    """
    run_dir, draft = path.parent, path.parent / "local" / path.name
    write_text(draft, text)
    found = search(run_dir, [draft.relative_to(run_dir).as_posix()], sought)
    if not found.findings and not found.not_read:
        rename(draft, path)
        return path
    draft.unlink()
    path.unlink(missing_ok=True)
    write_findings(run_dir / WITHHELD, found)
    kinds = sorted({finding.origin for finding in found.findings})
    got = f"{len(found.findings)} strings of the source ({', '.join(kinds)})" if kinds else "a file that cannot be read"
    raise CheckFailed(
        Fault(str(path), got, "a page without any, or none at all: it was not written",
              f"{WITHHELD} has the strings; rename what the configuration calls by them, or report a "
              "bug if it is none of these")
    )  # fmt: skip
