"""New events of a feedback log, read while a gateway goes on writing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from serving.feedback.partitions import WRITTEN, last_received, partition_files, read_partitions

Event = dict[str, Any]


class EventSource(Protocol):
    """Where a follower's events come from. An event may come more than once; whoever must count it once looks at its id."""

    def begin_at(self, received: float) -> None:
        """What was received before, UTC seconds, is not needed any more; a source may send it all the same."""
        ...

    def poll(self) -> list[Event]:
        """Events since the last call, those that came first in front; none is no error."""
        ...

    def keep(self) -> None:
        """All that was polled is on disk with the caller; a source that counts what was read may move on."""
        ...


class FeedbackTail:
    """Reads log files as they grow, and Parquet files when they appear: an event is known as soon as it is acknowledged.

    A log file is read up to its last line break, so that a line still being written waits for the next call. When a file is
    rolled its events come again out of Parquet, and after `feedback_compact` once more. What was read is kept in memory
    alone: a new process reads the log from its beginning, or from `begin_at`: Parquet files of older events are passed over
    by what their footers say, and of others only the newer rows become events.

    Args:
        folder: normally `<state>/feedback`; may not be there yet.

    Example:
        >>> import tempfile
        >>> from serving.feedback.log import FeedbackLog
        >>> log = FeedbackLog(Path(tempfile.mkdtemp()))
        >>> tail = FeedbackTail(log.folder)
        >>> log.append([{"event_id": "e1", "user_id": "u", "item_id": "i", "timestamp": 7, "event": "like", "received": 8}])
        [True]
        >>> [event["event_id"] for event in tail.poll()], tail.poll()
        (['e1'], [])
        >>> log.close()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._since = 0.0
        self._read: dict[Path, int] = {}
        self._taken: set[Path] = set()

    def begin_at(self, received: float) -> None:
        """See `EventSource`; an earlier moment than before brings what had been passed over."""
        if received < self._since:
            self._taken.clear()
        self._since = received

    def poll(self) -> list[Event]:
        """See `EventSource`; sorted by the second in which the gateway received them."""
        # Log files first: one that is rolled between the two looks is in Parquet by the second.
        events = [event for path in sorted((self.folder / WRITTEN).glob("*.jsonl")) for event in self._lines(path)]
        files = partition_files(self.folder)
        for path in files:
            if path not in self._taken:
                events += self._rows(path)
        self._taken &= set(files)
        self._read = {path: place for path, place in self._read.items() if path.exists()}
        return sorted(events, key=lambda event: event.get("received") or 0)

    def keep(self) -> None:
        """Nothing: the log stays where it is."""

    def _lines(self, path: Path) -> list[Event]:
        place = self._read.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(place)
                new = file.read()
        except FileNotFoundError:  # rolled meanwhile
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read[path] = place + len(whole)
        events = []
        for line in whole.split(b"\n"):
            try:
                event = json.loads(line) if line else None
            except ValueError:  # torn by a kill or a full disk, and never acknowledged
                continue
            if isinstance(event, dict) and "event_id" in event:
                events.append(event)
        return events

    def _rows(self, path: Path) -> list[Event]:
        try:
            table = read_partitions([path]) if last_received(path) >= self._since else None
        except FileNotFoundError:  # merged into another meanwhile, which is new to us
            return []
        self._taken.add(path)
        if table is None:
            return []
        return table.filter(pa.array(table["received"].to_numpy() >= self._since)).to_pylist()
