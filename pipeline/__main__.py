"""The command line: `python -m pipeline --help`. The only place besides the servers that parses arguments."""

from __future__ import annotations

import os

# Both must be set before TensorFlow's first import: TFRS needs Keras 2 behind tf.keras, and its log is not ours to
# print.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import Config, ConfigError, load_config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Triptych: raw media in, ranked items out. `run` walks every stage; each stage is also a command of its own.",
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file of settings; configs/demo.toml is an example. Without it every setting has its default.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one setting, such as --set retrieval.epochs=3. May be repeated."),
]
DataOption = Annotated[
    Path, typer.Option("--data", help="Dataset folder (interactions.parquet, items.parquet, media/ ...).")
]
OutOption = Annotated[Path, typer.Option("--out", help="Run folder: every stage writes its own folder in it.")]
DEFAULT_DATA, DEFAULT_OUT = Path("runs/world"), Path("runs/demo")


def make_run(data: Path, out: Path, config: Path | None, overrides: list[str] | None):
    from pipeline.stages import Run

    return Run(data, out, settings(config, overrides), say=lambda line: typer.echo(line, err=True))


def settings(config: Path | None, overrides: list[str] | None) -> Config:
    return load_config(config, overrides or [])


@app.command()
def world(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist yet.")] = DEFAULT_DATA,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 7,
    items: Annotated[int, typer.Option(help="Tracks in the shop.")] = 1500,
    users: Annotated[int, typer.Option(help="Customers.")] = 2500,
    events: Annotated[int, typer.Option(help="Views, likes, purchases and skips.")] = 120_000,
) -> None:
    """Generate the demo world: a record shop with covers, clips, customers and a known truth.

    Example: python -m pipeline world --seed 7 --out runs/world
    """
    from data.world import WorldConfig, generate_world
    from pipeline.progress import progress_bar

    with progress_bar("world") as progress:
        counts = generate_world(out, WorldConfig(seed=seed, items=items, users=users, events=events), progress)
    typer.echo(
        f"{out}: "
        + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if isinstance(value, int))
    )


@app.command()
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
    publish(writing, out)
    typer.echo(f"{out}: " + ", ".join(f"{count:,} {name}" for name, count in conversion.counts.items()))
    for reason, count in conversion.left_out.items():
        typer.echo(f"  left out: {count:,} {reason}")


@app.command()
def run(
    data: DataOption = DEFAULT_DATA, out: OutOption = DEFAULT_OUT, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Walk every stage from the dataset folder to a release and a report; what is unchanged is skipped.

    Example: python -m pipeline run --data runs/world --out runs/demo --config configs/demo.toml
    """
    make_run(data, out, config, set_).all()


def _stage_command(name: str, method: str, text: str) -> None:
    def command(
        data: DataOption = DEFAULT_DATA,
        out: OutOption = DEFAULT_OUT,
        config: ConfigOption = None,
        set_: SetOption = None,
    ) -> None:
        getattr(make_run(data, out, config, set_), method)()

    command.__doc__ = (
        f"{text}\n\nExample: python -m pipeline {name} --data runs/world --out runs/demo --config configs/demo.toml"
    )
    app.command(name)(command)


_stage_command("ingest", "ingest", "Validate, number and split the events; bad rows go to ingest/quarantine.parquet.")
_stage_command("encode", "encode", "Turn texts, pictures and sound into feature vectors.")
_stage_command(
    "train-retrieval",
    "train_retrieval",
    "Train the user and the item tower (and the variants that the report compares).",
)
_stage_command("index", "index", "Build the exact and the approximate index and measure what approximation costs.")
_stage_command(
    "train-ranking",
    "train_ranking",
    "Train and calibrate the ranking model on impressions and on candidates of the index.",
)
_stage_command("evaluate", "evaluate", "Judge retrieval and ranking on the test split.")
_stage_command("export", "export", "Write the next release: SavedModels for TF Serving under one fingerprint.")
_stage_command("report", "report", "Write report.json and report.html.")


@app.command()
def serve(
    data: DataOption = DEFAULT_DATA,
    out: OutOption = DEFAULT_OUT,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Serve the newest release on the local TF Serving-protocol server, with the gateway and the page, until Ctrl-C.

    Example: python -m pipeline serve --out runs/demo
    """
    from pipeline.demo import serve_release

    serve_release(data, out, settings(config, set_).serving)


@app.command()
def recommend(
    user: Annotated[str, typer.Option("--user", help="User id; one that was never seen is welcome.")],
    out: OutOption = DEFAULT_OUT,
    data: DataOption = DEFAULT_DATA,
    recent: Annotated[
        list[str] | None, typer.Option("--recent", help="Item ids the user chose just now, most recent first.")
    ] = None,
    k: Annotated[int, typer.Option(help="How many items.")] = 10,
) -> None:
    """Start the local server on free ports, answer one request, and stop.

    Example: python -m pipeline recommend --user u00001 --out runs/demo
    """
    from pipeline.demo import answer_requests

    answer_requests(data, out, [(user, tuple(recent or ()))], k=k)


@app.command()
def demo(
    data: DataOption = DEFAULT_DATA,
    out: OutOption = DEFAULT_OUT,
    config: ConfigOption = Path("configs/demo.toml"),
    set_: SetOption = None,
) -> None:
    """The newcomer's walk: make the world, run every stage, start the servers, answer two users, and stop.

    Example: python -m pipeline demo
    """
    from pipeline.demo import run_demo

    if not (data / "interactions.parquet").is_file():
        world(out=data)
    run_demo(make_run(data, out, config, set_))


def main() -> None:
    """Run the command line; what a user can mend is a message, not a traceback."""
    from data.dataset import DatasetError
    from pipeline.stage import StageError

    try:
        app()
    except (ConfigError, StageError, DatasetError, FileNotFoundError, FileExistsError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
