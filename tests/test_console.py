"""Progress: seen at a terminal, silent elsewhere, and never in the way of what is iterated over."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from imgsynth import console


def shown(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str]:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=terminal, width=100))
    return list(console.each(["logan", "domias/[pca]"], "attacks")), stream.getvalue()


def test_each_names_what_is_at_work_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    items, text = shown(True, monkeypatch)
    assert items == ["logan", "domias/[pca]"]
    assert "attacks: domias/[pca]" in text and "50%" in text


def test_each_is_silent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(False, monkeypatch) == (["logan", "domias/[pca]"], "")
