"""Setting aside the events of users who look made up, with the reason, before anything learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.interactions import FILE, Interactions
from data.suspects import find_suspects
from data.validation import WHOLE_COLUMN, Quarantine


def honest_events(
    log: Interactions, share: float, quarantine: Quarantine, *, seed: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
    """The events to keep, bool [E], and what was set aside: users, events, targets; nothing where share is 0.

    The whole log is looked at, before it is split: an attack is cleaned away wherever it lies. Each user set aside is one
    line of the quarantine (`row` -1, for it is no single row), with the score and the items that the group pushes.

    Args:
        share: of the users that may be fake, see `find_suspects`; 0 = do not look.
    """
    if not share:
        return np.ones(len(log.events), np.bool_), {}
    users, items = log.users.codes, log.items.codes
    found = find_suspects(
        users,
        items,
        log.timestamps if log.has_timestamps else None,
        log.values,
        share=share,
        user_rows=len(log.users.values),
        item_rows=len(log.items.values),
        seed=seed,
    )
    targets = [str(log.items.values[row]) for row in found.targets]
    per_user = np.bincount(users, minlength=len(log.users.values))
    for user in np.flatnonzero(found.flagged):
        record = {
            "user_id": str(log.users.values[user]),
            "events": int(per_user[user]),
            "anomaly": round(float(found.score[user]), 4),
            "targets": ", ".join(targets),
        }
        quarantine.add_cell(FILE, WHOLE_COLUMN, "user: looks made up and pushes an item with others", record)
    aside = found.flagged[users]
    told = {"users": int(found.flagged.sum()), "events": int(aside.sum()), "targets": targets}
    return ~aside, told
