"""`python -m pipeline convert`: another format becomes a dataset folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Option("--source", help="Folder of the other format.")],
    out: Annotated[Path, typer.Option("--out", help="Dataset folder to write; must not exist yet.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="movielens (.dat, .csv or 100k), mmrec (.inter + .npy), or table (any CSV or Parquet log)."
        ),
    ] = "table",
    interactions: Annotated[str, typer.Option(help="table: file of the log.")] = "interactions.parquet",
    items: Annotated[str | None, typer.Option(help="table: file of the catalogue.")] = None,
    users: Annotated[str | None, typer.Option(help="table: file of the profiles.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="table: ours=theirs for the log, items.ours=theirs, users.ours=theirs.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="table: the log's column with a published split (0, 1, 2).")] = None,
    event: Annotated[str | None, typer.Option(help="table: the kind of every event, where the log has none.")] = None,
    media: Annotated[list[str] | None, typer.Option(help="table: image=posters/{item_id}.jpg and the like.")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="table: ready-made vectors, audio=vectors.npy:ids.npy (without ids, row k is item k)."),
    ] = None,
    catalogue: Annotated[str, typer.Option(help="table: all items, or only those with events.")] = "all",
    split_code: Annotated[
        list[str] | None, typer.Option(help="table: codes of --split, such as train=0 valid=1 test=2 (the default).")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="table: of CSV files.")] = ",",
    encoding: Annotated[str, typer.Option(help="table: of CSV files.")] = "utf-8",
) -> None:
    """Convert another format into a dataset folder, whole or not at all.

    Example: python -m pipeline convert --format movielens --source ml-1m --out runs/ml1m-data
    """
    from data.readers_mmrec import convert_mmrec
    from data.readers_movielens import convert_movielens
    from data.readers_table import TableOptions, convert_table, parse_columns, parse_pairs
    from pipeline.stage import StageError, publish

    if out.exists() and any(out.iterdir()):
        raise StageError(f"--out: {out} is not empty; choose another folder.")
    writing = out.with_name(f".writing-{out.name}")
    shutil.rmtree(writing, ignore_errors=True)
    if format_ == "movielens":
        conversion = convert_movielens(source, writing)
    elif format_ == "mmrec":
        conversion = convert_mmrec(source, writing)
    elif format_ == "table":
        options = TableOptions(
            interactions=interactions,
            items=items,
            users=users,
            columns=parse_columns(column or []),
            split=split,
            event=event,
            media=parse_pairs("media", media or []),
            features=parse_pairs("features", features or []),
            catalogue=catalogue,
            delimiter=delimiter,
            encoding=encoding,
        )
        if split_code:
            options = dataclasses.replace(options, split_codes=parse_pairs("split-code", split_code))
        conversion = convert_table(source, writing, options)
    else:
        raise StageError(f"--format: must be movielens, mmrec or table, received {format_!r}.")
    if not conversion.counts.get("interactions"):
        left = "; ".join(f"{count:,} {reason}" for reason, count in conversion.left_out.items()) or "the log is empty"
        raise StageError(f"{source}: no interaction is left ({left}). See --column, --split and --split-code in `--help`.")
    publish(writing, out)
    typer.echo(f"{out}: " + ", ".join(f"{count:,} {name}" for name, count in conversion.counts.items()))
    for reason, count in conversion.left_out.items():
        typer.echo(f"  left out: {count:,} {reason}")
