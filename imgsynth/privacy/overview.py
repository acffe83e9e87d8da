"""The ledger for people: every cohort in a line, or one cohort run by run."""

from __future__ import annotations

from typing import Any

from imgsynth import console
from imgsynth.privacy.entries import finite
from imgsynth.privacy.overlap import Overlaps
from imgsynth.privacy.store import Book


def overview(book: Book) -> list[dict[str, Any]]:
    """One row for each cohort; ``epsilon`` null is ∞. ``delta`` is the smallest that one of its runs was planned at."""
    account, overlaps = book.account, Overlaps(book.account, book.members)
    rows = []
    for cohort in sorted(account.entries.keys() | account.budgets.keys()):
        entries = list(account.of(cohort).values())
        delta = account.delta(cohort)
        known = [book.members(entry.patients) for entry in entries if entry.patients is not None]
        rows.append(
            {
                "cohort": cohort,
                "runs": len(entries),
                "open": sum(entry.state == "open" for entry in entries),
                "unit": " and ".join(sorted({entry.unit for entry in entries})) or "patient",
                "patients": len(frozenset().union(*known)) if known else None,
                "issuers": sorted({entry.issuer for entry in entries if entry.issuer is not None}),
                "epsilon": 0.0 if delta is None else finite(overlaps.worst(cohort, delta)[0]),
                "delta": delta,
                "budget_epsilon": account.budgets.get(cohort),
                "shared": [
                    {"cohort": one.cohort, "patients": one.patients, "runs": list(one.runs)}
                    for one in overlaps.shared(cohort)
                ],
            }
        )
    return rows


def print_overview(rows: list[dict[str, Any]]) -> None:
    console.table(
        "Privacy ledger: ε of all that was run on a cohort's patients, also as patients of others",
        ("cohort", "runs", "of", "ε (δ)", "budget", "shared with"),
        [
            (
                _short(row["cohort"]), f"{row['runs']} ({row['open']} open)", _of(row["patients"], row["unit"]),
                _epsilon(row["epsilon"], row["delta"]), _budget(row["budget_epsilon"]),
                "\n".join(f"{_short(one['cohort'])}: {one['patients']}" for one in row["shared"]),
            )
            for row in rows
        ],
    )  # fmt: skip


def print_runs(cohort: str, table: list[dict[str, Any]]) -> None:
    """``table`` is ``Ledger.table``."""
    console.table(
        f"Cohort {cohort}: each run, and ε of all up to and including it",
        ("run", "opened", "state", "of", "ε (δ)", "ε of all (δ)", "budget"),
        [
            (
                _short(row["run"]), row["opened"][:10], row["state"],
                _of(row["patients"], row["unit"]) + (f" of {row['issuer']}" if row["issuer"] else ""),
                _epsilon(row["epsilon"], row["delta"]), _epsilon(row["composed_epsilon"], row["delta"]),
                _budget(row["budget_epsilon"]),
            )
            for row in table
        ],
    )  # fmt: skip


def _of(number: int | None, unit: str) -> str:
    return f"{unit}s, not known which" if number is None else f"{number} {unit}s"


def _epsilon(value: float | None, delta: float | None) -> str:
    shown = "∞" if value is None else f"{value:.4g}"
    return shown if delta is None else f"{shown} ({delta:g})"


def _budget(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _short(name: str) -> str:
    """Fingerprints and run ids, which are hexadecimal and long, by how they begin."""
    return f"{name[:8]}…" if len(name) >= 32 and set(name) <= set("0123456789abcdef") else name
