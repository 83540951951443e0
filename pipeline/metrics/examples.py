"""Evaluation requests: which users are asked about, what they had done by then, and what they did next."""

from __future__ import annotations

import dataclasses

import numpy as np

from data.dataset import Dataset
from data.histories import Histories
from data.schema import SPLIT_CODES
from pipeline.metrics.interactions import Interactions


@dataclasses.dataclass(frozen=True)
class Requests:
    """One request a user with at least one positive event in the asked split.

    Attributes:
        users: [Q] int32 user rows.
        history: [Q, L] int32 item rows, most recent first.
        seen: Q users' items that must not be recommended again.
        relevant: Q users' held-out positive items.
        timestamps: [Q] int64, the time of the user's first held-out event (0 where a log has no times).
        context: [Q, C] int32, the context codes of that event (0 = unknown).
    """

    users: np.ndarray
    history: np.ndarray
    seen: Interactions
    relevant: Interactions
    timestamps: np.ndarray
    context: np.ndarray

    def take(self, index: np.ndarray) -> Requests:
        return Requests(
            self.users[index],
            self.history[index],
            self.seen.select(index),
            self.relevant.select(index),
            self.timestamps[index],
            self.context[index],
        )


def positive_histories(dataset: Dataset, splits: tuple[str, ...], *, kinds: bool = False) -> Histories:
    """Positive events of the named splits, grouped by user; with the kinds of events where they are asked for."""
    events = dataset.events
    chosen = events[events["positive"] & events["split"].isin([SPLIT_CODES[name] for name in splits])]
    return Histories.from_events(
        chosen["user"].to_numpy(),
        chosen["item"].to_numpy(),
        chosen["timestamp"].to_numpy(),
        user_rows=dataset.schema.user_rows,
        kinds=chosen["event"].to_numpy() + 1 if kinds else None,
    )


def interactions(dataset: Dataset, splits: tuple[str, ...], *, positive_only: bool = True) -> Interactions:
    """User × item pairs of the named splits, one row a user of the vocabulary."""
    events = dataset.events
    chosen = events[events["split"].isin([SPLIT_CODES[name] for name in splits])]
    if positive_only:
        chosen = chosen[chosen["positive"]]
    return Interactions.from_pairs(chosen["user"].to_numpy(), chosen["item"].to_numpy(), dataset.schema.user_rows)


def make_requests(
    dataset: Dataset,
    split: str,
    *,
    known_splits: tuple[str, ...],
    history_length: int,
    seed: int = 0,
    most: int | None = None,
) -> Requests:
    """Requests for every user with a positive event in `split`, or the first `most` of them.

    History and seen items come from `known_splits` alone. Seen items include skipped ones: what was shown is not news.
    A user's
    item that stands in `known_splits` and again in `split` counts as seen, not as a target. Without timestamps the
    history is
    a seeded random choice of the user's known items.
    """
    known = positive_histories(dataset, known_splits)
    if not dataset.schema.has_timestamps:
        known = known.shuffled(np.random.default_rng(seed))
    seen = interactions(dataset, known_splits, positive_only=False)
    events = dataset.events
    chosen = np.flatnonzero(dataset.positive & (events["split"].to_numpy() == SPLIT_CODES[split]))
    pairs = np.stack([events["user"].to_numpy()[chosen], events["item"].to_numpy()[chosen]]).astype(np.int64)
    width = dataset.schema.item_rows
    fresh = ~np.isin(pairs[0] * width + pairs[1], seen.users.astype(np.int64) * width + seen.rows)
    chosen, (user, item) = chosen[fresh], pairs[:, fresh]
    relevant = Interactions.from_pairs(user, item, dataset.schema.user_rows)
    users = np.flatnonzero(relevant.counts)[:most].astype(np.int32)
    time = events["timestamp"].to_numpy()[chosen]
    order = np.lexsort((time, user))
    first = order[np.unique(user[order], return_index=True)[1]][:most]
    return Requests(
        users,
        known.latest(users, history_length),
        seen.select(users),
        relevant.select(users),
        time[first].astype(np.int64),
        dataset.context[chosen[first]],
    )
