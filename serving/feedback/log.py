"""The log of feedback: every event that is acknowledged is on disk, once, whatever happens to the process."""

from __future__ import annotations

import collections
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from data.durable_file import WriteError, sync
from serving.feedback.partitions import EVENTS, WRITTEN, kept_event_ids, read_written, roll

logger = logging.getLogger(__name__)

REMEMBERED = 200_000
"""Event ids in memory. What is sent again after more events than these is removed by `feedback_compact` instead."""


class FeedbackError(RuntimeError):
    """Events could not be put on disk; none of them counts as accepted."""


class FeedbackLog:
    """An append-only file of JSON lines, forced to disk before anything is acknowledged, and rolled into Parquet.

    Callers that come while the disk is busy share the next write (group commit), so that a disk which needs 5 ms takes
    thousands of events a second. A file belongs to the process that holds its lock; when one starts it takes over the
    files of those that are gone. Rolling names the Parquet file after the log file, so doing it again after a kill
    replaces it: an event lies in one of them or, for a moment, in both, and is read once.

    Gray and Reuter 1992, *Transaction Processing*, sections 9.4 (durability) and 9.4.7 (group commit).

    Args:
        folder: made at the first event.
        roll_seconds, roll_events: when to roll.
        remember: how many event ids are kept in memory.

    Example:
        >>> import tempfile
        >>> log = FeedbackLog(Path(tempfile.mkdtemp()))
        >>> event = {"event_id": "e1", "user_id": "u", "item_id": "i", "timestamp": 7, "event": "like"}
        >>> log.append([event]), log.append([event])
        ([True], [False])
        >>> log.close()
    """

    def __init__(
        self, folder: Path, *, roll_seconds: float = 60.0, roll_events: int = 50_000, remember: int = REMEMBERED
    ) -> None:
        self.folder = Path(folder)
        self._roll_seconds, self._roll_events, self._remember = roll_seconds, roll_events, remember
        self._lock = threading.Lock()  # of what is known and what waits
        self._disk = threading.Lock()  # of the file; taken before `_lock` where both are needed
        self._known: collections.OrderedDict[bytes, int] | None = None  # ticket by digest, 0 = on disk
        self._waiting: list[tuple[int, bytes, list[bytes]]] = []
        self._ticket = self._durable = 0
        self._failed: set[int] = set()
        self._file: IO[bytes] | None = None
        self._opened, self._lines = 0.0, 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def append(self, events: Sequence[dict[str, Any]]) -> list[bool]:
        """Puts events on disk and returns when they are there.

        Args:
            events: each with an `event_id`; see `feedback_events.COLUMNS`.

        Returns:
            True for each event that is new, False for one whose id is on disk already.

        Raises:
            FeedbackError: the disk refused; none of these events is to be taken for accepted.
        """
        known = self._recover()
        lines, digests, new = [], [], []
        with self._lock:
            tickets, ticket = set(), self._ticket + 1
            for event in events:
                digest = _digest(str(event["event_id"]))
                new.append(digest not in known)
                if new[-1]:
                    known[digest] = ticket
                    digests.append(digest)
                    lines.append(json.dumps(event, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
                if known[digest]:
                    tickets.add(known[digest])  # perhaps of another request that brings the same event just now
            if lines:
                self._ticket = ticket
                self._waiting.append((ticket, b"".join(lines), digests))
        if tickets:
            self._commit(tickets)
        return new

    def _commit(self, tickets: set[int]) -> None:
        """Returns when the tickets' lines are on disk: those of all who wait are written by whoever comes first."""
        with self._disk:
            with self._lock:
                batch = self._waiting if self._durable < max(tickets) else []
                if batch:
                    self._waiting = []
            if batch:
                try:
                    self._write(b"".join(lines for _, lines, _ in batch), sum(len(digests) for _, _, digests in batch))
                    good = True
                except OSError as error:
                    logger.error("feedback could not be written: %s", error.strerror)
                    if self._file is not None:  # what an fsync that failed has left on disk, nobody can say
                        self._file.close()
                        self._file = None
                    good = False
                self._settle(batch, good)
            with self._lock:
                if tickets & self._failed:
                    raise FeedbackError("the disk refused; send the events again")

    def _settle(self, batch: Iterable[tuple[int, bytes, list[bytes]]], good: bool) -> None:
        known = self._known
        assert known is not None
        with self._lock:
            for ticket, _, digests in batch:
                self._durable = ticket
                if not good:
                    self._failed = {other for other in self._failed if other > ticket - 10_000} | {ticket}
                for digest in digests:
                    if good:
                        known[digest] = 0
                    else:
                        known.pop(digest, None)
            while len(known) > self._remember and not next(iter(known.values())):
                known.popitem(last=False)

    def _write(self, content: bytes, lines: int) -> None:
        if self._file is None:
            self._file = _new_file(self.folder)
            self._opened, self._lines = time.monotonic(), 0
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())
        self._lines += lines
        if self._thread is None:
            self._thread = threading.Thread(target=self._roll_on, name="feedback-roll", daemon=True)
            self._thread.start()

    def roll(self) -> None:
        """Moves what has been written so far into Parquet. What the disk refuses stays in its log file, to be rolled when
        the next one is."""
        with self._disk:
            file, self._file = self._file, None
        if file is not None:
            with file:  # its lock goes with it, when nothing is left to take over
                _roll_file(Path(str(file.name)), self.folder)
        adopt(self.folder)

    def close(self) -> None:
        """Rolls and stops; events may still be appended afterwards."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None
        self._stop.clear()
        self.roll()

    def _roll_on(self) -> None:
        while not self._stop.wait(min(self._roll_seconds, 1.0)):
            due = self._lines >= self._roll_events or time.monotonic() - self._opened >= self._roll_seconds
            if self._file is not None and due:
                self.roll()

    def _recover(self) -> collections.OrderedDict[bytes, int]:
        """What is known, read from disk the first time."""
        if self._known is not None:
            return self._known
        with self._disk:
            if self._known is None:
                adopt(self.folder)
                newest = [_digest(name) for name in kept_event_ids(self.folder, self._remember)]
                self._known = collections.OrderedDict.fromkeys(newest, 0)
            return self._known


def adopt(folder: Path) -> int:
    """Rolls the log files whose process is gone; returns how many events that were. What cannot be locked stays a log."""
    count = 0
    for path in sorted((folder / WRITTEN).glob("*.jsonl")):
        try:
            with path.open("rb+") as file:  # NFS locks for one process alone only what it may write
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                count += _roll_file(path, folder)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError as error:
            logger.error("feedback of %s could not be taken over, and stays in its log (%s)", path.name, error.strerror)
    return count


def _new_file(folder: Path) -> IO[bytes]:
    """A new log file, held by this process."""
    (folder / WRITTEN).mkdir(parents=True, exist_ok=True)
    while True:
        # To the nanosecond: whoever sends files on, the oldest first, goes by their names.
        seconds, part = divmod(time.time_ns(), 10**9)
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}{part:09d}-{uuid.uuid4().hex[:12]}.jsonl"
        file = open(folder / WRITTEN / name, "xb", buffering=0)  # noqa: SIM115 - stays open as long as it is written
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # nobody took it over before it was locked
            sync(folder)
            sync(folder / WRITTEN)
            return file
        file.close()


def _roll_file(path: Path, folder: Path) -> int:
    """Rolls a log file that is held; returns its events, or 0 where the disk refused."""
    try:
        events, torn = read_written(path)
        if torn:
            logger.warning("%d lines of %s were not finished and had not been acknowledged", torn, path.name)
        roll(events, folder / EVENTS, path.stem)
        path.unlink(missing_ok=True)
        sync(path.parent)
    except (OSError, WriteError) as error:
        logger.error("feedback could not be rolled, and stays in its log (%s)", type(error).__name__)
        return 0
    return len(events)


def _digest(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode(), digest_size=16).digest()
