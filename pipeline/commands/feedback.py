"""`python -m pipeline add-feedback`: what a gateway kept becomes part of the dataset folder that the next run trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.exit_code import FAILED

StateOption = Annotated[Path, typer.Option("--state", help="The gateway's folder: feedback and added items.")]
DataOption = Annotated[Path, typer.Option("--data", help="Dataset folder; each of its files is replaced whole or not at all.")]


def add_feedback(state: StateOption = Path("runs/demo/gateway"), data: DataOption = Path("runs/world")) -> None:
    """Merge a gateway's feedback files, and add its events and its new items to a dataset folder.

    It may run while the gateway does, and again: nothing is added twice, and what the dataset says of an item since its
    change came over stays.

    Exit codes: 0; 2 a wrong command line, or no dataset folder; 13 the disk refused, to be started again.

    Example: python -m pipeline add-feedback --state runs/demo/gateway --data runs/world
    """
    from data.catalogue import FILE
    from data.durable_file import WriteError
    from serving.catalogue.live_items_dataset import add_items
    from serving.feedback.compact import add_feedback as add_events

    try:
        # Items first: an event of an item that the catalogue lacks would be set aside by the ingest.
        if (data / FILE).is_file():
            items = add_items(state / "items", data)
            typer.echo(f"items: {items['changed']:,} changed, {items['added']:,} added, {items['after']:,} in all")
        events = add_events(state / "feedback", data)
        typer.echo(f"events: {events['added']:,} added, {events['after']:,} in all")
    except (WriteError, OSError) as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(FAILED) from None
