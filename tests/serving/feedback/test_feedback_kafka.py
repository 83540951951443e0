"""Feedback on its way to Kafka: every event arrives, also when brokers refuse, queues are full and processes die."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.feedback import partitions
from serving.feedback.compact import compact
from serving.feedback.kafka import KafkaSink, KafkaSinkError, connect, forward
from serving.feedback.log import FeedbackLog
from serving.feedback.partitions import SENT

DAY = 1_700_000_000


class Brokers:
    """`confluent_kafka.Producer` as far as it is used: a bounded queue, emptied and called back by poll and flush."""

    def __init__(self, room: int = 3):
        self.room, self.refuse, self.silent = room, set(), False
        self.queue: list[tuple] = []
        self.arrived: list[tuple[str, bytes, dict]] = []

    def produce(self, topic, value=None, key=None, partition=-1, callback=None, on_delivery=None, timestamp=0, headers=None):
        if len(self.queue) >= self.room:
            raise BufferError("Local: Queue full")
        self.queue.append((topic, value, key, on_delivery))

    def poll(self, timeout: float = -1) -> int:
        return self._deliver() if timeout else 0

    def flush(self, timeout: float = -1) -> int:
        self._deliver()
        return len(self.queue)

    def _deliver(self) -> int:
        if self.silent:
            return 0
        waiting, self.queue = self.queue, []
        for topic, value, key, on_delivery in waiting:
            event = json.loads(value)
            refused = event["event_id"] in self.refuse
            if not refused:
                self.arrived.append((topic, key, event))
            on_delivery("Broker: Not leader" if refused else None, None)
        return len(waiting)

    def ids(self) -> list[str]:
        return [event["event_id"] for _, _, event in self.arrived]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FeedbackLog]:
    made = FeedbackLog(tmp_path / "feedback")
    yield made
    made.close()


def add(log: FeedbackLog, *names: str, day: int = 0) -> None:
    for name in names:
        event = {"event_id": name, "user_id": f"u{name[0]}", "item_id": "i1", "timestamp": DAY + 86_400 * day, "event": "like"}
        log.append([{**event, "received": DAY + len(name), "value": None}])
    log.roll()


def test_all_events_arrive_in_order_and_go_once_while_all_is_well(log: FeedbackLog):
    brokers = Brokers()
    sink = KafkaSink(brokers, "clicks")
    add(log, *(f"a{number}" for number in range(10)))
    assert forward(log.folder, sink) == 10 and forward(log.folder, sink) == 0
    assert brokers.ids() == [f"a{number}" for number in range(10)]  # through a queue of three
    topic, key, event = brokers.arrived[0]
    assert (topic, key) == ("clicks", b"ua")
    assert event == {
        "event_id": "a0", "user_id": "ua", "item_id": "i1", "timestamp": DAY, "event": "like", "received": DAY + 2
    }  # fmt: skip
    add(log, "b1", day=-1)
    assert forward(log.folder, sink) == 1 and brokers.ids()[-1] == "b1"


def test_what_brokers_refuse_or_leave_unanswered_is_sent_again(log: FeedbackLog):
    brokers = Brokers()
    sink = KafkaSink(brokers, "clicks")
    add(log, "a1", "a2")
    add(log, "b1")
    brokers.refuse = {"b1"}
    with pytest.raises(KafkaSinkError, match="1 of 1 events were refused and 0 not answered in 60 s: Broker: Not leader"):
        forward(log.folder, sink)
    brokers.refuse, brokers.silent = set(), True
    with pytest.raises(KafkaSinkError, match="0 of 1 events were refused and 1 not answered"):
        forward(log.folder, sink)
    brokers.silent = False
    assert forward(log.folder, sink) == 1
    assert set(brokers.ids()) == {"a1", "a2", "b1"} and brokers.ids().count("a1") == 1


def test_a_kill_before_the_mark_sends_twice_and_never_not_at_all(log: FeedbackLog):
    brokers = Brokers()
    add(log, "a1", "a2")
    KafkaSink(brokers, "clicks").send([{"event_id": "a1", "user_id": "ua"}])  # and then the process is gone
    assert forward(log.folder, KafkaSink(brokers, "clicks")) == 2
    assert sorted(brokers.ids()) == ["a1", "a1", "a2"]
    mark = log.folder / SENT
    mark.write_text(mark.read_text()[:-3])  # a line that was being written
    assert forward(log.folder, KafkaSink(brokers, "clicks")) == 2


def test_merged_files_are_not_sent_again_unless_some_of_them_never_were(log: FeedbackLog):
    brokers = Brokers()
    sink = KafkaSink(brokers, "clicks")
    add(log, "a1")
    add(log, "a2")
    assert forward(log.folder, sink) == 2
    assert compact(log.folder) == 2 and forward(log.folder, sink) == 0
    add(log, "b1")
    assert compact(log.folder) == 3 and forward(log.folder, sink) == 3
    assert set(brokers.ids()) == {"a1", "a2", "b1"}


def test_files_that_are_merged_while_they_are_sent_arrive_and_end_nothing(log: FeedbackLog):
    brokers = Brokers(room=100)
    add(log, "a1")
    add(log, "b1")
    add(log, "c1", day=1)
    add(log, "d1", day=1)
    flush, merges = brokers.flush, []

    def meanwhile(timeout: float = -1) -> int:
        if not merges:  # the first file is on its way, the others are to follow
            merges.append(compact(log.folder))
        return flush(timeout)

    brokers.flush = meanwhile
    sink = KafkaSink(brokers, "clicks")
    assert forward(log.folder, sink) == 5 and merges == [4]
    assert set(brokers.ids()) == {"a1", "b1", "c1", "d1"} and forward(log.folder, sink) == 0


def test_no_mark_is_lost_between_sender_and_merge(log: FeedbackLog, monkeypatch: pytest.MonkeyPatch):
    brokers, threads, real = Brokers(), [], partitions.sent_files
    add(log, "a1")
    add(log, "a2")
    assert forward(log.folder, KafkaSink(brokers, "clicks")) == 2
    add(log, "c1", day=1)

    def meanwhile(folder: Path) -> set[str]:
        known = real(folder)
        if not threads and len(known) == 2:  # of `mark_sent`, which is about to write what it has read
            threads.append(threading.Thread(target=forward, args=(folder, KafkaSink(brokers, "clicks"))))
            threads[0].start()
            threads[0].join(0.5)
        return known

    monkeypatch.setattr("serving.feedback.partitions.sent_files", meanwhile)
    compact(log.folder)
    threads[0].join(20)
    assert len(brokers.arrived) == 3 and forward(log.folder, KafkaSink(brokers, "clicks")) == 0


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "confluent_kafka", None)
    with pytest.raises(RuntimeError, match=r"pip install -r requirements-scale\.txt"):
        connect("127.0.0.1:9092")
