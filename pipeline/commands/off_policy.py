"""`python -m pipeline off-policy`: what a run's ranked pages would have earned, from the log's propensities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def off_policy(
    run: Annotated[Path, typer.Option("--run", help="Run folder with `ranking` in it.")] = Path("runs/demo"),
    reward: Annotated[
        Literal["click", "like", "purchase"], typer.Option("--reward", help="What a shown item may earn.")
    ] = "click",
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Items a page; the log's own average unless given.")
    ] = None,
    clip: Annotated[float, typer.Option("--clip", min=0.0, help="Largest importance weight; 0 = none.")] = 50.0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Estimate what pages of the ranker's first items would have earned in the test split, and pages of the index's.

    Needs a log with a column `propensity`, the probability with which each item was on its page, or `place_propensity` and
    `position`, that of having been chosen for its place given the items above it, as feedback has them.

    Example: python -m pipeline off-policy --run runs/demo --reward purchase --size 5
    """
    from data.dataset import Dataset
    from pipeline.policy.off_policy_stage import estimate_off_policy
    from pipeline.ranker.lists import retrieve_fold
    from pipeline.ranker.rank_requests import answer_fold
    from pipeline.ranker.request_quality import judged_requests
    from pipeline.ranker.retrieval_side import RetrievalSide
    from pipeline.stage import StageError, read_manifest
    from ranking.serving_form import RankingServingForm

    for stage in ("ingest", "index", "ranking"):
        if read_manifest(run / stage) is None:
            raise StageError(f"--run: {run / stage} is not there; run `python -m pipeline run --out {run}` first.")
    dataset, form = Dataset.load(run / "ingest"), RankingServingForm.load(run / "ranking" / "serving_form")
    side = RetrievalSide(dataset, run, (read_manifest(run / "index") or {})["config"]["kind"])
    judged = read_manifest(run / "evaluate") or {"config": {"mask_splits": ["train", "valid"]}}
    fold = retrieve_fold(
        dataset,
        "test",
        side.query,
        side.search,
        form.config,
        known_splits=tuple(judged["config"]["mask_splits"]),
        query_history=side.history_length,
    )
    fold = judged_requests(fold)
    found = estimate_off_policy(
        dataset, fold, answer_fold(form, fold), form.spec.heads, reward=reward, size=size, clip=clip or None,
        window_seconds=form.config.request_seconds,
    )  # fmt: skip
    if found is None:
        raise StageError(
            f"--run: the test split of {run} has too few pages whose every event has a propensity (of a user's visits within "
            f"{form.config.request_seconds:,} seconds the first page counts). Add to interactions.parquet "
            "`propensity` (probability of having been on the page, above 0 and at most 1), or `position` and "
            "`place_propensity` (of having been chosen for it, given those above) for every item of a page, and ingest again."
        )
    typer.echo(json.dumps(found, indent=2)) if json_ else _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    clip = "no weight clipped" if found["clip"] is None else f"weights clipped at {found['clip']:g}"
    table = Table(
        title=f"{found['reward']}s a page of {found['size']} items; {found['pages']:,} pages, "
        f"{found['impressions']:,} impressions, {clip}; 95 % intervals over users"
    )
    for name in ("policy", "estimator", "value", "interval", "weight a page", "effective impressions", "clipped away"):
        table.add_column(name, justify="left" if name in ("policy", "estimator") else "right")
    table.add_row("the log's own", "mean", f"{found['logged']:.4f}", *[""] * 4)
    for policy, kinds in found["policies"].items():
        for kind, figures in kinds.items():
            bounds = f"[{figures['low']:.4f}, {figures['high']:.4f}]"
            effective, clipped = f"{figures['effective_actions']:,.0f}", f"{100 * figures['clipped']:.1f} %"
            weight = f"{figures['weight']:.2f}"
            table.add_row(policy, kind.upper(), f"{figures['value']:.4f}", bounds, weight, effective, clipped)
    for kind, (gap, low, high) in found["difference"].items():
        name = " less ".join(found["policies"])
        table.add_row(name, kind.upper(), f"{gap:+.4f}", f"[{low:+.4f}, {high:+.4f}]", *[""] * 3)
    Console(width=None if Console().is_terminal else 140).print(table)
    if found["later_impressions"]:
        typer.echo(f"Of each visit the first page counts; {found['later_impressions']:,} impressions of later ones do not.")
    typer.echo(
        f"A weight a page far below {found['size']} says that the log hardly ever shows what the policy would: then IPS is "
        "too low, SNIPS speaks of the rest, and DR leans on the ranker's own predictions."
    )
