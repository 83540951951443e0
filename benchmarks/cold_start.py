"""A domain without events, and users without a past: what is found for them at once, and after very little.

    python benchmarks/cold_start.py
    python benchmarks/cold_start.py --quick

On a generated shop of two domains, the towers are trained without any event of the second one and recommend its items by
content alone; then they go on, by the job's own warm start, with `--few` events of it. New users are left out of another
training, and asked for by profile alone and after one, two and three first events. Both are held against popularity,
similarity of content, and the same towers trained with everything. Candidates are the domain's items or, for users, the
whole catalogue; asked for is what people wanted in the test days. The two towers answer alone, without the linear tower.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from data.dataset import Dataset, train_counts
from data.features import FeatureStore
from data.histories import Histories
from data.schema import TEST, TRAIN
from data.world import generate_world, world_config
from pipeline.metrics.examples import interactions, positive_histories
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, recall_at_k
from pipeline.metrics.positive_ranks import as_ranked, rank_positives
from pipeline.metrics.top_k import ScoreBlock, dot_product_scores
from pipeline.peers.baselines_content import ContentKNN, ContentPopularity, join_content
from pipeline.retrieval.queries import embed_queries
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import Config, load_config
from pipeline.stages.walk import Run
from pipeline.training.warm import WarmTowers, new_and_replayed
from towers.two_tower import load_two_tower

DEPTH, FIRST = 100, 3
SETTINGS = (
    "data.split=global_time", "encoders.audio=none", "encoders.video=none", "retrieval.epochs=10", "retrieval.user_id=false",
    "job.epochs=8", "job.replay=4",
)  # fmt: skip
KNOWN = ("train", "valid")


@dataclasses.dataclass(frozen=True)
class Question:
    """Users [Q], what they wanted in the test days, what is masked, and which items are candidates (None = all)."""

    users: np.ndarray
    relevant: Interactions
    seen: Interactions
    allowed: np.ndarray | None = None

    def figures(self, scores: ScoreBlock) -> dict[str, float]:
        """Mean over users of recall at 20 and 100."""
        places = rank_positives(scores, np.arange(len(self.users)), self.seen, self.relevant, allowed=self.allowed)
        ranked = as_ranked(places, self.relevant, DEPTH)
        return {f"recall@{k}": round(mean_over_users(recall_at_k(ranked, self.relevant, k)), 4) for k in (20, 100)}


@dataclasses.dataclass(frozen=True)
class FewShot(WarmTowers):
    """A warm start whose new events are those of some items, whenever they happened."""

    new_items: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))

    def positions(self, histories: Histories) -> np.ndarray:
        fresh = self.new_items[histories.items].astype(np.int64)
        return new_and_replayed(fresh, 0, self.section.replay, self.seed)


class Trained:
    """Towers trained on a dataset, as they would be served."""

    def __init__(
        self, dataset: Dataset, store: FeatureStore, config: Config, out: Path, warm: WarmTowers | None = None
    ) -> None:
        out.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as checkpoints:
            train_retrieval(
                dataset, store, out, Path(checkpoints), config.retrieval, modalities=store.modalities,
                progress=lambda *_: None, warm=warm,
            )  # fmt: skip
        self.folder, self.profile = out, dataset.profile
        self.two_tower, self.items = load_two_tower(out), np.load(out / "item_embeddings.npy")

    def scores(self, users: np.ndarray, histories: Histories) -> ScoreBlock:
        """Scores of users with what they chose by then."""
        history = histories.latest(users, self.two_tower.config.history_length)
        queries = embed_queries(self.two_tower, self.items, self.profile, users.astype(np.int32), history)
        return dot_product_scores(queries, self.items)


def keeping(dataset: Dataset, kept: np.ndarray) -> Dataset:
    """The dataset with some of its events, bool [E]."""
    events = dataset.events[kept].reset_index(drop=True)
    return dataclasses.replace(dataset, events=events, counts=train_counts(events, dataset.schema.item_rows))


def wanted_later(dataset: Dataset, items: np.ndarray | None = None, users: np.ndarray | None = None) -> Question:
    """What users wanted in the test days and had not seen before: of some items, or some users' alone (bool by row)."""
    events = dataset.events[dataset.positive & (dataset.events["split"].to_numpy() == TEST)]
    user, item = events["user"].to_numpy(np.int64), events["item"].to_numpy(np.int64)
    seen = interactions(dataset, KNOWN, positive_only=False)
    width = dataset.schema.item_rows
    asked = ~np.isin(user * width + item, seen.users * width + seen.rows)
    asked &= True if items is None else items[item]
    asked &= True if users is None else users[user]
    relevant = Interactions.from_pairs(user[asked], item[asked], dataset.schema.user_rows)
    rows = np.flatnonzero(relevant.counts)
    return Question(rows, relevant.select(rows), seen.select(rows), items)


