"""Following the event log between two jobs: update, publish, judge, and back to the release where that is better."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.follow.batches import EventBatches
from pipeline.follow.journal import Base, Cursor, Journal, base_of, digest_of
from pipeline.follow.learner import Learner
from pipeline.follow.publish import Followed, answering, check_made_from
from pipeline.settings.config import Config
from pipeline.training.checkpoint import snapshot
from serving.feedback.tail import Event, EventSource
from serving.release_number import NUMBERS

Say = Callable[[str], None]
LOOK_SECONDS = 1.0
LATE_SECONDS = 86_400.0
"""What was received so long before a release's newest event has been before its job, and is not read again."""


@dataclasses.dataclass(frozen=True)
class FollowSettings:
    """How closely the log is followed, and when not at all.

    Attributes:
        batch: events that are enough for an update. max_staleness: seconds from an event's arrival to its publication.
        replay, rate: older events to a new one in the steps of users' vectors, and their rate as a share of
            `retrieval.learning_rate`; 0 = none.
        k, bound, window, least: back to the release where, of the newest `window` events (`least` at least), the share
            found among the first `k` is lower than the release's by more than `bound`.
    """

    batch: int = 256
    max_staleness: float = 30.0
    replay: float = 4.0
    rate: float = 0.3
    k: int = 20
    bound: float = 0.05
    window: int = 1_000
    least: int = 200


