"""When a follower publishes: after so many events, or before the oldest of them is too old."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from serving.feedback.tail import Event

FIRST_GUESS = 5.0
"""Seconds that the first update is expected to take: it compiles the training step."""
REMEMBERED = 20
"""Updates whose length tells how long the next may take."""


class EventBatches:
    """Events that wait for the next update, each id once.

    An update begins when `batch` events wait, or so early that it ends before the oldest is `max_staleness` seconds old:

        begin when  now - received(oldest) >= max_staleness - 1.5 longest(recent updates) - look

    So the bound holds while an update takes less than a third of it, whatever the rate of events; `late` counts the events
    for which it did not. An event of a clock that is ahead of this one counts as received when it was first seen here.

    Args:
        batch: events. max_staleness, look: seconds; between two looks at the log at most `look`.

    Example:
        >>> batches = EventBatches(batch=2, max_staleness=30.0, look=1.0)
        >>> batches.add([{"event_id": "a", "received": 100}, {"event_id": "a", "received": 100}])
        1
        >>> batches.due(100.0), batches.due(125.0)
        (False, True)
        >>> [event["event_id"] for event in batches.take()], batches.due(999.0)
        (['a'], False)
    """

    def __init__(self, batch: int, max_staleness: float, look: float = 1.0) -> None:
        if batch < 1 or max_staleness <= 3 * look:
            raise ValueError(
                f"batch, max_staleness: must be at least 1, and more than three looks of {look:g} s; received {batch} and "
                f"{max_staleness:g}"
            )
        self.batch, self.max_staleness, self.look = batch, max_staleness, look
        self.known: set[str] = set()
        self.waiting: list[Event] = []
        self.seen: dict[str, float] = {}
        self.late = 0
        self._took: collections.deque[float] = collections.deque([FIRST_GUESS], maxlen=REMEMBERED)

    def add(self, events: Iterable[Event]) -> int:
        """Takes in events; those of a known id are dropped. How many are new."""
        before = len(self.waiting)
        for event in events:
            if event["event_id"] not in self.known:
                self.known.add(event["event_id"])
                self.waiting.append(event)
        return len(self.waiting) - before

    def due(self, now: float) -> bool:
        """Whether an update is to begin at `now`, UTC seconds."""
        if not self.waiting:
            return False
        for event in self.waiting:
            if float(event.get("received") or 0) > now:
                self.seen.setdefault(event["event_id"], now)
        margin = min(1.5 * max(self._took) + self.look, self.max_staleness)
        return len(self.waiting) >= self.batch or now - self.oldest() >= self.max_staleness - margin

    def oldest(self) -> float:
        """When the first of the waiting events was received."""
        return min(self.received(event) for event in self.waiting)

    def received(self, event: Event) -> float:
        """When an event was received, UTC seconds, but not later than it was seen here."""
        return self.seen.get(event["event_id"], float(event.get("received") or 0))

    def take(self) -> list[Event]:
        """All that wait."""
        taken, self.waiting = self.waiting, []
        return taken

    def published(self, events: Iterable[Event], begun: float, now: float, since: float = 0.0) -> float:
        """Notes that an update is out. Returns: how old its oldest event had become, of those received after `since`: what
        came while nobody followed was late before."""
        self._took.append(now - begun)
        received = [min(self.received(event), now) for event in events]
        waiting = {event["event_id"] for event in self.waiting}
        self.seen = {name: moment for name, moment in self.seen.items() if name in waiting}
        ages = [now - moment for moment in received if moment >= since]
        self.late += sum(age > self.max_staleness for age in ages)
        return max(ages, default=0.0)
