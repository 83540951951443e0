"""A dataset whose answer is known: taste is whether a number is even."""

import numpy as np
import pandas as pd

from data.dataset import Dataset, train_counts
from data.schema import TEST, TRAIN, VALID, Schema


def checkerboard(users_count: int, items_count: int) -> Dataset:
    """Even users take even items and odd users odd ones; of a user's 20, three are in validation and three in test."""
    rng = np.random.default_rng(7)
    rows = []
    for user in range(1, users_count + 1):
        own = rng.permutation([item for item in range(1, items_count + 1) if item % 2 == user % 2])
        split = np.full(len(own), TRAIN)
        split[:3], split[3:6] = TEST, VALID
        rows += [(user, item, code) for item, code in zip(own[:20], split[:20], strict=True)]
    users, items, split = np.array(rows).T
    events = pd.DataFrame(
        {
            "user": users.astype(np.int32),
            "item": items.astype(np.int32),
            "timestamp": np.zeros(len(rows), np.int64),
            "event": np.zeros(len(rows), np.int8),
            "value": np.full(len(rows), np.nan, np.float32),
            "split": split.astype(np.int8),
            "positive": np.ones(len(rows), bool),
        }
    )
    schema = Schema(user_rows=users_count + 1, item_rows=items_count + 1, profile={}, attributes={}, has_timestamps=False)
    named = [
        pd.DataFrame({f"{kind}_id": ["", *(f"{kind[0]}{row}" for row in range(1, count + 1))]})
        for kind, count in (("user", users_count), ("item", items_count))
    ]
    return Dataset(schema, *named, events, train_counts(events, items_count + 1), {}, {}, {})
