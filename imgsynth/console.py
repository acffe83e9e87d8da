"""Talking to the person at the terminal: progress that is quiet elsewhere, tables, results and next commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_shown: Progress | None = None  # on the screen: there is one at a time, of as many lines as loops within loops


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """A progress bar on standard error; silent when that is not a terminal. Within another it is a second line."""
    with _bar() as bar:
        task = bar.add_task(escape(what), total=len(items) if total is None and isinstance(items, Sized) else total)
        for item in items:
            yield item
            bar.advance(task)
        bar.remove_task(task)


def each(items: Sequence[T], what: str) -> Iterator[T]:
    """``track`` that names the item at work: attacks, say, of which one may take minutes and the next a second."""
    with _bar() as bar:
        task = bar.add_task(escape(what), total=len(items))
        for item in items:
            bar.update(task, description=escape(f"{what}: {item}"), refresh=True)
            yield item
            bar.advance(task)
        bar.remove_task(task)


@contextmanager
def _bar() -> Iterator[Progress]:
    """The bar that is on the screen, or a new one."""
    global _shown
    if _shown is not None:
        yield _shown
        return
    with Progress(console=err, disable=not err.is_terminal, transient=True) as bar:
        _shown = bar
        try:
            yield bar
        finally:
            _shown = None


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
