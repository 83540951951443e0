"""`python -m pipeline features`: what the content store holds, whether it is whole, and clearing it up."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.stage import StageError

if TYPE_CHECKING:
    from data.content_upkeep import Collected, EncoderStats

features_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The content store that runs share: every vector ever encoded, filed under its content and its encoder.",
)

StoreOption = Annotated[
    Path, typer.Option("--store", help="Folder of the store: `encoders.store`, or `feature-store` beside the run folder.")
]
RunOption = Annotated[list[Path] | None, typer.Option("--run", help="A run folder, or a folder of runs. May be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
DEFAULT_STORE = Path("runs/feature-store")


@features_app.command()
def stats(store: StoreOption = DEFAULT_STORE, json_: JsonOption = False) -> None:
    """Count vectors, bytes and shards of every encoder.

    Reads headers and keys only, so that it is quick on a large store too.

    Example: python -m pipeline features stats --store runs/feature-store
    """
    from data.content_upkeep import store_stats

    found = store_stats(store)
    if json_:
        typer.echo(json.dumps([_as_json(entry) for entry in found], indent=2, ensure_ascii=False))
        return
    _print_table(
        ("modality", "encoder", "fingerprint", "width", "vectors", "MB", "shards", "duplicates", "fp16 loss", "damaged"),
        [
            (
                entry.encoder.modality,
                entry.encoder.name,
                entry.encoder.fingerprint,
                f"{entry.encoder.width:,}",
                f"{entry.vectors:,}",
                f"{entry.bytes / 1e6:,.1f}",
                f"{entry.shards:,}",
                f"{entry.duplicates:,}",
                f"{entry.cosine_loss:.1e}",
                f"{entry.damaged:,}",
            )
            for entry in found
        ],
    )
    vectors, size = sum(entry.vectors for entry in found), sum(entry.bytes for entry in found)
    encoders = "1 encoder" if len(found) == 1 else f"{len(found)} encoders"
    typer.echo(f"{store}: {vectors:,} vectors of {encoders} in {size / 1e6:,.1f} MB")


@features_app.command()
def verify(store: StoreOption = DEFAULT_STORE, run: RunOption = None) -> None:
    """Hash every shard again; exit code 1 when one is damaged.

    With --run the tables of those runs as well. Changes nothing.

    Example: python -m pipeline features verify --store runs/feature-store --run runs/demo
    """
    from data.content_upkeep import verify_store
    from data.features import FeatureStore
    from pipeline.progress import progress_bar

    with progress_bar("verify") as progress:
        result = verify_store(store, progress)
    for message in result.faults.values():
        typer.echo(f"damaged: {message}")
    for path in result.set_aside:
        typer.echo(f"set aside earlier: {path} (`features gc` removes it)")
    damaged = len(result.faults)
    for folder in tables_of(run or []):
        try:
            FeatureStore.open(folder, thorough=True)
            typer.echo(f"{folder}: whole")
        except ValueError as error:
            typer.echo(f"damaged: {error}")
            damaged += 1
    typer.echo(f"{store}: {result.shards:,} shards, {result.bytes / 1e6:,.1f} MB whole, {len(result.faults)} damaged")
    if damaged:
        typer.echo(
            "Run `python -m pipeline encode` again: damaged shards are set aside and their items, and no others, are "
            "encoded again. `python -m pipeline features gc` then removes what was set aside."
        )
        raise typer.Exit(1)


@features_app.command()
def gc(
    store: StoreOption = DEFAULT_STORE,
    run: RunOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json_: JsonOption = False,
) -> None:
    """Remove leftovers, damaged shards and unused vectors.

    Leftovers are what killed runs did not finish. Vectors go only with --run: those that none of these runs uses.

    The rest is then written anew in few large shards; a run that is not named loses nothing but time: what it
    needs again is encoded again. No run may be using the store meanwhile.

    Example: python -m pipeline features gc --store runs/feature-store --run runs/demo --run runs/shop --dry-run
    """
    from data.content_key import read_content_keys
    from data.content_upkeep import collect_garbage
    from pipeline.progress import progress_bar

    with _told(), progress_bar("gc") as progress:
        live = read_content_keys(run) if run else None
        collected = collect_garbage(store, live, dry_run=dry_run, progress=progress)
    if json_:
        typer.echo(json.dumps([_as_json(entry) for entry in collected], indent=2, ensure_ascii=False))
        return
    _print_table(
        ("folder", "vectors kept", "dropped", "shards", "files removed", "MB freed"),
        [
            (
                entry.folder.name,
                f"{entry.vectors_kept:,}",
                f"{entry.vectors_dropped:,}",
                f"{entry.shards_before:,} → {entry.shards_after:,}",
                f"{entry.files:,}",
                f"{entry.freed / 1e6:,.1f}",
            )
            for entry in collected
        ],
    )
    freed = sum(entry.freed for entry in collected) / 1e6
    typer.echo(f"{store}: {freed:,.1f} MB {'would be freed; nothing was changed' if dry_run else 'freed'}")


def tables_of(runs: list[Path]) -> list[Path]:
    """The folders of assembled tables in run folders.

    Raises:
        FileNotFoundError: a run without any.
    """
    folders = []
    for run in runs:
        inside = sorted(path.parent for path in run.rglob("widths.json"))
        if not inside:
            raise FileNotFoundError(f"run: {run} must hold a feature store (widths.json); run `encode`")
        folders += inside
    return folders


def _as_json(entry: EncoderStats | Collected) -> dict[str, Any]:
    content = dataclasses.asdict(entry)
    return {**content, "folder": str(entry.folder)}


def _print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table on standard output; in a pipe its lines are as long as they need to be."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    for column, first in zip(table.columns, rows[0] if rows else (), strict=False):
        column.no_wrap = True
        column.justify = "right" if first.replace(",", "")[:1].isdigit() and len(first) < 16 else "left"
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, markup=False, highlight=False)
    console.print(table)


@contextmanager
def _told() -> Iterator[None]:
    """What the store refuses is a message of the command line, not a traceback."""
    from data.durable_file import WriteError

    try:
        yield
    except WriteError as error:
        raise StageError(str(error)) from error
