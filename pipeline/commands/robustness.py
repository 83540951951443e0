"""`python -m pipeline robustness`: what deceptive content and fake users do to a finished run, and what defences do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands.own_settings import own_settings

CODE = ("content_attack", "content_defences", "full_path", "media_attack", "nightly_update", "poisoned_log", "ranker_attack",
        "stage", "shilling_attack", "shilling_update", "target_exposure")  # fmt: skip
"""What of this room the figures depend on."""


def robustness(
    data: Annotated[Path, typer.Option("--data", help="Dataset folder, for media.")] = Path("runs/world"),
    out: Annotated[
        Path, typer.Option("--out", help="Run folder, finished up to train-linear; for final lists, to train-ranking.")
    ] = Path("runs/demo"),
    config: Annotated[Path | None, typer.Option("--config", help="TOML file of settings; the run's own without it.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, such as --set robustness.users=50.")
    ] = None,
) -> None:
    """Attack what a run serves, by content and files (FGSM, PGD) and by fake users, before and after the defences; see
    [robustness].

    Writes `robustness/robustness.json` into the run folder, which `python -m pipeline report` then shows.

    Example: python -m pipeline robustness --data runs/world --out runs/demo
    """
    from pipeline.progress import progress_bar
    from pipeline.robustness.stage import measure_robustness
    from pipeline.settings.config import load_config
    from pipeline.stage import code_fingerprint, read_manifest
    from pipeline.stages.walk import Run

    run = Run(data, out, load_config(own_settings(out, config), set_ or []), say=lambda line: typer.echo(line, err=True))

    def work(folder: Path, checkpoints: Path) -> dict[str, Any]:
        with progress_bar("robustness") as progress:
            measure_robustness(
                run.dataset(), run.store(), data, out, folder, checkpoints / "trained", run.config, progress, run.say
            )
        return {}

    run.run(
        "robustness",
        work,
        {**run.config.robustness.model_dump(), "job": run.config.job.model_dump()},
        {
            "served": run.key("served/full"),
            "linear": run.key("linear/full"),
            "ranking": (read_manifest(out / "ranking") or {"key": "none"})["key"],
            "code": code_fingerprint("data", "ranking", "towers", *(f"pipeline/robustness/{name}.py" for name in CODE)),
        },
    )
