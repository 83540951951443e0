"""The index and `recommend` through the local server, in a process of its own: how much it bears, and how fast it answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve_load import Ask, at_most, open_loop
from benchmarks.serve_recommend import PAGE, RECOMMENDS, RecommendWorld
from benchmarks.serve_sessions import running_server
from serving.client.model_client import ModelClient
from serving.client.recommender import Recommender
from serving.releases.models_config import ModelEntry, write_models_config

SEARCH_RATE, RECOMMEND_RATE = 100.0, 75.0
"""Requests a second of the open loops."""
WORKERS = 4
WARM = 50


def measure_served(
    folder: Path, queries: np.ndarray, world: RecommendWorld, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Figures of `partitioned` and every way of asking `recommend`, by name: requests a second under a full load, and an
    open loop.

    Args:
        folder: holds `partitioned/1` and `recommend/1`. queries: f32 [Q, D] for the index.
        options: k, rate (None = the rates above) and seconds.
    """
    entries = [ModelEntry(name, versions=(1,)) for name in ("partitioned", "recommend")]
    config = write_models_config(folder / "models.config", entries, root=folder)
    figures: dict[str, dict[str, Any]] = {}
    with running_server(config, "recommend") as client:
        asks: dict[str, Ask] = {"partitioned": searching(client, queries, options.k)}
        asks |= {name: recommending(client, world, options.k, policy) for name, policy in RECOMMENDS.items()}
        for name, ask in asks.items():
            for number in range(WARM):
                ask(number)
            rate = options.rate or (SEARCH_RATE if name == "partitioned" else RECOMMEND_RATE)
            figures[name] = {
                "requests_per_second": at_most(ask, options.seconds, WORKERS),
                "open_loop": open_loop(ask, rate, options.seconds, workers=2 * WORKERS),
            }
    return figures


def searching(client: ModelClient, queries: np.ndarray, k: int) -> Callable[[int], object]:
    """Searches query n of the index."""
    nothing = np.zeros((1, 0), np.int32)

    def ask(number: int) -> object:
        inputs = {"queries": queries[number % len(queries)][None], "k": np.array(k, np.int32), "excluded": nothing}
        return client.predict("partitioned", inputs, signature_name="search")

    return ask


def recommending(
    client: ModelClient, world: RecommendWorld, candidates: int, policy: dict[str, float] | None
) -> Callable[[int], object]:
    """Recommends as an application does: ids and lists in, ranked items out."""
    recommender = Recommender(client, deadline=30)

    def ask(number: int) -> object:
        user, excluded = world.ids(number)
        return recommender.recommend(user, k=PAGE, candidates=candidates, exclude_item_ids=excluded, policy=policy)

    return ask