def tiled(values: np.ndarray) -> ScoreBlock:
    """One score an item, for everybody."""
    return lambda part: np.tile(values.astype(np.float32), (part.stop - part.start, 1))


def content_scores(vectors: np.ndarray, train: Dataset, sets: Interactions) -> ScoreBlock:
    """Content kNN over the items that anybody took; `sets` are the users' own."""
    model = ContentKNN(vectors).fit(interactions(train, ("train",)), train.schema.item_rows - 1)
    return lambda part: model.score(sets.select(np.arange(part.start, part.stop)))


def new_domain(
    dataset: Dataset, store: FeatureStore, config: Config, folder: Path, few: int, full: Trained, domain: str
) -> dict[str, Any]:
    """Zero, few and all events of a domain, its items among themselves."""
    inside = dataset.items["domain"].to_numpy(object) == domain
    item, split = dataset.events["item"].to_numpy(), dataset.events["split"].to_numpy()
    question, vectors = wanted_later(dataset, items=inside), join_content(store, dict.fromkeys(store.modalities, 1.0))
    without = keeping(dataset, ~inside[item] | (split == TEST))
    possible = np.flatnonzero(inside[item] & (split == TRAIN) & dataset.positive)
    drawn = np.random.default_rng(config.retrieval.seed).choice(possible, min(few, len(possible)), replace=False)
    kept = ~inside[item] | (split == TEST)
    kept[drawn] = True
    some = keeping(dataset, kept)
    zero = Trained(without, store, config, folder / "zero")
    warm = FewShot(zero.folder, 0, config.job, config.retrieval.seed, new_items=inside)
    begun = time.perf_counter()
    shot = Trained(some, store, config, folder / "few", warm)
    seconds, lines = time.perf_counter() - begun, {}
    expected = ContentPopularity(vectors).fit(interactions(without, ("train",)), len(inside) - 1).expected
    lines["zero: popularity of items alike"] = question.figures(tiled(expected))
    sets = interactions(without, KNOWN).select(question.users)
    lines["zero: content kNN"] = question.figures(content_scores(vectors, without, sets))
    lines["zero: towers"] = question.figures(zero.scores(question.users, positive_histories(without, KNOWN)))
    lines[f"{few} events: popularity"] = question.figures(tiled(some.counts + 1e-3 * expected))
    sets = interactions(some, KNOWN).select(question.users)
    lines[f"{few} events: content kNN"] = question.figures(content_scores(vectors, some, sets))
    lines[f"{few} events: towers"] = question.figures(shot.scores(question.users, positive_histories(some, KNOWN)))
    lines["all events: popularity"] = question.figures(tiled(dataset.counts))
    lines["all events: towers"] = question.figures(full.scores(question.users, positive_histories(dataset, KNOWN)))
    return {"domain": domain, "items": int(inside.sum()), "users": len(question.users), "few_events": len(drawn),
            "few_seconds": round(seconds, 1), "recall": lines}  # fmt: skip


