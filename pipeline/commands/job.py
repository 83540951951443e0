"""`python -m pipeline job` and `gate`: what a scheduler starts every night, and what it decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.exit_code import telling_failures

OutOption = Annotated[Path, typer.Option("--out", help="Run folder; jobs lie in `jobs/`, releases in `releases/`.")]


def job(
    data: Annotated[Path, typer.Option("--data", help="Dataset folder, with the new events, items and media.")] = Path(
        "runs/world"
    ),
    out: OutOption = Path("runs/demo"),
    config: Annotated[Path | None, typer.Option("--config", help="TOML file of settings; see [job], [checks], [gate].")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, such as --set job.valid_days=14.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train everything from nothing; ids keep their rows.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Check new data, train on from the last release, judge, and publish the next one if the gate allows it.

    May be started twice (the second is told who is at work) and killed at any point (started again, it goes on; on another
    machine once the lock of the one that was killed has ended, `job.lock_seconds` later at most).

    Exit codes: 0 published; 10 kept back by the gate; 11 stopped by the data checks; 12 locked by another job; 13 failed;
    2 a wrong command line; 143 ended by SIGTERM, to be started again. Asked again of the same data, it ends with the same code.

    Example: python -m pipeline job --data runs/world --out runs/demo --config configs/demo.toml
    """
    from pipeline.cores import share_cores
    from pipeline.nightly.lean_imports import import_models_libraries
    from pipeline.settings.config import load_config

    settings = load_config(config, set_ or [])
    share_cores(settings)
    import_models_libraries(settings.encoders.specs().values())

    from pipeline.nightly.beside import begun_early
    from pipeline.nightly.job import EXIT_CODES, run_job
    from pipeline.nightly.termination import ended_by_sigterm

    with telling_failures(), begun_early() as beside, ended_by_sigterm():
        outcome = run_job(data, out, settings, full=full, say=lambda line: typer.echo(line, err=True), beside=beside)
    typer.echo(json.dumps(outcome, indent=2) if json_ else f"{outcome['outcome']}: {outcome['why']}")
    raise typer.Exit(EXIT_CODES[outcome["outcome"]])


def gate(
    out: OutOption = Path("runs/demo"),
    number: Annotated[int | None, typer.Option("--job", help="Number of a job; the newest unless given.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Every bound, what was found, and what is allowed.")] = False,
) -> None:
    """Say what the release gate decided about a job's candidate, and with --explain why.

    Example: python -m pipeline gate --explain --out runs/demo
    """
    from pipeline.nightly.job import gate_lines

    lines = gate_lines(out, number)
    for line in lines if explain else [line for line in lines[1:2] or lines[:1]]:
        typer.echo(line)
