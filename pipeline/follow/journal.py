"""What a follower has done, on disk: every update's events before it begins, and a cursor after it is published."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from data.durable_file import write_durably
from pipeline.nightly.lock import is_free, owner_words, read_owner
from pipeline.nightly.record import run_of
from pipeline.stage import StageError
from serving.feedback.partitions import as_table, write_table
from serving.feedback.tail import Event
from serving.release_number import NUMBERS
from serving.releases.lock import LOCK_FILE, alone

FOLDER, FOLLOWED = "follow", "followed"
"""Of a run folder: what a follower keeps, and what it publishes (`pipeline.follow.publish`)."""
CURSOR, GUARD, EVENTS, WAITING, WEIGHTS = "cursor.json", ".guard", "events.parquet", "waiting.parquet", "weights.npz"


@dataclasses.dataclass(frozen=True)
class Base:
    """The release that updates start from. Attributes: version, fingerprint; folder of the run it was made in."""

    version: int
    fingerprint: str
    run: Path


def base_of(out: Path) -> Base:
    """The release that is stable in a run folder or, where none is labelled, the newest one.

    Raises:
        StageError: there is none, or its run is gone.
    """
    from serving.releases.labels import read_labels
    from serving.releases.manifest import read_release
    from serving.releases.release import list_releases

    releases = out / "releases"
    numbers = list_releases(releases)
    version = read_labels(releases).stable or (numbers[-1] if numbers else None)
    if version is None:
        raise StageError(f"{releases}: no release to follow; `python -m pipeline run` or `job` makes one.")
    run = run_of(out, version)
    if not (run / "ingest").is_dir():
        raise StageError(f"{run}: has no models any more, and release {version} came from it; raise job.keep.")
    return Base(version, read_release(releases / str(version)).fingerprint, run)


@dataclasses.dataclass(frozen=True)
class Cursor:
    """How far a follower is.

    Attributes:
        base, fingerprint: the release that it follows from.
        update: number of the last one that is published. since: updates up to this one are discarded.
        rolled_back: why the release itself answers again; "" = it does not.
        judged: [events, hits of the followed, hits of the release] of the newest updates.
    """

    base: int
    fingerprint: str
    update: int = 0
    since: int = 0
    rolled_back: str = ""
    judged: tuple[tuple[int, int, int], ...] = ()

    @property
    def version(self) -> int:
        """Number of the followed release that answers."""
        return self.base * NUMBERS + (0 if self.rolled_back or self.update == self.since else self.update)

    def is_at(self, base: Base) -> bool:
        """Whether it follows from that release."""
        return (self.base, self.fingerprint) == (base.version, base.fingerprint)


class Journal:
    """`<out>/follow`: `cursor.json`, and `<base>/<update>/` with the events of each update and the newest weights.

    Updates up to `cursor.since` are discarded; their events are kept together in the folder of update `since`
    (`waiting.parquet`).

    An update's events are on disk before it begins (write-ahead), so that one that was interrupted is done again with the
    same events, whatever has come meanwhile. The cursor moves when the update is published: every event is in exactly one
    update. (Gray and Reuter 1992, *Transaction Processing*, chapter 9: write-ahead log.)
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER

    def cursor(self) -> Cursor | None:
        """Where it stands; None before the first start."""
        file = self.folder / CURSOR
        if not file.is_file():
            return None
        told: dict[str, Any] = json.loads(file.read_text())
        return Cursor(**{**told, "judged": tuple(tuple(line) for line in told["judged"])})

    def move(self, cursor: Cursor) -> None:
        """The cursor, on disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / CURSOR, [json.dumps(dataclasses.asdict(cursor), indent=2).encode()])
        for path in self.folder.iterdir():
            if path.is_dir() and path.name != str(cursor.base):
                shutil.rmtree(path)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Alone with the cursor and what it says, for the length of the block: an update does not undo a roll back."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / GUARD, "a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield

    def place(self, cursor: Cursor, update: int) -> Path:
        return self.folder / str(cursor.base) / f"{update:06d}"

    def carried(self, cursor: Cursor, more: Iterable[Event] = ()) -> list[Event]:
        """The events of all updates of a base, that of the one which had begun included, what waits, and more; each once."""
        events = [event for update in range(cursor.since + 1, cursor.update + 2) for event in self.events(cursor, update)]
        return list({event["event_id"]: event for event in [*self.waiting(cursor), *events, *more]}.values())

    def waiting(self, cursor: Cursor) -> list[Event]:
        """What updates that count no more had taken; a stream does not send it again. See `begin_anew`."""
        return _read(self.place(cursor, cursor.since) / WAITING)

    def begin(self, cursor: Cursor, update: int, events: list[Event]) -> None:
        """Writes the events of an update ahead of it."""
        write_table(self.place(cursor, update) / EVENTS, as_table(events))

    def events(self, cursor: Cursor, update: int) -> list[Event]:
        """The events of an update; none where it has not begun."""
        return _read(self.place(cursor, update) / EVENTS)

    def keep_weights(self, cursor: Cursor, update: int, weights: dict[str, np.ndarray]) -> None:
        """The weights after an update, and no longer those of two updates ago."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **weights)
        write_durably(self.place(cursor, update) / WEIGHTS, [buffer.getvalue()])
        (self.place(cursor, update - 2) / WEIGHTS).unlink(missing_ok=True)

    def weights(self, cursor: Cursor) -> dict[str, np.ndarray] | None:
        """Those of the last published update; None where that is the release itself."""
        if cursor.update == cursor.since:
            return None
        with np.load(self.place(cursor, cursor.update) / WEIGHTS) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def begin_anew(self, cursor: Cursor, events: list[Event], rolled_back: str = "") -> None:
        """No update of a base counts any more, and these events wait for the next.

        A kill leaves the cursor as it was, with all of its events, or the new one.
        """
        # The number of an update that had begun may be published already.
        number = cursor.update + 1
        fresh = dataclasses.replace(cursor, update=number, since=number, rolled_back=rolled_back, judged=())
        place = self.place(fresh, number)
        write_table(place / WAITING, as_table(events))
        self.move(fresh)
        for path in sorted(place.parent.glob("*/*")):
            if path != place / WAITING:
                path.unlink()