class Follower:
    """One follower of a run folder; a second one is told that the folder is taken (`pipeline.nightly.lock`, by the command).

    Every update is test, then train (Gama, Sebastiao and Rodrigues 2013, *On evaluating stream learning algorithms*,
    Machine Learning 90): what was published before is asked about the new events before it learns from them, beside the
    release as it was exported.

    A kill at any moment loses no event and repeats none: see `Journal`. What had begun is done again from the same weights
    and events, and publishes the same release.

    Args:
        out: run folder. source: of events. servers: see `Followed`. clock: UTC seconds.
        config_of: the settings of a run, see `Learner`; asked at every release, since each may be made with others.
    """

    def __init__(
        self,
        out: Path,
        source: EventSource,
        config_of: Callable[[Path], Config],
        settings: FollowSettings | None = None,
        *,
        servers: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        say: Say = print,
    ) -> None:
        self.out, self.source, self.config_of, self.settings = out, source, config_of, settings or FollowSettings()
        self.journal, self.followed, self.clock, self.say = Journal(out), Followed(out, servers), clock, say
        self.started = clock()
        self.open(base_of(out))

    def open(self, base: Base, waiting: Sequence[Event] = ()) -> None:
        """Begins at a release, or goes on where the cursor is; `waiting` are events polled and not yet begun with."""
        cursor = self.journal.cursor()
        learner = Learner(base, self.config_of(base.run), self.settings.replay, self.settings.rate)
        if cursor is None or not cursor.is_at(base):
            self.journal.move(cursor := fresh_cursor(base, self.journal, self.followed, waiting, learner.news))
        self.base, self.cursor, self.learner = base, cursor, learner
        self.source.begin_at(learner.log.newest_released - LATE_SECONDS)
        place = self.out / "releases" / str(base.version) / "retrieval" / str(base.version)
        check_made_from(place, self.learner.weights())
        self.batches = EventBatches(self.settings.batch, self.settings.max_staleness, LOOK_SECONDS)
        for update in range(cursor.since + 1, cursor.update + 1):
            self.batches.known |= self._take_in(self.journal.events(cursor, update))
        weights = self.journal.weights(cursor)
        if weights is not None:
            self.learner.put_weights(weights)
        if cursor.version % NUMBERS == 0:
            self.followed.roll_back(base)
        else:
            self.followed.answer_with(cursor.version)
        self.say(f"[follow] {answering(cursor)} answers")
        begun = self.journal.events(cursor, cursor.update + 1)
        self.batches.known |= {event["event_id"] for event in begun}
        self.batches.add(self.journal.waiting(cursor))
        if begun and not cursor.rolled_back:  # it was interrupted
            self.update(begun)

    def _take_in(self, events: list[Event]) -> set[str]:
        self.learner.take_in(self.learner.lines(events))
        return {event["event_id"] for event in events}

    def look(self, everything: bool = False) -> bool:
        """One look at the log, and an update where one is due. Returns: whether there was one.

        Args:
            everything: all that waits is due.
        """
        base = base_of(self.out)
        if (base.version, base.fingerprint) != (self.base.version, self.base.fingerprint):
            self.say(f"[follow] release {base.version} is stable now")
            self.open(base, self.batches.waiting)
        if self._stopped():
            return False
        self.batches.add(self.learner.news(self.source.poll()))
        if not (self.batches.due(self.clock()) or (everything and self.batches.waiting)):
            return False
        events = self.batches.take()
        self.journal.begin(self.cursor, self.cursor.update + 1, events)
        self.source.keep()
        self.update(events)
        return True

    def update(self, events: list[Event]) -> None:
        """Judges what is published by the events, learns from them, publishes, and moves the cursor, in this order."""
        begun, number = self.clock(), self.cursor.update + 1
        lines = self.learner.lines(events)
        judged = self._window(self.learner.judge(lines, self.settings.k))
        why = worse(judged, self.settings)
        if why:
            self.cursor = dataclasses.replace(self.cursor, judged=judged)
            self.roll_back(why)
            return
        self.learner.take_in(lines)
        learned = self.learner.learn(number)
        self.journal.keep_weights(self.cursor, number, snapshot(self.learner.tower.weights))
        values = self.learner.values()
        with self.journal.guarded():
            if self._stopped():
                return
            version = self.followed.publish(self.base, number, values, digest_of(events))
            self.cursor = dataclasses.replace(self.cursor, update=number, judged=judged)
            self.journal.move(self.cursor)
        self.followed.clear_up()
        age = self.batches.published(events, begun, self.clock(), self.started)
        found = " ".join(f"{name} {share:.3f}" for name, share in shares(judged).items())
        self.say(
            f"[follow] {version}: {len(lines)} of {len(events)} events, {learned} with replay, oldest {age:.1f} s"
            f"{f'; recall@{self.settings.k} {found}' if found else ''}"
        )
        if age > self.settings.max_staleness:
            self.say(f"[follow] later than {self.settings.max_staleness:g} s: raise --max-staleness, or take a faster machine")

    def _stopped(self) -> bool:
        """Whether the release itself is to answer; somebody else may have said so."""
        told = self.journal.cursor()
        if told is not None and told.rolled_back and not self.cursor.rolled_back:
            self.cursor = told
            self.say(f"[follow] rolled back: {told.rolled_back}; {answering(told)} answers")
        return bool(self.cursor.rolled_back)

    def _window(self, line: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
        lines = [*self.cursor.judged, line]
        while len(lines) > 1 and sum(events for events, *_ in lines[1:]) >= self.settings.window:
            lines.pop(0)
        return tuple(lines)

    def roll_back(self, why: str) -> None:
        """The release itself answers again, until the next one or `again`."""
        with self.journal.guarded():
            self.followed.roll_back(self.base)
            self.cursor = dataclasses.replace(self.cursor, rolled_back=why)
            self.journal.move(self.cursor)
        self.say(f"[follow] rolled back: {why}; {answering(self.cursor)} answers")


def fresh_cursor(
    base: Base,
    journal: Journal,
    followed: Followed,
    waiting: Sequence[Event] = (),
    news: Callable[[Sequence[Event]], list[Event]] = list,
) -> Cursor:
    """The cursor of a release that has not been followed, before it is moved there: moving drops the other release's events.

    What the new release's job has not learned from is an update of it, written ahead. Back at an older release, what the newer
    one had learned comes out of the feedback folder again; a stream sends nothing again, and the next job learns it.

    Args:
        waiting: events that no update has begun with, beside those in the journal.
        news: what of them the release has not learned from, `Learner.news`; without it all are kept, and `lines` leaves out
            what the release knows.
    """
    cursor, fresh = journal.cursor(), followed.fresh_cursor(base)
    carried = news(journal.carried(cursor, waiting) if cursor else list(waiting))
    if carried:
        journal.begin(fresh, fresh.update + 1, carried)
    return fresh


def roll_back(out: Path, why: str = "asked for", servers: Sequence[str] = ()) -> Cursor:
    """`Follower.roll_back` without a follower: quick, since no model is loaded. Returns: the cursor."""
    base, journal, followed = base_of(out), Journal(out), Followed(out, servers)
    with journal.guarded():
        followed.roll_back(base)
        before = journal.cursor()
        if before is None or not before.is_at(base):
            before = fresh_cursor(base, journal, followed)
        cursor = dataclasses.replace(before, rolled_back=why)
        journal.move(cursor)
    return cursor


def again(out: Path) -> None:
    """After a roll back: the next follower begins anew from the release, and learns from all events since."""
    journal = Journal(out)
    cursor = journal.cursor()
    if cursor is not None and cursor.rolled_back:
        journal.begin_anew(cursor, journal.carried(cursor))


def shares(judged: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """Recall of both over the judged events; nothing where there were none.

    Example:
        >>> shares([(8, 4, 2), (2, 1, 0)])
        {'followed': 0.5, 'release': 0.2}
    """
    events, followed, release = (sum(column) for column in zip(*judged, strict=True)) if judged else (0, 0, 0)
    return {"followed": followed / events, "release": release / events} if events else {}


def worse(judged: Sequence[tuple[int, int, int]], settings: FollowSettings) -> str:
    """Why the release is to answer again; "" where it is not.

    Example:
        >>> worse([(100, 10, 20), (100, 10, 20)], FollowSettings(least=200, bound=0.05))
        'recall@20 0.100 on the newest 200 events, the release 0.200'
        >>> worse([(100, 10, 20)], FollowSettings(least=200, bound=0.05)), worse([(200, 40, 49)], FollowSettings())
        ('', '')
    """
    events, found = sum(line[0] for line in judged), shares(judged)
    if events < max(settings.least, 1) or found["release"] - found["followed"] <= settings.bound:
        return ""
    return (
        f"recall@{settings.k} {found['followed']:.3f} on the newest {events} events, the release {found['release']:.3f}"
    )
