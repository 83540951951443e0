"""One progress bar at a time, on standard error, with speed and time left; silent where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class SpeedColumn(ProgressColumn):
    """Things done a second, over the last minutes."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s" if speed < 100 else f"{speed:,.0f}/s")


@contextmanager
def progress_bar(
    stage: str, *, single: bool = False, console: Console | None = None
) -> Iterator[Callable[[str, int, int], None]]:
    """Yield `progress(what, done, total)`; the bar disappears when the stage ends.

    Args:
        stage: what stands before the bar.
        single: one bar, whose label is what was named last; it starts again where the total changes or less is done
            than before. Otherwise each `what` has a bar of its own.
        console: where it is drawn; standard error by default.

    Example:
        >>> with progress_bar("encode") as progress:
        ...     progress("text", 1, 2)
    """
    columns = (
        TextColumn("  {task.fields[stage]} {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = console or Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, speed_estimate_period=120
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            name = "" if single else what
            if single and name in tasks:
                task = bar.tasks[0]
                if total != task.total or done < task.completed:
                    bar.remove_task(tasks.pop(name))
            if name not in tasks:
                tasks[name] = bar.add_task(what, total=total, stage=stage)
            bar.update(tasks[name], description=what, completed=done, total=total)

        yield progress
