"""Ledgers, and short words for what tests do to them."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from imgsynth.privacy.events import histogram_event
from imgsynth.privacy.ledger import Entry, Ledger

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def spend():
    """``spend(ledger, run)``: by default a histogram of ε = 0.5 on the cohort "lungs"."""

    def go(ledger, run, event=None, eps=0.5, delta=1e-5, budget=None, cohort="lungs", unit="patient", patients=None):
        event = histogram_event(0.5) if event is None else event
        return ledger.open_entry(
            cohort, event, run=run, epsilon=eps, delta=delta, budget_epsilon=budget, unit=unit, patients=patients
        )

    return go


@pytest.fixture
def sql():
    """``sql(ledger, statement)``: what a careless hand does to the ledger's file; the rows that it gives."""

    def go(ledger: Ledger, statement: str) -> list[tuple]:
        connection = sqlite3.connect(ledger.folder / "ledger.sqlite")
        rows = connection.execute(statement).fetchall()
        connection.commit()
        connection.close()
        return rows

    return go


def runs(entries: list[Entry]) -> list[str]:
    return [entry.run for entry in entries]
