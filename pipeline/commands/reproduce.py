"""`python -m pipeline reproduce`: a finished run once more, and whether it comes out the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that `run` or `demo` has finished.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the new run; `<RUN>-again` unless given.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the dataset folder lies now, if it has moved.")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Go on although data or code have changed.")] = False,
) -> None:
    """Run again from a run's own settings, and compare every stage and the release, byte by byte.

    Data and code must be what they were; files that differ are named. On one machine everything comes out the same but
    measured times. Ends with status 1 if something differs. A release that is gone meanwhile is told, and not compared.

    Example: python -m pipeline reproduce runs/demo
    """
    from pipeline.reproduce import SHOWN
    from pipeline.reproduce import reproduce as make_again
    from pipeline.stages.walk import Run

    out = out or run.with_name(f"{run.resolve().name}-again")
    found = make_again(
        run,
        out,
        lambda source, folder, config: Run(
            source, folder, config, say=lambda line: typer.echo(line, err=True)
        ).all(),
        source=data,
        anyway=anyway,
        say=lambda line: typer.echo(line, err=True),
    )
    for note in found.notes:
        typer.echo(f"note: {note}")
    for name, files in {**found.stages, **({} if found.gone else {"release": found.release})}.items():
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        typer.echo(f"{name}: " + (f"differs in {', '.join(files[:SHOWN])}{more}" if files else "equal"))
    for name in found.left_out:
        typer.echo(f"{name}: not made again, these settings do not make it")
    if found.gone:
        typer.echo(f"release: not compared ({found.gone})")
    then, now = (fingerprint[:12] for fingerprint in found.fingerprints)
    if not found.equal:
        typer.echo(f"{out} differs from {run}: release {now}, was {then}")
        raise typer.Exit(1)
    if found.gone and now != then:
        typer.echo(f"{out} equals {run} in every stage")
        return
    typer.echo(f"{out} equals {run}: release {now}" + ("" if now == then else f", the models of {then} under another number"))
