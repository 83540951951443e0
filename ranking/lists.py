"""Lists to learn from: what was shown, joined with what the index would have shown, in NumPy.

Rules, each checked by a test:

- A request is a user's events within a window (`ranking.requests`); its time is that of its first event, and its history
  is what the user chose strictly before. What the user had seen before is no candidate, as it is masked at serving.
- Impressions are labelled as logged, with every head that the log tells of. A drawn negative was not chosen (`click`,
  `like`, `purchase` are 0), and since it was not shown either, nobody knows of it whether it would have been skipped.
- Negatives come from the rows the index retrieved for the request, and a few from the whole catalogue. An item that the
  user chooses anywhere in the same fold is never a negative: the index was right about it, only early. No feature sees
  it.
- Nothing that is not yet released at the time of the request enters a list, as an impression or as a negative.
- Score and rank of every element mean the same: dot product with the query, and its place among the retrieved scores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranking.requests import Requests

Array = NDArray

UNTOLD = ("skip", "value")
"""Labels that only an impression can have; every other one is 0 for a drawn negative."""


BLOCK = 8_192
"""Requests that are assembled at a time: each needs 20 KiB while it is, and a tenth of that afterwards."""


@dataclasses.dataclass(frozen=True)
class RankingLists:
    """Training lists; padding has row 0 and mask False.

    Shapes: `user`, `timestamp` [R], `history` [R, L], `context` int32 [R, C]; the rest [R, K]: `candidates` int32,
    `retrieval_scores`, `retrieval_ranks` f32, `labels` {head: f32}, `known` {head: bool} (where the label exists, within
    `mask`), `position` int32 (place on the page from 1, 0 = unknown or never shown), `weight` f32 (1 = counts once).
    """

    user: Array
    timestamp: Array
    history: Array
    context: Array
    candidates: Array
    retrieval_scores: Array
    retrieval_ranks: Array
    labels: dict[str, Array]
    known: dict[str, Array]
    position: Array
    weight: Array
    mask: Array

    def __len__(self) -> int:
        return len(self.user)


def place_among(scores: Array, retrieved_scores: Array) -> Array:
    """1 + how many retrieved scores are higher, float32 [R, K]; so at most T + 1 beyond the retrieved T."""
    ordered = np.sort(-retrieved_scores, axis=1)
    places = [np.searchsorted(line, -asked, "left") for line, asked in zip(ordered, scores, strict=True)]
    return (np.stack(places) if places else np.zeros(scores.shape)).astype(np.float32) + 1.0


def assemble_lists(
    requests: Requests,
    retrieved_rows: Array,
    retrieved_scores: Array,
    queries: Array,
    item_embeddings: Array,
    *,
    chosen_user: Array,
    chosen_item: Array,
    released: Array,
    list_size: int,
    random_negatives: int,
    rng: np.random.Generator,
    block: int = BLOCK,
) -> RankingLists:
    """Lists [R, K]: impressions first (positives before skips), then negatives from the index, then random ones.

    Args:
        requests: with their past (`with_past`).
        retrieved_rows, retrieved_scores: [R, T], what the index answers for each request, padded with row 0.
        queries: [R, D]; item_embeddings: [N + 1, D]; their dot product is the retrieval score.
        chosen_user, chosen_item: pairs [E] that the users chose anywhere in the fold; never negatives.
        released: [N + 1], time of each item's release, 0 = always there.
        list_size, random_negatives: K, and how many of them may come from the whole catalogue.
        rng: draws the negatives; the same state gives the same lists.
        block: requests that are worked on at a time.

    Returns:
        `RankingLists`; a request left without any impression keeps its place, all masked.
    """
    pairs = np.unique(np.asarray(chosen_user, np.int64) * len(item_embeddings) + chosen_item)
    blocks = []
    for first in range(0, max(len(requests), 1), block):
        part = np.arange(first, min(first + block, len(requests)))
        blocks.append(
            _assemble_block(
                requests.take(part), retrieved_rows[part], retrieved_scores[part], queries[part], item_embeddings,
                pairs, released, list_size, random_negatives, rng,
            )
        )  # fmt: skip
    return blocks[0] if len(blocks) == 1 else _joined(blocks)


def _assemble_block(
    requests: Requests,
    retrieved_rows: Array,
    retrieved_scores: Array,
    queries: Array,
    item_embeddings: Array,
    chosen_pairs: Array,
    released: Array,
    list_size: int,
    random_negatives: int,
    rng: np.random.Generator,
) -> RankingLists:
    """See `assemble_lists`. chosen_pairs: user * (N + 1) + item, ascending."""
    count, items = len(requests), len(item_embeddings)
    lists = np.arange(count)
    drawn = rng.integers(1, max(items, 2), (count, 2 * random_negatives)) if items > 1 else np.zeros((count, 0), int)
    now = np.where(requests.timestamp > 0, requests.timestamp, np.iinfo(np.int64).max)
    seen = np.repeat(lists, np.diff(requests.seen_start)) * items + requests.seen_item
    most = int(np.diff(requests.start).max(initial=0))
    fill = max(0, list_size - most - retrieved_rows.shape[1] - drawn.shape[1])
    # Smaller keys are taken first: positives, skips, the quota of random negatives, then a random choice of the index.
    first, keys = _uniforms(rng, requests.start, retrieved_rows.shape[1] + drawn.shape[1] + fill)
    first -= 3 + requests.labels["click"]
    owner, shown_item = requests.owner, requests.item.astype(np.int64)
    kept = np.arange(len(first))
    if most > list_size:
        # One request of thousands would make every line as wide, of which a list holds `list_size`.
        usable = (released[shown_item] <= now[owner]) & ~np.isin(owner * items + shown_item, seen)
        kept = _first_of_each(owner, np.where(usable, first, np.inf), list_size)
    owner = owner[kept]
    column = np.arange(len(kept)) - np.searchsorted(owner, owner)
    shown = _placed(owner, column, shown_item[kept], np.zeros((count, min(most, list_size)), np.int64))
    keys = np.concatenate([_placed(owner, column, first[kept], np.zeros(shown.shape)), keys], axis=1)

    parts = [shown, retrieved_rows.astype(np.int64), drawn, np.zeros((count, fill), np.int64)]
    pool = np.concatenate(parts, axis=1)
    source = np.repeat([0, 1, 2, 3], [part.shape[1] for part in parts])
    valid = (pool > 0) & (released[pool] <= now[:, None])
    valid &= ~_named_before(pool)
    valid &= ~np.isin(lists[:, None] * items + pool, seen)
    in_fold = requests.user.astype(np.int64)[:, None] * items + pool
    chosen = _among(in_fold, chosen_pairs)
    valid &= (source == 0) | ~chosen

    random_part = np.where(valid & (source == 2), keys, np.inf)
    quota = np.argsort(np.argsort(random_part, axis=1), axis=1) < random_negatives
    keys = np.where(source == 2, np.where(quota, keys - 1, keys + 1), keys)
    keys = np.where(valid, keys, np.inf)
    taken = np.argsort(keys, axis=1, kind="stable")[:, :list_size]
    mask = np.take_along_axis(valid, taken, 1)
    impressions = (valid & (source == 0)).any(axis=1)
    mask &= impressions[:, None]
    candidates = np.where(mask, np.take_along_axis(pool, taken, 1), 0)

    def take(values: Array, otherwise: float) -> Array:
        """A column of the impressions in the order of the lists; drawn elements and padding get another value."""
        wide = _placed(owner, column, values[kept], np.full(pool.shape, otherwise, values.dtype))
        return np.where(mask, np.take_along_axis(wide, taken, 1), np.array(otherwise, values.dtype))

    scores = np.einsum("rd,rkd->rk", queries, item_embeddings[candidates], optimize=True).astype(np.float32)
    places = place_among(scores, np.where(retrieved_rows > 0, retrieved_scores, -np.inf))
    return RankingLists(
        user=requests.user,
        timestamp=requests.timestamp,
        history=requests.history,
        context=requests.context,
        candidates=candidates.astype(np.int32),
        retrieval_scores=np.where(mask, scores, 0).astype(np.float32),
        retrieval_ranks=np.where(mask, places, 1).astype(np.float32),
        labels={head: take(values, 0) for head, values in requests.labels.items()},
        known={head: take(values, head not in UNTOLD) & mask for head, values in requests.known.items()},
        position=take(requests.position, 0),
        weight=take(requests.weight, 1),
        mask=mask,
    )


def _joined(blocks: list[RankingLists]) -> RankingLists:
    """The lists of all blocks, one after the other."""

    def join(parts: list[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return np.concatenate(parts)

    names = [field.name for field in dataclasses.fields(RankingLists)]
    return RankingLists(**{name: join([getattr(lists, name) for lists in blocks]) for name in names})


def _among(values: Array, ordered: Array) -> Array:
    """Whether each value is one of `ordered`, which ascends: `np.isin` would sort both, for every block anew."""
    if not len(ordered):
        return np.zeros(values.shape, bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _uniforms(rng: np.random.Generator, start: Array, others: int) -> tuple[Array, Array]:
    """A number in [0, 1) for each of a line's impressions [E], offsets [R + 1], and for its other elements [R, others].

    They are those of one table [R, longest line + others], of which only a line at a time is ever held.
    """
    sizes = np.diff(start)
    own, rest = np.zeros(start[-1]), np.zeros((len(sizes), others))
    longest = int(sizes.max(initial=0))
    for line, size in enumerate(sizes):
        numbers = rng.random(longest + others)
        own[start[line] : start[line + 1]] = numbers[:size]
        rest[line] = numbers[longest:]
    return own, rest


def _first_of_each(owner: Array, keys: Array, most: int) -> Array:
    """Which [E] are among the `most` smallest keys of their owner, in their own order; owners are sorted."""
    order = np.lexsort((keys, owner))
    return np.sort(order[np.arange(len(order)) - np.searchsorted(owner, owner) < most])


def _placed(owner: Array, column: Array, values: Array, into: Array) -> Array:
    """`into` [R, W] with the values [E] of impressions at their places."""
    into[owner, column] = values
    return into


def _named_before(pool: Array) -> Array:
    """bool [R, W]: an earlier column of the same line holds the same row; impressions stand first and so win."""
    order = np.argsort(pool, axis=1, kind="stable")
    ordered = np.take_along_axis(pool, order, 1)
    repeated = np.zeros(pool.shape, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    named = np.zeros(pool.shape, bool)
    np.put_along_axis(named, order, repeated, 1)
    return named
