"""The progress bar of training. It shows steps and ε, both public; nothing that was measured on a patient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from imgsynth import console


class Advance(Protocol):
    def __call__(self, step: int, epsilon: float | None) -> None: ...


@contextmanager
def training_bar(steps: int) -> Iterator[Advance]:
    """Yield ``advance(step, epsilon)``; epsilon None is ∞. Silent when standard error is not a terminal."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[epsilon]}"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console.err, disable=not console.err.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("training", total=steps, epsilon="")

        def advance(step: int, epsilon: float | None) -> None:
            bar.update(task, completed=step, epsilon="ε = ∞" if epsilon is None else f"ε = {epsilon:.3g}")

        yield advance
