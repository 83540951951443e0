"""What a follower learns: every user's state out of new events, and a few steps of the users' own vectors on them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd

from data.batches import RetrievalBatches
from data.dataset import EVENT_COLUMNS, Dataset
from data.schema import EVENT_CODES, NEGATIVE_EVENTS, TRAIN
from pipeline.follow.journal import Base
from pipeline.follow.log import FollowedLog
from pipeline.metrics.examples import interactions, positive_histories
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import find_hits
from pipeline.metrics.top_k import dot_product_scores, top_k
from pipeline.release.export_stage import EVERYTHING, serving_tables
from pipeline.retrieval.served import Served, load_served
from pipeline.settings.config import Config
from pipeline.training.checkpoint import array_of, put_back, snapshot
from pipeline.training.epoch_steps import LoopSettings, train_epoch
from pipeline.training.feed import feed_of
from pipeline.training.fused_optimizers import FusedAdam
from serving.feedback.tail import Event
from serving.graphs.request_history import ServingTables
from towers.frozen_items import FrozenItemsTask

BATCH = 256
"""Events of a step, new and replayed ones; the same for all updates, so that the step is compiled once."""
KEPT_SECONDS = 7 * 86_400.0
"""How long before a release's newest event one of an unknown user or item may have been received to be kept for the next
release: older ones have been before a job, which left them out for good."""


class Learner:
    """The run of a release, its user tower, and the events since.

    Of each update, the users' histories and what they have seen grow by its events, and, where the tower has a table of users,
    their own vectors take a few steps on its positive ones among `replay` times as many older ones, drawn by (seed, update).
    Items and the weights that all users share stay where they are until the next job. Each update begins with a fresh
    optimizer: what it does follows from the vectors and events before it, whether or not the process was started anew.

    Measured on the demo's test days, 16,701 choices in 42 updates: of the next events 27.7 % are among the first 20 by
    histories kept up to date, 26.5 % by the release as it was; steps on the weights that all users share lower it the more
    the higher their rate, so there are none. Steps on users' own vectors (trained with `user_id`) change it by .1 % or less.

    Users and items that the release does not know are left out and counted (`unknown`): sessions and `/v1/items` serve them
    until the next job.

    Args:
        base: see `Base`. config: `[data]` says what is positive, `[retrieval]` how fast is learned.
        replay: older events to a new one. rate: share of `retrieval.learning_rate`; 0 = no steps.
    """

    def __init__(self, base: Base, config: Config, replay: float = 4.0, rate: float = 0.3) -> None:
        self.run, self.config, self.replay, self.rate = base.run, config, replay, rate
        self.dataset = Dataset.load(base.run / "ingest")
        self.log = FollowedLog(self.dataset)
        self.now, self.released = load_served(base.run), load_served(base.run)
        self.user_ids, self.item_ids = self.dataset.user_ids, self.dataset.item_ids
        self.unknown = 0
        self.task = self._task() if self.tower.use_id and rate else None

    def _task(self) -> FrozenItemsTask:
        """Compiled once, for all updates."""
        task = FrozenItemsTask(
            self.tower,
            items=self.now.tower_items,
            profile=self.dataset.profile,
            counts=self.dataset.counts,
            scale=float(self.now.two_tower.scale),
        )
        optimizer = FusedAdam(self.rate * self.config.retrieval.learning_rate, global_clipnorm=1.0)
        task.compile(optimizer=optimizer, jit_compile=False)
        optimizer.build(task.trainable_variables)
        self._fresh = snapshot(optimizer.variables)
        return task

    @property
    def tower(self) -> keras.layers.Layer:
        return self.now.two_tower.user_tower

    def lines(self, events: Sequence[Event]) -> pd.DataFrame:
        """Events as lines of `Dataset.events`: those of users and items that the release knows, and that it has not learned
        from."""
        lines, known = self._coded(events)
        self.unknown += int((~known).sum())
        return lines[~self.log.holds(lines)].reset_index(drop=True)

    def news(self, events: Sequence[Event]) -> list[Event]:
        """Those of some events that the release has not learned from; of unknown users and items only recent ones, see
        `KEPT_SECONDS`: what is kept from release to release does not grow with their number."""
        if not events:
            return []
        lines, known = self._coded(events)
        kept = np.array([float(event.get("received") or 0) for event in events]) >= self.log.newest_released - KEPT_SECONDS
        kept[known] = ~self.log.holds(lines, since=False)
        return [event for event, new in zip(events, kept, strict=True) if new]

    def _coded(self, events: Sequence[Event]) -> tuple[pd.DataFrame, np.ndarray]:
        """Lines of `Dataset.events` of those that the release knows, and which these are, [E] bool."""
        kept = pd.DataFrame({name: [event.get(name) for event in events] for name in
                             ("user_id", "item_id", "timestamp", "event", "value")})  # fmt: skip
        users = self.user_ids.rows(kept["user_id"].to_numpy(object))
        items = self.item_ids.rows(kept["item_id"].to_numpy(object))
        kinds = kept["event"].map(EVENT_CODES).fillna(-1).astype(int).to_numpy()
        value = pd.to_numeric(kept["value"], errors="coerce").to_numpy(np.float32)
        lines = pd.DataFrame({"user": users, "item": items, "timestamp": kept["timestamp"], "event": kinds, "value": value})
        lines = lines.assign(split=TRAIN, positive=self._positive(kinds, value))
        known = (users > 0) & (items > 0) & (kinds >= 0)
        return lines[known].astype(EVENT_COLUMNS), known

    def _positive(self, kinds: np.ndarray, value: np.ndarray) -> np.ndarray:
        section = self.config.data
        named = set(EVENT_CODES) - NEGATIVE_EVENTS if section.positive_events is None else set(section.positive_events)
        positive = np.isin(kinds, [EVENT_CODES[name] for name in sorted(named)])
        return positive if section.min_value is None else positive & ~(value < section.min_value)

    def take_in(self, lines: pd.DataFrame) -> None:
        """The users' states with these events."""
        self.log.add(lines)

    def learn(self, update: int) -> int:
        """A few steps on the events taken in last, and replayed ones. Returns: how many events that were."""
        new = self.log.newest
        if not len(new) or self.task is None:
            return 0
        rng = np.random.default_rng([self.config.retrieval.seed, update])
        chosen = np.concatenate([new, self.log.older(round(self.replay * len(new)), rng)])
        part, places = self.log.of(self.log.users_at(chosen))
        histories = positive_histories(part, EVERYTHING, kinds=self.tower.history_kind == "transformer")
        batches = RetrievalBatches(
            histories,
            item_rows=self.dataset.schema.item_rows,
            batch_size=BATCH,
            history_length=self.now.two_tower.config.history_length,
            ordered=self.dataset.schema.has_timestamps,
            seed=self.config.retrieval.seed,
            positions=np.flatnonzero(np.isin(places[part.positive], chosen)),
        )
        put_back(self.task.optimizer.variables, self._fresh)
        settings = LoopSettings(epochs=1, patience=1, seed=update, name="follow", advice="Lower job.learning_rate")
        nothing = lambda *told: None  # noqa: E731
        train_epoch(self.task, feed_of(batches), update, 0, len(batches), settings, nothing, nothing)
        return len(batches.positions)

    def judge(self, lines: pd.DataFrame, k: int) -> tuple[int, int, int]:
        """How many of the events, wanted items that are new to their users, stand in the first `k` that their user would have
        been shown before they happened: (events, hits by the state so far, hits by the release)."""
        wanted = lines[lines["positive"]]
        concerned = np.unique(wanted["user"].to_numpy())
        part, released = self.log.of(concerned)[0], self.log.of(concerned, since=False)[0]
        seen = interactions(part, EVERYTHING, positive_only=False)
        width = self.dataset.schema.item_rows
        pair = wanted["user"].to_numpy(np.int64) * width + wanted["item"].to_numpy()
        wanted = wanted[~np.isin(pair, seen.users * width + seen.rows)]
        if not len(wanted):
            return 0, 0, 0
        users, places = np.unique(wanted["user"].to_numpy(), return_inverse=True)
        relevant = Interactions.from_pairs(places, wanted["item"].to_numpy(), len(users))
        masked = seen.select(users)
        hits = []
        for served, known in ((self.now, part), (self.released, released)):
            history = positive_histories(known, EVERYTHING).latest(users, served.history_length)
            ranked = self.recommend(served, users, history, masked, k)
            hits.append(int(find_hits(ranked, relevant).sum()))
        return len(relevant.rows), hits[0], hits[1]

    def recommend(self, served: Served, users: np.ndarray, history: np.ndarray, seen: Interactions, k: int) -> np.ndarray:
        """The k best unseen rows of each user. users [Q], history [Q, L] -> [Q, k]."""
        queries = served.queries(self.dataset.profile, users.astype(np.int32), history)
        return top_k(dot_product_scores(queries, served.items), np.arange(len(users)), seen, k)[0]

    @functools.cached_property
    def tables(self) -> ServingTables:
        """Of the log as it was released."""
        return self._tables(self.dataset)

    def _tables(self, dataset: Dataset) -> ServingTables:
        length, longer = self.now.two_tower.config.history_length, self.config.ranking.history_length
        return serving_tables(dataset, self.run / "ingest", length, ranker_history=longer)

    def values(self) -> dict[str, np.ndarray]:
        """What a followed release holds in the place of the release's own, by the variables' paths."""
        tables, touched = self.tables, self.log.touched
        fresh = self._tables(self.log.of(touched)[0])
        history = tables.history.copy()
        history[touched] = fresh.history[touched]
        seen = Interactions(tables.seen_offsets, tables.seen_rows).with_sets(
            touched, Interactions(fresh.seen_offsets, fresh.seen_rows)
        )
        values = {"history": history, "seen_offsets": seen.offsets, "seen_rows": seen.rows}
        if self.now.ensemble is not None and tables.chosen is not None and fresh.chosen is not None:
            chosen = Interactions(*tables.chosen).with_sets(touched, Interactions(*fresh.chosen))
            values |= {"chosen_offsets": chosen.offsets, "chosen_rows": chosen.rows}
        return values | {f"user_tower/values/{number}": value for number, value in enumerate(self.weights())}

    def weights(self) -> list[np.ndarray]:
        """Of the user tower, in the order of the release's variables."""
        return [np.array(array_of(weight)) for weight in self.tower.weights]

    def put_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Goes on from what `snapshot` had taken."""
        put_back(self.tower.weights, weights)
