"""The command line: `python -m pipeline --help`. The only place besides the servers that parses arguments."""

from __future__ import annotations

import os

# Both must be set before TensorFlow's first import: TFRS needs Keras 2 behind tf.keras, and its log is not ours to
# print.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.compare import compare
from pipeline.commands.convert import convert
from pipeline.commands.deploy import deploy
from pipeline.commands.features import features_app
from pipeline.commands.feedback import add_feedback
from pipeline.commands.follow import follow
from pipeline.commands.job import gate, job
from pipeline.commands.off_policy import off_policy
from pipeline.commands.privacy import forget_user, pseudonym
from pipeline.commands.release import release_app
from pipeline.commands.reproduce import reproduce
from pipeline.commands.robustness import robustness
from pipeline.commands.tune import tune
from pipeline.settings.config import Config, ConfigError, load_config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Triptych: raw media in, ranked items out. `run` walks every stage; each stage is also a command of its own.",
)
app.add_typer(features_app, name="features")
app.add_typer(release_app, name="release")
app.command("add-feedback")(add_feedback)
app.command()(compare)
app.command()(convert)
app.command()(deploy)
app.command()(follow)
app.command("forget-user")(forget_user)
app.command()(gate)
app.command()(job)
app.command("off-policy")(off_policy)
app.command()(pseudonym)
app.command()(reproduce)
app.command()(robustness)
app.command()(tune)

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
    from pipeline.cores import share_cores
    from pipeline.stages.walk import Run

    chosen = settings(config, overrides)
    share_cores(chosen)
    return Run(data, out, chosen, say=lambda line: typer.echo(line, err=True))


def settings(config: Path | None, overrides: list[str] | None) -> Config:
    return load_config(config, overrides or [])


@app.command()
def world(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist yet.")] = DEFAULT_DATA,
    kind: Annotated[
        Literal["music", "shop", "video"],
        typer.Option(help="A record shop (the demo), a shop of goods with photos and reviews, or a feed of short videos."),
    ] = "music",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 7,
    items: Annotated[
        int | None, typer.Option(help="Tracks, goods or videos; 1,500, 900 and 600 unless said otherwise.")
    ] = None,
    users: Annotated[int | None, typer.Option(help="People; 2,500, 1,500 and 1,200.")] = None,
    events: Annotated[int | None, typer.Option(help="Views, likes, purchases, skips; 120,000, 60,000 and 48,000.")] = None,
) -> None:
    """Generate a world with media, customers and a known truth: a record shop, a shop of goods, or a feed of videos.

    Example: python -m pipeline world --kind shop --seed 7 --out runs/shop-world
    """
    from data.world import generate_world, world_config
    from pipeline.progress import progress_bar

    try:
        settings_of_world = world_config(kind, seed=seed, items=items, users=users, events=events)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with progress_bar("world") as progress:
        counts = generate_world(out, settings_of_world, progress)
    typer.echo(
        f"{out}: "
        + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if isinstance(value, int))
    )


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
_stage_command("enrich", "enrich", "Let a language model write about items whose own text is weak (settings: [enrich]).")
_stage_command("encode", "encode", "Turn texts, pictures, sound and video into feature vectors.")
_stage_command(
    "finetune",
    "finetune",
    "Train encoders inside the item tower (encoders.<modality>.train) and fill the features again.",
)
_stage_command(
    "train-retrieval",
    "train_retrieval",
    "Train the user and the item tower (and the variants that the report compares).",
)
_stage_command(
    "train-linear",
    "train_linear",
    "Fit the linear towers over whole histories, and weigh them against the two towers on validation.",
)
_stage_command("train-search", "train_search", "Train the tower from typed questions to items, on the catalogue's words.")
_stage_command("index", "index", "Build the indexes, measure what each costs and finds, and choose the one that answers.")
_stage_command(
    "train-ranking",
    "train_ranking",
    "Train and calibrate the ranking model on impressions and on candidates of the index.",
)
_stage_command("choose-policy", "choose_policy", "Choose the re-ranking that a release starts from, on validation.")
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
def search(
    query: Annotated[str, typer.Option("--query", help="What to look for, in any language the text encoder reads.")],
    out: OutOption = DEFAULT_OUT,
    k: Annotated[int, typer.Option(help="How many items.")] = 10,
) -> None:
    """Ask the newest release's `search` signature one question.

    Example: python -m pipeline search --query "slow piano at night" --out runs/demo
    """
    from pipeline.retrieval.search_stage import search_run

    for place, found in enumerate(search_run(out, query, k), start=1):
        typer.echo(f"{place:3d}  {found.score:7.3f}  {found.item_id}  {found.title}  {found.description[:60]}")


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
    from data.durable_file import WriteError
    from pipeline.allocation import collect_garbage_seldom, keep_freed_memory
    from pipeline.ranker.leak_checks import LeakError
    from pipeline.stage import StageError
    from serving.releases.manifest import ReleaseError

    keep_freed_memory()
    collect_garbage_seldom()
    try:
        app()
    except (
        ConfigError, StageError, DatasetError, LeakError, ReleaseError, WriteError, FileNotFoundError, FileExistsError
    ) as error:  # fmt: skip
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
