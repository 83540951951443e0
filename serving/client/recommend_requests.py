"""Requests to `recommend`: one of any kind from its parts, and those that warm a release up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WARM_TIME = 1_700_000_000
EVERY_POLICY = {
    "mmr_lambda": 0.8,
    "dpp": 0.05,
    "creator_cap": 3.0,
    "category_cap": 8.0,
    "calibration": 0.1,
    "group_share": 0.1,
    "epsilon": 0.05,
    "thompson": 0.1,
}
"""Weights that run every branch of the graph."""


def recommend_inputs(
    user_ids: Sequence[bytes | str],
    *,
    k: int,
    candidates: int = 0,
    recent_item_ids: Sequence[Sequence[bytes | str]] = (),
    exclude_item_ids: Sequence[Sequence[bytes | str]] = (),
    allow_item_ids: Sequence[Sequence[bytes | str]] = (),
    context: Sequence[Sequence[bytes | str]] = (),
    profile: Sequence[Sequence[bytes | str]] = (),
    policy: Mapping[str, float] | None = None,
    timestamps: Sequence[int] = (),
    seeds: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """The inputs of `recommend` for B users; of what is left out nothing is known, excluded or changed.

    Args:
        user_ids: [B]. The other sequences are empty or have one entry a user; lists of ids may be of different lengths.

    Example:
        >>> inputs = recommend_inputs(["u1", "u2"], k=3, exclude_item_ids=[["i1"], []], policy={"dpp": 0.1})
        >>> inputs["exclude_item_ids"].tolist(), inputs["allow_item_ids"].shape, inputs["policy_names"].tolist()
        ([['i1'], [b'']], (2, 0), ['dpp'])
    """
    count, weights = len(user_ids), dict(policy or {})
    return {
        "user_id": _column(user_ids),
        "recent_item_ids": _table(recent_item_ids, count),
        "context": _table(context, count),
        "k": np.array(k, np.int32),
        "candidates": np.array(candidates, np.int32),
        "exclude_item_ids": _table(exclude_item_ids, count),
        "allow_item_ids": _table(allow_item_ids, count),
        "policy_names": _column(list(weights)),
        "policy_values": np.array(list(weights.values()), np.float32),
        "timestamp": np.array(timestamps or [0] * count, np.int64),
        "seed": np.array(seeds or [0] * count, np.int64),
        "profile": _table(profile, count),
    }


def warm_up_requests(
    sizes: Sequence[int],
    user_ids: Sequence[bytes],
    item_ids: Sequence[bytes],
    length: int,
    k: int,
    words: Sequence[bytes] = (),
) -> list[dict[str, np.ndarray]]:
    """Requests at real shapes: known users and strangers, with and without recent items, lists and policies.

    Args:
        sizes: batch sizes. user_ids, item_ids: at least as many as the largest batch, and as `length` items for each.
        length: of the history that is read. k: of a page. words: a profile, "column=word", that strangers bring.
    """
    requests = []
    for size in sizes:
        users, times = user_ids[:size], [WARM_TIME] * size
        recent = [item_ids[line * length : (line + 1) * length] for line in range(size)]
        lists: dict[str, Any] = {"recent_item_ids": recent, "exclude_item_ids": recent}
        requests.append(recommend_inputs(users, k=k, timestamps=times))
        requests.append(recommend_inputs(users, k=k, timestamps=times, policy=EVERY_POLICY, **lists))
        requests.append(recommend_inputs([b""] * size, k=k, allow_item_ids=[item_ids] * size, profile=[words] * size))
    return requests


def _column(values: Sequence[bytes | str]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array


def _table(lines: Sequence[Sequence[bytes | str]], count: int) -> np.ndarray:
    if lines and len(lines) != count:
        raise ValueError(f"lists of ids: need one a user, received {len(lines)} for {count} users")
    array = np.full((count, max((len(line) for line in lines), default=0)), b"", object)
    for place, line in enumerate(lines):
        array[place, : len(line)] = list(line)
    return array
