"""Shilling attacks: rows of a log by users who do not exist and push one item."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
import pandas as pd

from data.schema import EVENT_CODES

DAY = 86_400
Kind = Literal["random", "average", "bandwagon", "popular"]


@dataclasses.dataclass(frozen=True)
class ShillingAttack:
    """The dials of an attack.

    The push is one event of every fake user with the target; the fillers make the user look like a customer and tie the
    target to other items: `random` ones from the whole catalogue, `average` ones in proportion to their popularity (and
    with the values that they usually get), `popular` ones from the head alone, `bandwagon` a fifth from the head and the
    rest at random. Lam and Riedl (2004), *Shilling recommender systems for fun and profit*; Mobasher et al. (2007),
    *Toward trustworthy recommender systems*.

    Attributes:
        kind: where fillers come from. users: fake users. fillers: items each of them has beside the target.
        event: kind of the push. days: all of it happens in the last so many days of the log; 0 = over the whole log.
        head: how many items count as popular.
    """

    kind: Kind = "average"
    users: int = 200
    fillers: int = 30
    event: str = "purchase"
    days: float = 7.0
    head: int = 50

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: must be among {get_args(Kind)}, received {self.kind!r}")
        if min(self.users, self.head) < 1 or min(self.fillers, self.days) < 0:
            raise ValueError(
                "users, head, fillers, days: must be at least 1, 1, 0 and 0, received "
                f"{self.users}, {self.head}, {self.fillers} and {self.days}"
            )
        if self.event not in EVENT_CODES:
            raise ValueError(f"event: must be among {tuple(EVENT_CODES)}, received {self.event!r}")


def shilling_events(
    log: pd.DataFrame, target: str, attack: ShillingAttack, *, seed: int = 0, prefix: str = "fake"
) -> pd.DataFrame:
    """The rows that an attack adds to a log, in the log's own columns.

    Every row copies one of an honest user (context, value and kind of event go together, as a careful attacker would see
    to), the fillers' rows one of the same item.

    Args:
        log: columns of `interactions.parquet`, at least `user_id` and `item_id`. target: the item pushed; it may be new.
        seed: same seed, same rows. prefix: of the fake users' ids, which end in a number.

    Returns: `attack.users × (attack.fillers + 1)` rows, or fewer where the catalogue is smaller.

    Raises:
        ValueError: an empty log, or a user id that the fake ones would collide with.

    Example:
        >>> log = pd.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [10, 20]})
        >>> rows = shilling_events(log, "z", ShillingAttack(users=2, fillers=1, days=0), seed=1)
        >>> rows["user_id"].tolist(), rows.groupby("user_id")["item_id"].apply(lambda ids: "z" in set(ids)).tolist()
        (['fake0', 'fake0', 'fake1', 'fake1'], [True, True])
    """
    if not len(log):
        raise ValueError("log: must have events to copy, received none")
    names = [f"{prefix}{number}" for number in range(attack.users)]
    if log["user_id"].isin(names).any():
        raise ValueError(f"prefix: must not make ids that the log has, received {prefix!r}")
    rng = np.random.default_rng([seed, attack.users, attack.fillers])
    codes, ids = pd.factorize(log["item_id"], sort=True)
    by_item, counts = np.argsort(codes, kind="stable"), np.bincount(codes, minlength=len(ids))
    starts = np.cumsum(counts) - counts
    chosen = [_fillers(counts, np.asarray(ids) != target, attack, rng) for _ in names]
    copied, users = [], []
    for number, fillers in enumerate(chosen):
        places = starts[fillers] + (rng.random(len(fillers)) * counts[fillers]).astype(np.int64)
        copied += [*by_item[places], rng.integers(len(log))]
        users += [number] * (len(fillers) + 1)
    rows = log.iloc[copied].reset_index(drop=True)
    rows["user_id"] = np.array(names, dtype=object)[users]
    pushed = np.cumsum([len(fillers) + 1 for fillers in chosen]) - 1
    rows.loc[pushed, "item_id"] = target
    if "event" in rows:
        rows.loc[pushed, "event"] = attack.event
    if "value" in rows and log["value"].notna().any():
        of_kind = log[log["event"] == attack.event] if "event" in log else log
        rows.loc[pushed, "value"] = of_kind["value"].max()
    if "timestamp" in rows:
        last = int(log["timestamp"].max())
        first = last - int(attack.days * DAY) if attack.days else int(log["timestamp"].min())
        rows["timestamp"] = pd.Series(rng.integers(first, last + 1, len(rows))).astype(log["timestamp"].dtype)
    return rows.drop_duplicates(["user_id", "item_id"], keep="last", ignore_index=True)


def _fillers(counts: np.ndarray, allowed: np.ndarray, attack: ShillingAttack, rng: np.random.Generator) -> np.ndarray:
    """Codes of one user's fillers, each once."""
    order = np.argsort(-np.where(allowed, counts, -1), kind="stable")
    head = order[: min(attack.head, int(allowed.sum()))]
    size = min(attack.fillers, int(allowed.sum()))
    if attack.kind == "average":
        weights = np.where(allowed, counts, 0).astype(np.float64)
        return rng.choice(len(counts), size, replace=False, p=weights / weights.sum()) if size else head[:0]
    if attack.kind == "popular":
        return rng.choice(head, min(size, len(head)), replace=False)
    known = rng.choice(head, min(size // 5, len(head)), replace=False) if attack.kind == "bandwagon" else head[:0]
    others = np.setdiff1d(np.flatnonzero(allowed), known)
    return np.concatenate([known, rng.choice(others, min(size - len(known), len(others)), replace=False)])
