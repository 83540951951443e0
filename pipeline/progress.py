"""One progress bar at a time, on standard error, with speed and time left; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(stage: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield `progress(what, done, total)`; the bar disappears when the stage ends.

    Example:
        >>> with progress_bar("encode") as progress:
        ...     progress("text", 1, 2)
    """
    columns = (
        TextColumn("  {task.fields[stage]} {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, stage=stage)
            bar.update(tasks[what], completed=done, total=total)

        yield progress
