"""Query embeddings of many requests, through the user tower as it will be served."""

from __future__ import annotations

import keras
import numpy as np

from towers.two_tower import TwoTower


def embed_queries(
    two_tower: TwoTower,
    items: np.ndarray,
    profile: np.ndarray,
    users: np.ndarray,
    history: np.ndarray,
    block: int = 1024,
) -> np.ndarray:
    """Run the user tower over blocks of requests; the last block is padded so that every call has one shape.

    Shapes: items [N + 1, D], profile [user rows, P], users [Q], history [Q, L] rows -> [Q, D] float32.
    """
    queries = np.empty((len(users), items.shape[1]), np.float32)
    for start in range(0, len(users), block):
        part = slice(start, min(start + block, len(users)))
        short = block - (part.stop - part.start)
        rows = np.pad(history[part], ((0, short), (0, 0)))
        user = np.pad(users[part], (0, short))
        vectors, _ = two_tower.user_tower(
            keras.ops.convert_to_tensor(user),
            keras.ops.convert_to_tensor(profile[user]),
            keras.ops.convert_to_tensor(items[rows]),
            keras.ops.convert_to_tensor(rows > 0),
        )
        queries[part] = keras.ops.convert_to_numpy(vectors)[: part.stop - part.start]
    return queries
