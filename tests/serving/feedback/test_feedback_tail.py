"""Following a feedback log: every acknowledged event is read, while files are written, rolled, merged and torn."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.feedback.compact import compact
from serving.feedback.events import COLUMNS
from serving.feedback.kafka import KafkaSink, forward
from serving.feedback.kafka_source import KafkaSource, KafkaSourceError, connect_consumer, event_of
from serving.feedback.log import FeedbackLog
from serving.feedback.partitions import as_table, read_partitions
from serving.feedback.tail import FeedbackTail
from tests.serving.feedback.test_feedback_kafka import DAY, Brokers


def append(log: FeedbackLog, *names: str, day: int = 0) -> None:
    log.append([
        {"event_id": name, "user_id": "u1", "item_id": "i1", "timestamp": DAY + 86_400 * day, "event": "like",
         "received": DAY + int(name[1:])} for name in names
    ])  # fmt: skip


def ids(events: list[dict]) -> list[str]:
    return [event["event_id"] for event in events]


def test_events_are_there_when_they_are_acknowledged_and_none_is_missed(tmp_path: Path):
    log, tail = FeedbackLog(tmp_path / "feedback"), FeedbackTail(tmp_path / "feedback")
    assert tail.poll() == [], "no folder yet"
    append(log, "e1")
    assert ids(tail.poll()) == ["e1"] and tail.poll() == []
    append(log, "e3", "e2")
    assert ids(tail.poll()) == ["e2", "e3"]
    append(log, "e4")
    log.roll()
    assert set(ids(tail.poll())) == {"e1", "e2", "e3", "e4"}, "again out of Parquet; whoever counts looks at the ids"
    append(log, "e5", day=1)
    append(log, "e6")
    log.roll()
    append(log, "e7")
    compact(tmp_path / "feedback")
    assert {"e5", "e6", "e7"} <= set(ids(tail.poll()))
    assert set(ids(FeedbackTail(tmp_path / "feedback").poll())) == {f"e{number}" for number in range(1, 8)}
    log.close()


def test_what_was_received_long_ago_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log, read = FeedbackLog(tmp_path / "feedback"), []
    append(log, "e10", "e20")
    log.roll()
    append(log, "e30", "e40", day=-3)  # what happened long ago may come late
    log.roll()
    tail = FeedbackTail(log.folder)
    tail.begin_at(DAY + 35)
    monkeypatch.setattr("serving.feedback.tail.read_partitions", lambda files: read.extend(files) or read_partitions(files))
    assert ids(tail.poll()) == ["e40"] and len(read) == 1, "the other file is passed over by its footer"
    append(log, "e50")
    log.close()
    assert ids(tail.poll()) == ["e50"]
    tail.begin_at(DAY + 15)  # of an older release, which is stable again
    assert ids(tail.poll()) == ["e20", "e30", "e40", "e50"]


def test_a_line_that_is_being_written_waits_and_a_torn_one_is_left_out(tmp_path: Path):
    written = tmp_path / "written"
    written.mkdir()
    whole = json.dumps({"event_id": "e1", "received": 1}).encode() + b"\n"
    (written / "a.jsonl").write_bytes(whole + whole[:9])
    tail = FeedbackTail(tmp_path)
    assert ids(tail.poll()) == ["e1"]
    (written / "a.jsonl").write_bytes(whole + whole.replace(b"e1", b"e2") + b"{torn\n")
    assert ids(tail.poll()) == ["e2"]


class Message:
    def __init__(self, content: bytes, error: str | None = None):
        self._content, self._error = content, error

    def value(self):
        return self._content

    def error(self):
        return self._error


class Group:
    """`confluent_kafka.Consumer` as far as it is used: a group that begins again at what it has committed."""

    def __init__(self, messages: list[Message]):
        self.messages, self.place, self.committed, self.topics = messages, 0, 0, []

    def subscribe(self, topics):
        self.topics = topics

    def consume(self, num_messages=1, timeout=-1):
        some = self.messages[self.place : self.place + min(num_messages, 2)]
        self.place += len(some)
        return some

    def commit(self, message=None, offsets=None, asynchronous=True):
        assert not asynchronous
        self.committed = self.place


def test_kafka_has_what_the_gateway_kept_and_gives_again_what_was_not_kept(tmp_path: Path):
    log, brokers = FeedbackLog(tmp_path / "feedback"), Brokers()
    append(log, "e1", "e2", "e3")
    log.close()
    forward(log.folder, KafkaSink(brokers, "feedback"))
    messages = [Message(json.dumps(event).encode()) for _, _, event in brokers.arrived]
    group = Group([messages[0], Message(b"no event"), *messages[1:]])
    source = KafkaSource(group, "feedback")
    first = source.poll()
    assert ids(first) == ["e1"] and group.topics == ["feedback"] and group.committed == 0
    source.keep()
    assert ids(source.poll()) == ["e2", "e3"] and group.committed == 2
    again = Group(group.messages)
    again.place = group.committed
    assert ids(KafkaSource(again, "feedback").poll()) == ["e2", "e3"]
    assert first == [{name: value for name, value in FeedbackTail(log.folder).poll()[0].items() if value is not None}]
    with pytest.raises(KafkaSourceError, match="not leader"):
        KafkaSource(Group([Message(b"", "not leader")])).poll()


class End:
    """`confluent_kafka.KafkaError` at the end of a partition, and the message that brings it."""

    def __init__(self, number: int):
        self.number = number

    def code(self):
        return -191

    def error(self):
        return self

    def topic(self):
        return "feedback"

    def partition(self):
        return self.number


class Joining(Group):
    """A group that takes a while to join, of two partitions that end one after the other."""

    def __init__(self, *looks: list[Message | End]):
        super().__init__([])
        self.looks, self.seconds = list(looks), 0.0

    def consume(self, num_messages=1, timeout=-1):
        self.seconds += timeout
        return self.looks.pop(0) if self.looks else []

    def assignment(self):
        parts = [types.SimpleNamespace(topic="feedback", partition=number) for number in (0, 1)]
        return parts if self.seconds > 1 else []


def feedback(name: str, **values: object) -> Message:
    event = {"event_id": name, "user_id": "u1", "item_id": "i1", "timestamp": DAY, "event": "like", "received": DAY}
    return Message(json.dumps(event | values).encode())


WRONG = [
    {"value": "x"}, {"value": 1e300}, {"value": float("nan")}, {"value": True}, {"value": 10**400}, {"session_id": 7},
    {"position": "1"}, {"position": 2**31}, {"position": 1.5}, {"propensity": [1]}, {"received": 2**80}, {"timestamp": True},
    {"timestamp": -1}, {"timestamp": None}, {"user_id": "half a \ud800 character"}, {"user_id": None}, {"event": {}},
]  # fmt: skip


def test_messages_that_no_table_can_hold_are_left_out_and_counted(caplog: pytest.LogCaptureFixture):
    good = [feedback("e1", value=2**25 + 1, position=3, session_id=None), feedback("e2", propensity=1, device={"any": "thing"})]
    looks = [[feedback("w", **values) for values in WRONG], [Message(b"[" * 100_000), Message(None), *good]]  # type: ignore
    group = Joining(*looks)
    source = KafkaSource(group)
    assert source.poll() == [] and source.left_out == len(WRONG)
    events = source.poll()
    assert ids(events) == ["e1", "e2"] and source.left_out == len(WRONG) + 2 and f"{len(WRONG) + 2} so far" in caplog.text
    assert as_table(events)["value"].to_pylist() == [2**25, None] and as_table(events)["position"].to_pylist() == [3, None]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(COLUMNS), st.none() | st.booleans() | st.integers() | st.floats() | st.text()
                       | st.lists(st.integers(), max_size=2)))  # fmt: skip
def test_every_event_of_a_topic_can_be_kept(values: dict):
    event = event_of(feedback("e1", **values).value())
    assert event is None or as_table([event]).num_rows == 1


def test_all_of_a_topic_is_read_however_long_the_group_takes():
    group = Joining(*[[]] * 9, [feedback("e1"), End(1)], [], [feedback("e2")], [feedback("e3"), End(0)], [feedback("e4")])
    source = KafkaSource(group, everything=True, clock=lambda: group.seconds)
    assert ids(source.poll()) == ["e1", "e2", "e3"], "a first look at a group that still joins finds nothing"
    assert ids(source.poll()) == ["e4"] and source.poll() == []
    slow = Joining(*[[]] * 299, [End(1)], *[[]] * 299, [End(0)])  # 59.8 s each
    assert KafkaSource(slow, everything=True, clock=lambda: slow.seconds).poll() == [] and slow.seconds > 119
    silent = Joining([feedback("e1"), End(1)])
    with pytest.raises(KafkaSourceError, match="end was not reached, and nothing came for 60 s"):
        KafkaSource(silent, everything=True, clock=lambda: silent.seconds).poll()
    assert 60 < silent.seconds < 62 and silent.committed == 0


def test_a_real_client_reads_a_real_topic_to_its_end():
    """Against the brokers that librdkafka has in it for tests."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    brokers = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    for name in ("e1", "e2", "e3"):
        brokers.produce("feedback", feedback(name).value(), name.encode())
    assert brokers.flush(20) == 0
    [address] = [f"{broker.host}:{broker.port}" for broker in brokers.list_topics(timeout=20).brokers.values()]
    source = KafkaSource(connect_consumer(address, "g", everything=True), everything=True)
    assert sorted(ids(source.poll())) == ["e1", "e2", "e3"]
    source.keep()
    assert source.poll() == []


def test_the_client_library_is_used_as_it_is_or_asked_for():
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        with pytest.raises(RuntimeError, match=r"requirements-scale\.txt"):
            connect_consumer("nowhere:9092", "g")
        return
    KafkaSource(connect_consumer("nowhere.invalid:9092", "g")).poll()