def new_users(
    dataset: Dataset, store: FeatureStore, config: Config, folder: Path, share: float, full: Trained
) -> dict[str, Any]:
    """Users whom training never saw, after none to three events, in the whole catalogue."""
    rows, rng = np.arange(dataset.schema.user_rows), np.random.default_rng(config.retrieval.seed)
    counts = np.diff(positive_histories(dataset, KNOWN).offsets)
    fresh = (rng.random(len(rows)) < share) & (counts > FIRST)
    without = keeping(dataset, ~fresh[dataset.events["user"].to_numpy()])
    trained, question = Trained(without, store, config, folder / "users"), wanted_later(dataset, users=fresh)
    vectors, all_known = join_content(store, dict.fromkeys(store.modalities, 1.0)), positive_histories(dataset, KNOWN)
    lines = {"popularity": question.figures(tiled(without.counts))}
    for number in range(FIRST + 1):
        first = first_events(all_known, number)
        name = "profile alone" if number == 0 else f"{number} event{'s' * (number > 1)}"
        lines[f"{name}: towers"] = question.figures(trained.scores(question.users, first))
        if number:
            sets = Interactions.from_pairs(first.users, first.items, len(rows)).select(question.users)
            lines[f"{name}: content kNN"] = question.figures(content_scores(vectors, without, sets))
    lines["trained with them, whole history"] = question.figures(full.scores(question.users, all_known))
    return {"users": len(question.users), "items": dataset.schema.item_rows - 1, "recall": lines}


def first_events(histories: Histories, number: int) -> Histories:
    """The first `number` positive events of every user."""
    place = np.arange(len(histories.items)) - histories.offsets[histories.users]
    kept = place < number
    return Histories.from_events(
        histories.users[kept], histories.items[kept], histories.timestamps[kept], user_rows=len(histories.offsets) - 1
    )


def table(report: dict[str, Any]) -> str:
    """The figures as text."""
    lines = []
    for part in ("new_domain", "new_users"):
        lines += [f"{part:<36}{'recall@20':>11}{'recall@100':>12}"]
        lines += [f"  {name:<34}{found['recall@20']:>11.3f}{found['recall@100']:>12.3f}"
                  for name, found in report[part]["recall"].items()]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="shop", choices=("music", "shop", "video"), help="of world")
    parser.add_argument("--few", type=int, default=100, help="events of the new domain")
    parser.add_argument("--share", type=float, default=0.2, help="of users that are new")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--store", default="runs/feature-store", help="content store, kept between runs")
    parser.add_argument("--set", action="append", default=[], help="a setting of all trainings, section.key=value")
    parser.add_argument("--quick", action="store_true", help="a tiny world and encoders without weights: does it run?")
    arguments = parser.parse_args()
    sizes = dict(zip(("items", "users", "events"), (150, 250, 6_000) if arguments.quick else (900, 1_500, 60_000), strict=True))
    quick = ["encoders.text=signal:", "encoders.image=signal:", "retrieval.epochs=2"] if arguments.quick else []
    begun, timings = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store_folder = str(folder / "store") if arguments.quick else arguments.store
        own = [f"encoders.store={store_folder}", f"retrieval.seed={arguments.seed}"]
        config = load_config(overrides=[*SETTINGS, *own, *quick, *arguments.set])

        def timed(name: str, work: Callable[[], Any]) -> Any:
            since = time.perf_counter()
            done = work()
            timings[name] = round(time.perf_counter() - since, 1)
            print(f"{name}: {timings[name]} s", file=sys.stderr, flush=True)
            return done

        world = world_config(arguments.kind, seed=arguments.seed, **sizes)
        timed("world", lambda: generate_world(folder / "world", world))
        run = Run(folder / "world", folder / "run", config, say=lambda line: None)
        timed("ingest and encode", lambda: (run.ingest(), run.encode()))
        dataset, store = run.dataset(), run.store()
        full = timed("everything", lambda: Trained(dataset, store, config, folder / "full"))
        second = dataset.items["domain"][1:].value_counts().index[-1]
        report = {
            "benchmark": "cold_start", "kind": arguments.kind, "seed": arguments.seed, **sizes,
            "new_domain": timed("domain", lambda: new_domain(
                dataset, store, config, folder, arguments.few, full, second)),
            "new_users": timed("users", lambda: new_users(dataset, store, config, folder, arguments.share, full)),
            "timings": timings,
        }  # fmt: skip
    print(table(report))
    print(json.dumps({**report, "seconds": round(time.perf_counter() - begun, 1)}))


if __name__ == "__main__":
    main()