def _read(file: Path) -> list[Event]:
    return parquet.ParquetFile(file).read().to_pylist() if file.is_file() else []


def drop_followed(out: Path, ids: frozenset[str]) -> None:
    """Removes what a follower has left of a person: their events, and all followed releases, which name users; the next
    follower begins at the release, and learns from everybody else's events.

    Raises:
        StageError: a follower is at work.
    """
    owner = read_owner(out / FOLDER)
    if owner is not None and not is_free(owner, time.time()):
        raise StageError(f"{out / FOLDER}: {owner_words(owner)} is following; stop it first, and start it again afterwards.")
    journal = Journal(out)
    cursor = journal.cursor()
    if cursor is not None:
        others = [event for event in journal.carried(cursor) if event["user_id"] not in ids]
        journal.begin_anew(cursor, others, cursor.rolled_back)
    if (out / FOLLOWED).is_dir():
        _empty(out / FOLLOWED)


def _empty(followed: Path) -> None:
    """Removes all followed releases, and the list of them last: who reads the list finds it or nothing.

    The folder stays: a server that has it mounted would go on looking into the one that was removed, and never see another.
    So does its lock, which whoever waits for it has open.
    """
    with alone(followed, "forget-user"):
        for path in sorted(followed.iterdir(), key=lambda path: (path.suffix == ".config", path.name == "models.config")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()


def digest_of(events: list[Event]) -> str:
    """What a followed release's manifest says of the events of its last update."""
    return hashlib.sha256("\n".join(str(event["event_id"]) for event in events).encode()).hexdigest()
