"""Feedback out of Kafka, for a follower on another machine than the gateway: the consumer to `serving.feedback.kafka`.

Needs `pip install -r requirements-scale.txt`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from serving.feedback.events import COLUMNS
from serving.feedback.tail import Event

logger = logging.getLogger(__name__)

MOST_MESSAGES, POLL_SECONDS = 2_000, 0.2
WAIT_SECONDS = 60.0
"""How long the end of a topic is waited for while nothing comes; brokers take 45 s to see that a member of a group is gone."""
PARTITION_END = -191
"""`confluent_kafka.KafkaError._PARTITION_EOF`: no error, but word that a partition has been read to its end."""
NEEDED = ("event_id", "user_id", "item_id", "event", "timestamp", "received")
"""What an event must have."""
WHOLE = {"timestamp": 2**40, "received": 2**40, "position": 2**31}
"""Columns of whole numbers from 0, and what these stay below: as the gateway takes them, or as they are kept."""
NUMBERS = ("value", "propensity")
"""Columns of other numbers; all that is left are texts."""


class KafkaSourceError(RuntimeError):
    """The brokers answered with an error; nothing is lost, the same events come at the next start."""


class Consumer(Protocol):
    """What is used of `confluent_kafka.Consumer`."""

    def subscribe(self, topics: list[str]) -> None:
        """Reads these topics from now on."""

    def consume(self, num_messages: int, timeout: float) -> list[Any]:
        """Messages that have come, each with `value()` and `error()`."""

    def assignment(self) -> list[Any]:
        """The partitions that the group has given to this member, each with `topic` and `partition`; none while it joins."""

    def commit(self, *, asynchronous: Literal[False]) -> Any:
        """The group has everything that was consumed."""


class KafkaSource:
    """Events of a topic, each at least once: the group's offset moves when the caller has them on disk (`keep`).

    Args:
        consumer: see `connect_consumer`, with the same `everything`. topic: its name.
        everything: each `poll` waits until all has been read that lay in the topic when its end was reached first. To join a
            group takes seconds, and up to a minute where a member was killed; an empty answer meanwhile means nothing.
        clock: seconds.

    Attributes:
        left_out: messages that were no events.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str = "feedback",
        *,
        everything: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer, self._topic, self._unkept = consumer, topic, False
        self._everything, self._clock = everything, clock
        self.left_out = 0
        self._ended: set[tuple[str, int]] = set()
        consumer.subscribe([topic])

    def begin_at(self, received: float) -> None:
        """Nothing: the group's offset says where it goes on."""

    def poll(self) -> list[Event]:
        """See `EventSource`.

        Raises:
            KafkaSourceError: what the brokers said; with `everything` also that for `WAIT_SECONDS` nothing came, though the
                end was not reached.
        """
        events, until = self._consume(), self._clock() + WAIT_SECONDS
        while self._everything and not self._at_end():
            ended = len(self._ended)
            more = self._consume()
            events += more
            if more or len(self._ended) > ended:
                until = self._clock() + WAIT_SECONDS
            elif self._clock() > until:
                raise KafkaSourceError(
                    f"topic {self._topic}: its end was not reached, and nothing came for {WAIT_SECONDS:g} s; check the "
                    "brokers, and whether another consumer has the group, then start again"
                )
        return events

    def _at_end(self) -> bool:
        assigned = {(part.topic, part.partition) for part in self._consumer.assignment()}
        return bool(assigned) and assigned <= self._ended

    def _consume(self) -> list[Event]:
        events, left_out = [], 0
        for message in self._consumer.consume(MOST_MESSAGES, POLL_SECONDS):
            error = message.error()
            if error is not None and self._everything and error.code() == PARTITION_END:
                self._ended.add((message.topic(), message.partition()))
                continue
            if error is not None:
                raise KafkaSourceError(f"topic: {error}; check the brokers, then start again")
            self._unkept = True
            event = event_of(message.value())
            if event is None:
                left_out += 1
            else:
                events.append(event)
        if left_out:
            self.left_out += left_out
            logger.warning("%d messages are no feedback events, and were left out; %d so far", left_out, self.left_out)
        return events

    def keep(self) -> None:
        """Commits what was polled; events that were polled and not kept come again."""
        if self._unkept:
            self._consumer.commit(asynchronous=False)
            self._unkept = False


def event_of(message: Any) -> Event | None:
    """A message as the event that it holds, its context left out; None where it is none, or has a value that its column
    cannot hold.

    Example:
        >>> event_of(b'{"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": 7, "event": "like", "received": 8}')
        {'user_id': 'u', 'item_id': 'i', 'timestamp': 7, 'event': 'like', 'event_id': 'e', 'received': 8}
        >>> event_of(b'{"event_id": "e"}') is None
        True
    """
    try:
        told = json.loads(message)
    except (TypeError, ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or any(told.get(name) is None for name in NEEDED):
        return None
    event = {name: told[name] for name in COLUMNS if name in told}
    if not all(value is None or _fits(name, value) for name, value in event.items()):
        return None
    return {name: float(value) if name in NUMBERS and value is not None else value for name, value in event.items()}


def _fits(name: str, value: Any) -> bool:
    """Whether a column of kept feedback can hold a value: one that it cannot would stop every start at the same message."""
    if name in WHOLE:
        return type(value) is int and 0 <= value < WHOLE[name]
    if name in NUMBERS:
        return type(value) in (int, float) and abs(value) <= 1e9
    # JSON can say half of a character, which no file can.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def connect_consumer(servers: str, group: str, *, everything: bool = False) -> Consumer:
    """A consumer that begins at the oldest event that its group has not kept, and never commits by itself.

    Args:
        everything: it is to tell of the ends of partitions, see `KafkaSource`.

    Raises:
        RuntimeError: the client library is not installed.
    """
    try:
        import confluent_kafka
    except ImportError:
        raise RuntimeError("servers: Kafka needs confluent-kafka; pip install -r requirements-scale.txt") from None
    settings = {"bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest"}
    return confluent_kafka.Consumer({**settings, "enable.auto.commit": False, "enable.partition.eof": everything})
