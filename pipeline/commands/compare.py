"""`python -m pipeline compare`: whether one run is better than another, or luckier with these users."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder, or one of its releases.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder, or one of its releases.")],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Only this one. May be repeated; every shared one unless given."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Compare two evaluated runs user by user on the test split: difference, interval, p-value.

    Both must have been judged on the same data. Intervals are paired bootstrap ones over users, p-values those of random
    signs; Holm's are safe to read across the whole table.

    Example: python -m pipeline compare runs/demo runs/other --metric ranked_ndcg@10
    """
    from pipeline.evaluation.compare import compare_runs, read_judged

    found = compare_runs(read_judged(first), read_judged(second), tuple(metric or ()))
    if json_:
        typer.echo(json.dumps([dataclasses.asdict(line) for line in found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"A = {first}, B = {second}; 95 % intervals over users")
    for name in ("metric", "A", "B", "A − B", "interval", "p", "p (Holm)", "A better", "B better", "users"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for line in found:
        table.add_row(
            line.metric,
            f"{line.first:.4f}",
            f"{line.second:.4f}",
            f"{line.difference:+.4f}",
            f"[{line.low:+.4f}, {line.high:+.4f}]",
            f"{line.p_value:.4f}",
            f"{line.p_adjusted:.4f}",
            f"{line.wins:,}",
            f"{line.losses:,}",
            f"{line.users:,}",
        )
    Console(width=None if Console().is_terminal else 160).print(table)
