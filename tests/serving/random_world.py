"""An ensemble and a ranker with random weights over the same users and items."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from data.schema import Schema
from ranking.serving_form import RankingServingForm
from serving.graphs.request_history import ServingTables
from tests.ranking.worlds import SMALL, planted_world
from towers.config import TowerConfig
from towers.ensemble import Ensemble
from towers.linear import LinearTower, whiten
from towers.two_tower import TwoTower

LENGTH, WIDTH = 6, 16
WORDS = {"device": ("", "tv", "phone")}


@dataclasses.dataclass
class World:
    tables: ServingTables
    ensemble: Ensemble
    form: RankingServingForm


def random_world(
    folder: Path,
    users: int,
    items: int,
    seed: int = 0,
    mixture: tuple[float, float] = (0.7, 0.4),
    score: tuple[dict[str, float], float] = ({"click": 1.0}, 0.02),
    calibrations: dict | None = None,
) -> World:
    """Writes vocabularies into a folder, `u1`, ... and `i1`, ..., and draws everything else."""
    rng = np.random.default_rng(seed)
    planted = planted_world(requests=users, items=items)
    known = dataclasses.replace(planted.spec.schema, context={name: len(words) for name, words in WORDS.items()})
    # The words of an item's attributes grow from night to night as well; how many domains there are is another matter.
    words = {name: count + seed * (name != "domain") for name, count in known.attributes.items()}
    known = dataclasses.replace(known, attributes=words)
    planted = dataclasses.replace(
        planted, spec=dataclasses.replace(planted.spec, schema=known, score_center=0.1 * seed)
    )
    # And a night is fitted otherwise than the full training before it.
    fitted = {"calibration_share": 0.2 + 0.1 * seed, "catch_up_epochs": 3 - seed, "catch_up_rate": 0.5 - 0.2 * seed}
    ranker = planted.ranker(dataclasses.replace(SMALL, **fitted))
    for weight in ranker.trainable_variables:
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    (folder / "users.txt").write_text("\n" + "".join(f"u{row}\n" for row in range(1, users + 1)))
    (folder / "items.txt").write_text("\n" + "".join(f"i{row}\n" for row in range(1, items + 1)))
    history = np.concatenate([np.zeros((1, LENGTH), np.int32), planted.history])
    offsets = np.concatenate([[0], np.arange(users + 1) * LENGTH]).astype(np.int64)
    seen = (offsets, history[1:].ravel())
    profile = np.zeros((users + 1, 1), np.int32)
    tables = ServingTables(folder / "users.txt", folder / "items.txt", profile, history, *seen, chosen=seen)
    two_tower = TwoTower(
        Schema(users + 1, items + 1, {"age": 4}, {}, {"image": 4}), TowerConfig(WIDTH, history_length=LENGTH)
    )
    parts = rng.normal(size=(2, items + 1, 24)).astype(np.float32)
    parts[:, 0] = 0.0
    vectors = rng.normal(size=(items + 1, WIDTH)).astype(np.float32)
    vectors[0] = 0.0
    ensemble = Ensemble(two_tower, vectors, whiten(LinearTower(parts[0], parts[1])), None, mixture)
    form = RankingServingForm.from_ranker(ranker, calibrations, *score)
    return World(tables, ensemble, form)
