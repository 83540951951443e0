"""`python -m pipeline tune`: a search of settings over what is ingested and encoded already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    data: Annotated[Path, typer.Option("--data", help="Dataset folder that the run was made from.")] = Path("runs/world"),
    out: Annotated[Path, typer.Option("--out", help="Run folder with `ingest` and `encode` in it.")] = Path("runs/demo"),
    config: Annotated[Path | None, typer.Option("--config", help="TOML file of the settings to start from.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one setting. May be repeated.")] = None,
    space: Annotated[Path, typer.Option("--space", help="TOML file of what is searched.")] = Path(
        "configs/spaces/retrieval.toml"
    ),
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials in all, over every run of this search.")] = 20,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1.0, help="Seconds after which no further trial starts.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Of the search: its folder is <out>/tune/<name>.")] = "retrieval",
) -> None:
    """Search settings of the two towers on the validation split; started again, it goes on.

    Writes best.toml (a whole config), trials.csv and search.png into the search's folder.

    Example: python -m pipeline tune --config configs/demo.toml --data runs/world --out runs/demo --trials 30
    """
    from pipeline.cores import share_cores
    from pipeline.progress import progress_bar
    from pipeline.settings.config import load_config
    from pipeline.stages.walk import Run
    from pipeline.tune.space import read_space
    from pipeline.tune.study import Search, tune

    def say(line: str) -> None:
        typer.echo(line, err=True)

    settings = load_config(config, set_ or [])
    share_cores(settings)
    run = Run(data, out, settings, say=say)
    inputs = {stage: run.key(stage) for stage in ("ingest", run.store_stage)}
    search = Search(run.dataset(), run.store(), settings, read_space(space, settings), out / "tune" / name, inputs)
    with progress_bar("tune", single=True) as progress:
        found = tune(search, trials, timeout=timeout, progress=progress, say=say)
    typer.echo(f"{found['trials']} trials, {found['complete']} to the end; the best is trial {found['best_trial']} with")
    typer.echo(f"validation NDCG@20 {found['valid_ndcg@20']:.4f}:")
    for setting, value in found["settings"].items():
        typer.echo(f"  {setting} = {value}")
    typer.echo(f"Train with it: python -m pipeline train-retrieval --config {found['best.toml']} --out {out}")
