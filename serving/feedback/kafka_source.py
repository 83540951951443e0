"""Feedback out of Kafka, for a follower on another machine than the gateway: the consumer to `serving.feedback.kafka`.

Needs `pip install -r requirements-scale.txt`.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Literal, Protocol

from serving.feedback.events import COLUMNS
from serving.feedback.tail import Event

logger = logging.getLogger(__name__)

MOST_MESSAGES, POLL_SECONDS = 2_000, 0.2
NEEDED = {"event_id": str, "user_id": str, "item_id": str, "event": str, "timestamp": int, "received": int}
"""What an event must have, and of which type."""


class KafkaSourceError(RuntimeError):
    """The brokers answered with an error; nothing is lost, the same events come at the next start."""


class Consumer(Protocol):
    """What is used of `confluent_kafka.Consumer`."""

    def subscribe(self, topics: list[str]) -> None:
        """Reads these topics from now on."""

    def consume(self, num_messages: int, timeout: float) -> list[Any]:
        """Messages that have come, each with `value()` and `error()`."""

    def commit(self, *, asynchronous: Literal[False]) -> Any:
        """The group has everything that was consumed."""


class KafkaSource:
    """Events of a topic, each at least once: the group's offset moves when the caller has them on disk (`keep`).

    Args:
        consumer: see `connect_consumer`. topic: its name.
    """

    def __init__(self, consumer: Consumer, topic: str = "feedback") -> None:
        self._consumer, self._unkept = consumer, False
        consumer.subscribe([topic])

    def begin_at(self, received: float) -> None:
        """Nothing: the group's offset says where it goes on."""

    def poll(self) -> list[Event]:
        """See `EventSource`.

        Raises:
            KafkaSourceError: what the brokers said.
        """
        events = []
        for message in self._consumer.consume(MOST_MESSAGES, POLL_SECONDS):
            if message.error() is not None:
                raise KafkaSourceError(f"topic: {message.error()}; check the brokers, then start again")
            self._unkept = True
            event = event_of(message.value())
            if event is None:
                logger.warning("a message of the topic is no feedback event, and was left out")
            else:
                events.append(event)
        return events

    def keep(self) -> None:
        """Commits what was polled; events that were polled and not kept come again."""
        if self._unkept:
            self._consumer.commit(asynchronous=False)
            self._unkept = False


def event_of(message: Any) -> Event | None:
    """A message as the event that it holds, its context left out; None where it is none.

    Example:
        >>> event_of(b'{"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": 7, "event": "like", "received": 8}')
        {'user_id': 'u', 'item_id': 'i', 'timestamp': 7, 'event': 'like', 'event_id': 'e', 'received': 8}
        >>> event_of(b'{"event_id": "e"}') is None
        True
    """
    try:
        told = json.loads(message)
    except (TypeError, ValueError):
        return None
    if not isinstance(told, dict) or any(not isinstance(told.get(name), kind) for name, kind in NEEDED.items()):
        return None
    return {name: told[name] for name in COLUMNS if name in told}


def connect_consumer(servers: str, group: str) -> Consumer:
    """A consumer that begins at the oldest event that its group has not kept, and never commits by itself.

    Raises:
        RuntimeError: the client library is not installed.
    """
    try:
        import confluent_kafka
    except ImportError:
        raise RuntimeError("servers: Kafka needs confluent-kafka; pip install -r requirements-scale.txt") from None
    settings = {"bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest"}
    return confluent_kafka.Consumer({**settings, "enable.auto.commit": False})
