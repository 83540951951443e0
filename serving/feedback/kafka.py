"""Kept feedback to Kafka, every event at least once: rolled files are sent, and marked when the brokers have all of them.

    python -m serving.feedback.kafka --feedback runs/demo/gateway/feedback --servers kafka:9092 --topic feedback

The gateway acknowledges events by its own disk and never waits for Kafka; this runs beside it, once or with `--every`. It
needs `pip install -r requirements-scale.txt`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from data.folder_lock import alone
from serving.feedback.log import adopt
from serving.feedback.partitions import mark_sent, partition_files, read_partitions, sent_files

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 60.0
POLL_SECONDS = 0.1


class KafkaSinkError(RuntimeError):
    """The brokers do not have all of a file's events; the file is sent again as a whole."""


class Producer(Protocol):
    """What is used of `confluent_kafka.Producer`."""

    def produce(self, topic: str, value: bytes, key: bytes, *, on_delivery: Any) -> None:
        """Queues a message; BufferError while the queue is full."""

    def poll(self, timeout: float) -> int:
        """Calls back for what has been delivered meanwhile."""

    def flush(self, timeout: float) -> int:
        """Waits until the queue is empty; how many are left in it."""


class KafkaSink:
    """Events as JSON messages of a topic, by the user's id, so that what one user did keeps its order.

    Args:
        producer: see `connect`.
        topic: its name.
    """

    def __init__(self, producer: Producer, topic: str):
        self._producer, self._topic = producer, topic

    def send(self, events: Iterable[dict[str, Any]]) -> int:
        """Returns how many events there were, once the brokers have them all.

        Raises:
            KafkaSinkError: they have not; some of the events may have arrived.
        """
        failed: list[str] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(str(error))

        count = 0
        for event in events:
            content = {name: value for name, value in event.items() if value is not None}
            value = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
            self._queue(value, str(event["user_id"]).encode(), delivered)
            count += 1
        left = self._producer.flush(FLUSH_SECONDS)
        if failed or left:
            why = f": {failed[0]}" if failed else ""
            raise KafkaSinkError(
                f"topic {self._topic}: {len(failed)} of {count} events were refused and {left} not answered in "
                f"{FLUSH_SECONDS:g} s{why}; the file will be sent again"
            )
        return count

    def _queue(self, value: bytes, key: bytes, delivered: Any) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=delivered)
            except BufferError:
                self._producer.poll(POLL_SECONDS)
                continue
            self._producer.poll(0)
            return


def connect(servers: str) -> Producer:
    """A producer whose acknowledgement means that all replicas in sync have the event.

    Raises:
        RuntimeError: the client library is not installed.
    """
    try:
        import confluent_kafka
    except ImportError:
        raise RuntimeError("servers: Kafka needs confluent-kafka; pip install -r requirements-scale.txt") from None
    settings = {"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, "linger.ms": 50}
    return confluent_kafka.Producer({**settings, "compression.type": "zstd"})


def forward(folder: Path, sink: KafkaSink) -> int:
    """Sends every file that has not been sent, the oldest first; how many events that was.

    At least once: a file is marked when all of it has arrived, so that a kill before the mark sends it again. A consumer
    that must count once does so by `event_id`.

    Args:
        folder: a feedback folder, normally `<state>/feedback`.

    Raises:
        KafkaSinkError: see `KafkaSink.send`; the files before stay marked.
    """
    count, merged = 0, False
    with alone(folder):  # between a merge and its mark, sent events would look new
        adopt(folder)
        sent, files = sent_files(folder), partition_files(folder)
    # Names begin with the time of writing; a file of an earlier day may have been written later.
    for path in sorted(files, key=lambda path: (path.name, path.parent.name)):
        if str(path.relative_to(folder)) in sent:
            continue
        try:
            events = read_partitions([path]).to_pylist()
        except FileNotFoundError:  # `compact` has put it into another meanwhile, which is not marked: not all of it was sent
            merged = True
            continue
        count += sink.send(events)
        with alone(folder):
            mark_sent(folder, [path])
    return count + forward(folder, sink) if merged else count


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serving.feedback.kafka", description="Send kept feedback to Kafka, every event at least once."
    )
    parser.add_argument("--feedback", type=Path, required=True, help="feedback folder, normally <state>/feedback")
    parser.add_argument("--servers", required=True, help="bootstrap servers, host:port,host:port")
    parser.add_argument("--topic", default="feedback", help="topic (default: %(default)s)")
    parser.add_argument("--every", type=float, help="go on, looking again after so many seconds")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sink, stop = KafkaSink(connect(options.servers), options.topic), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while True:
        try:
            logger.info("%d events sent to %s", forward(options.feedback, sink), options.topic)
        except KafkaSinkError as error:
            if not options.every:
                raise SystemExit(str(error)) from None
            logger.error("%s", error)
        if not options.every or stop.wait(options.every):
            return


if __name__ == "__main__":
    main()
