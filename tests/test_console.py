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


def test_a_loop_within_a_loop_is_a_second_line_and_the_screen_is_free_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=True, width=100))
    seen = [(a, b) for a in console.each("xy", "outer") for b in console.track(range(2), "inner")]
    assert seen == [("x", 0), ("x", 1), ("y", 0), ("y", 1)]
    assert "outer: y" in stream.getvalue() and "inner" in stream.getvalue()
    with pytest.raises(KeyError):
        for _ in console.each("xy", "outer"):
            raise KeyError
    assert list(console.each("z", "again")) == ["z"] and console._shown is None
