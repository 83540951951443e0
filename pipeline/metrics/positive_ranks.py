"""On which place each held-out item stands, without making any list: enough for every metric that counts hits.

A top-k has to find its k items; a place is one comparison a catalogue item. The lists are only wanted where somebody
looks at what else was recommended (coverage, popularity bias, the report's examples).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.interactions import Interactions
from pipeline.metrics.top_k import BLOCK, ScoreBlock, for_each_block, masked_scores


def rank_positives(
    score_block: ScoreBlock,
    users: ArrayLike,
    seen: Interactions | None,
    relevant: Interactions,
    *,
    block: int = BLOCK,
    allowed: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> NDArray[np.int64]:
    """The place of every relevant item in its user's full list, 1 is first, in `top_k`'s order.

    place(i) = 1 + |{j < i: s_j >= s_i}| + |{j > i: s_j > s_i}| over the items that are neither seen nor forbidden, which
    is the order of `top_k`: by score, ties by the lower row.

    Args:
        score_block, users, seen, allowed, block, threads: those of `top_k`.
        relevant: the held-out items of each of the B users.

    Returns:
        int64 [nnz], aligned with `relevant.rows`; 0 for an item that can stand in no list (seen, forbidden, or -inf).

    Raises:
        ValueError: as `top_k`; or `relevant` covers other users, or names an item outside the catalogue.

    Example:
        >>> scores = np.array([[0.0, 1.0, 5.0, 5.0]], np.float32)
        >>> rank_positives(lambda part: scores[part], [0], None, Interactions.from_lists([[1, 2, 3]])).tolist()
        [3, 1, 2]
    """
    user_rows = np.asarray(users, dtype=np.int64)
    if len(relevant) != len(user_rows) or block < 1:
        raise ValueError(
            f"relevant, block: must cover the {len(user_rows)} users and be >= 1, received {len(relevant)} and {block}; "
            "select the users' sets first"
        )
    places = np.zeros(len(relevant.rows), np.int64)

    def work(part: slice) -> None:
        scores = masked_scores(score_block, part, user_rows, seen, allowed)
        first, last = relevant.offsets[part.start], relevant.offsets[part.stop]
        if relevant.rows[first:last].max(initial=0) >= scores.shape[1]:
            raise ValueError(
                f"relevant: rows must be below N + 1 = {scores.shape[1]}, received {relevant.rows[first:last].max()}"
            )
        for line, user in enumerate(range(part.start, part.stop)):
            for place in range(relevant.offsets[user], relevant.offsets[user + 1]):
                row = relevant.rows[place]
                own = scores[line, row]
                if own != -np.inf:
                    before = np.count_nonzero(scores[line, :row] >= own)
                    places[place] = 1 + before + np.count_nonzero(scores[line, row + 1 :] > own)

    parts = [slice(start, min(start + block, len(user_rows))) for start in range(0, len(user_rows), block)]
    for_each_block(work, parts, threads)
    return places


def as_ranked(places: ArrayLike, relevant: Interactions, depth: int) -> NDArray[np.int32]:
    """Lists that hold the relevant items on their places and nothing (row 0) elsewhere. [B, depth]

    Every metric that counts hits (`recall_at_k`, `ndcg_at_k`, `mrr`) has on them the value that it has on the full
    lists, so that each stays defined in one place.

    Example:
        >>> as_ranked([3, 9, 1], Interactions.from_lists([[7, 8], [4]]), depth=4).tolist()
        [[0, 0, 7, 0], [4, 0, 0, 0]]
    """
    place = np.asarray(places, dtype=np.int64)
    if place.shape != relevant.rows.shape or depth < 1:
        raise ValueError(
            f"places, depth: must be one a relevant item, {relevant.rows.shape}, and >= 1, received {place.shape} and "
            f"{depth}"
        )
    ranked = np.zeros((len(relevant), depth), np.int32)
    inside = (place > 0) & (place <= depth)
    ranked[relevant.users[inside], place[inside] - 1] = relevant.rows[inside]
    return ranked
