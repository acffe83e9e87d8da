"""Talking to the person at the terminal: progress that is quiet elsewhere, tables, results and next commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.progress import track as rich_track
from rich.table import Table

T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """A progress bar on standard error; silent when that is not a terminal."""
    return rich_track(items, description=what, total=total, console=err, disable=not err.is_terminal, transient=True)


def each(items: Sequence[T], what: str) -> Iterator[T]:
    """``track`` that names the item at work: attacks, say, of which one may take minutes and the next a second."""
    with Progress(console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=len(items))
        for item in items:
            bar.update(task, description=escape(f"{what}: {item}"), refresh=True)
            yield item
            bar.advance(task)


def say(text: str) -> None:
    out.print(text, markup=False)


def warn(text: str) -> None:
    err.print(f"warning: {text}", markup=False, style="yellow")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    grid = Table(title=title, title_justify="left")
    for column in columns:
        grid.add_column(column, overflow="fold")  # a path that is cut off cannot be found
    for row in rows:
        grid.add_row(*(escape(str(cell)) for cell in row))
    out.print(grid)


def done(result: Path, next_command: str | None = None) -> None:
    """Every verb ends here: where the result is, and which command comes next."""
    say(f"Result: {result}")
    if next_command:
        say(f"Next:   {next_command}")
