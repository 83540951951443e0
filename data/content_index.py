"""Where each key's vector lies: sorted halves of the keys, searched by bisection, a hundred thousand at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.content_key import key_halves


@dataclasses.dataclass(frozen=True)
class KeyIndex:
    """Keys of several shards in one order.

    Attributes:
        high, low: uint64 [R], the keys' halves, ascending in `high`; equal ones stand in order of arrival.
        shards: int32 [R], number of the shard. rows: int32 [R], row in that shard.

    Example:
        >>> keys = np.arange(32, dtype=np.uint8).reshape(2, 16)
        >>> index = KeyIndex.empty().extended([(5, keys[1:]), (9, keys)])
        >>> shards, rows = index.find(np.concatenate([keys, keys + 1]))
        >>> shards.tolist(), rows.tolist()
        ([9, 5, -1, -1], [0, 0, 0, 0])
    """

    high: np.ndarray
    low: np.ndarray
    shards: np.ndarray
    rows: np.ndarray

    @classmethod
    def empty(cls) -> KeyIndex:
        halves, places = np.empty(0, np.uint64), np.empty(0, np.int32)
        return cls(halves, halves, places, places)

    def extended(self, added: Sequence[tuple[int, np.ndarray]]) -> KeyIndex:
        """The index with shards (number, keys uint8 [R, 16]) added; of equal keys the one that was there first answers."""
        halves = [key_halves(keys) for _, keys in added]
        high = np.concatenate([self.high, *(pair[0] for pair in halves)])
        low = np.concatenate([self.low, *(pair[1] for pair in halves)])
        shards = np.concatenate([self.shards, *(np.full(len(keys), number, np.int32) for number, keys in added)])
        rows = np.concatenate([self.rows, *(np.arange(len(keys), dtype=np.int32) for _, keys in added)])
        # Stable, so that arrival decides among equals; and the parts are sorted already, which makes it a merge.
        order = np.argsort(high, kind="stable")
        return KeyIndex(high[order], low[order], shards[order], rows[order])

    def without(self, numbers: set[int]) -> KeyIndex:
        """The index less some shards."""
        keep = ~np.isin(self.shards, list(numbers))
        return KeyIndex(self.high[keep], self.low[keep], self.shards[keep], self.rows[keep])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard number [B] (-1 where a key is not there) and row [B] of keys uint8 [B, 16]."""
        high, low = key_halves(keys)
        shards, rows = np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int32)
        asked = np.arange(len(keys))
        places = np.searchsorted(self.high, high)
        # One turn, except where different keys share their first eight bytes.
        while len(asked):
            inside = places < len(self.high)
            asked, places = asked[inside], places[inside]
            same = self.high[places] == high[asked]
            asked, places = asked[same], places[same]
            match = self.low[places] == low[asked]
            shards[asked[match]], rows[asked[match]] = self.shards[places[match]], self.rows[places[match]]
            asked, places = asked[~match], places[~match] + 1
        return shards, rows

    def distinct(self) -> int:
        """Number of different keys."""
        if not len(self.high):
            return 0
        order = np.lexsort((self.low, self.high))
        high, low = self.high[order], self.low[order]
        return 1 + int(((high[1:] != high[:-1]) | (low[1:] != low[:-1])).sum())
