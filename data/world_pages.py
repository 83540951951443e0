"""The pages on which the generated log's items were shown: devices and places, drawn apart from what is chosen."""

from __future__ import annotations

import numpy as np

from data.world_config import DAY, WorldConfig

DEVICES = ("phone", "desktop", "tablet")
DEVICE_SHARES = (0.6, 0.3, 0.1)
LOYALTY = 0.85
"""Share of visits that a user makes with the device of habit."""
UNKNOWN_DEVICE = 0.03


def draw_pages(config: WorldConfig, log: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`device` of every visit and `position` of every item on the visit's page, from a random stream of their own.

    A page holds a visit's items in random order, and nobody chooses by place or device: neither says anything of how well
    an item goes down, which is what a model ought to find.

    Args:
        log: columns of `simulate_events`, [E] each.

    Returns:
        `device` object [E] (None = unknown), `position` int32 [E] from 1.

    Example:
        >>> log = {"user": np.array([0, 0, 1]), "timestamp": np.full(3, WorldConfig().start)}
        >>> sorted(draw_pages(WorldConfig(), log)["position"].tolist())
        [1, 1, 2]
    """
    rng = np.random.default_rng([config.seed, 11])
    day = (log["timestamp"] - config.start) // DAY
    visit = log["user"].astype(np.int64) * config.days + day
    order = np.lexsort((rng.random(len(visit)), visit))
    ordered = visit[order]
    position = np.empty(len(visit), np.int32)
    position[order] = 1 + np.arange(len(visit)) - np.searchsorted(ordered, ordered)
    _, of_event = np.unique(visit, return_inverse=True)
    visits = int(of_event.max(initial=-1)) + 1
    habit = rng.choice(len(DEVICES), config.users, p=DEVICE_SHARES)
    owner = np.zeros(visits, np.int64)
    owner[of_event] = log["user"]
    used = np.where(rng.random(visits) < LOYALTY, habit[owner], rng.integers(0, len(DEVICES), visits))
    device = np.array(DEVICES, object)[used]
    device[rng.random(visits) < UNKNOWN_DEVICE] = None
    return {"device": device[of_event], "position": position}
