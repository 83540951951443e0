"""Following the event log: a new taste is felt, a kill repeats nothing, nothing grows old, and back means the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from data.dataset import Dataset
from pipeline.__main__ import app
from pipeline.follow.batches import FIRST_GUESS, EventBatches
from pipeline.follow.follower import Follower, FollowSettings, again, roll_back
from pipeline.follow.journal import Journal, drop_followed
from pipeline.follow.publish import Followed
from pipeline.nightly.lock import held
from pipeline.nightly.record import JobRecord, write_outcome
from pipeline.reproduce_record import write_settings
from pipeline.retrieval.served import load_served
from pipeline.settings.config import load_config
from pipeline.stage import StageError
from serving.feedback.log import FeedbackLog
from serving.feedback.tail import FeedbackTail
from serving.releases.labels import read_labels
from serving.releases.manifest import ReleaseError
from serving.releases.promotion import promote
from serving.releases.release import list_releases, verify_release
from tests.pipeline.followed_run import CONFIG, ITEMS, START, cursor, event, make_run, write_release

NOW = START + 100 * 86_400.0
SETTINGS = FollowSettings(batch=12, max_staleness=30.0, replay=2.0, rate=1.0)
TURNED = [event(number, "u1", 2 * number + 2, NOW) for number in range(10)]
"""u1, who liked odd items, chooses even ones."""
FIRST = [*TURNED, event(20, "u2", 1, NOW), event(21, "u2", 3, NOW)]
SECOND = [event(30 + number, f"u{number + 2}", 2 * number + 2, NOW + 5) for number in range(12)]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("followed") / "run")


@pytest.fixture
def out(released: Path, tmp_path: Path) -> Path:
    """A copy of the released run, with a feedback log beside it."""
    return shutil.copytree(released, tmp_path / "run")


def log_of(out: Path, events: list[dict]) -> Path:
    log = FeedbackLog(out.parent / "feedback")
    log.append(events)
    log.close()
    return log.folder


def follower(out: Path, now: float = NOW, **changed) -> Follower:
    source = FeedbackTail(out.parent / "feedback")
    return Follower(out, source, lambda run: CONFIG, SETTINGS, clock=lambda: now, say=lambda line: None, **changed)


def ask(folder: Path, user: str, k: int = 10) -> list[int]:
    """Numbers of the items that a release's own graph answers a user."""
    model = tf.saved_model.load(str(next((folder / "retrieval").iterdir())))
    nothing = tf.zeros((1, 0), tf.string)
    answer = model.signatures["serving_default"](
        user_id=tf.constant([user]), recent_item_ids=nothing, exclude_item_ids=nothing, k=tf.constant(k), profile=nothing
    )
    return [int(name.decode()[1:]) for name in answer["item_ids"].numpy()[0] if name]


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_a_new_taste_is_served_and_nobody_else_is_moved(out: Path):
    log_of(out, TURNED)
    one = follower(out)
    assert not one.look(), "ten events, all of this second: neither enough nor old"
    assert ask(out / "followed" / "1000000", "u1") == ask(out / "releases" / "1", "u1")
    one.clock = lambda: NOW + 29
    assert one.look() and read_labels(out / "followed").as_dict() == {"stable": 1_000_001, "previous": 1_000_000}
    verify_release(out / "followed" / "1000001")
    before, after = (ask(out / "followed" / name, "u1") for name in ("1000000", "1000001"))
    odd = [sum(item % 2 for item in items) / len(items) for items in (before, after)]
    assert odd[0] == 1.0 and odd[1] <= 0.5
    assert not set(after) & {2 * number + 2 for number in range(10)}, "what was just chosen is not news"
    assert all(item % 2 for item in ask(out / "followed" / "1000001", "u5"))
    assert (out / "releases" / "models.config").exists() is False and list_releases(out / "releases") == [1]
    # Files that did not change take no room twice.
    same = [folder / "retrieval" / folder.name / "saved_model.pb" for folder in sorted((out / "followed").glob("1*"))]
    assert len({path.stat().st_ino for path in same}) == 1


def test_steps_move_the_embeddings_of_those_who_did_something(out: Path):
    one = follower(out)
    learner = one.learner
    learner.replay = 1.0
    lines = learner.lines([*TURNED, event(99, "stranger", 2, NOW), event(98, "u1", 2, NOW), event(97, "u1", 900, NOW)])
    assert len(lines) == len(TURNED) and learner.unknown == 2, "strangers and new items wait for the job; once is once"
    learner.take_in(lines)
    before, table = learner.weights(), learner.tower.id_embedding.embeddings
    still = np.array(table)
    assert learner.learn(1) == 2 * len(TURNED)
    same = [np.array_equal(*pair) for pair in zip(before, learner.weights(), strict=True)]
    assert same.count(False) == 1, "what all users share stays as it is"
    moved = np.array(table) - still
    odd = np.array([0.0] + [2.0 * (int(name[1:]) % 2) - 1 for name in learner.item_ids])
    towards_even = moved @ (learner.now.tower_items * -odd[:, None]).sum(axis=0)
    user = learner.user_ids.rows(["u1"])[0]
    assert towards_even[user] > 0 and towards_even[user] == towards_even.max()
    assert (np.abs(moved).max(axis=1) == 0).any(), "who did nothing and was not drawn stays where they were"
    learner.task = None
    assert learner.learn(2) == 0 and np.array_equal(np.array(table) - still, moved)


def test_an_update_serves_what_a_pass_over_the_whole_log_would(out: Path):
    learner = follower(out).learner
    released = learner.dataset.events
    parts = [learner.lines([*TURNED, event(60, "u4", 5, NOW - 1)]), learner.lines(SECOND)]
    for lines in parts:
        learner.take_in(lines)
    events = pd.concat([released, *parts], ignore_index=True).sort_values(["user", "timestamp"], kind="stable")
    whole = learner._tables(dataclasses.replace(learner.dataset, events=events))
    values = learner.values()
    assert np.array_equal(values["history"], whole.history) and not np.array_equal(values["history"], learner.tables.history)
    assert np.array_equal(values["seen_offsets"], whole.seen_offsets) and np.array_equal(values["seen_rows"], whole.seen_rows)
    wanted = [place for place, positive in enumerate(parts[1]["positive"]) if positive]
    assert learner.log.newest.tolist() == [len(released) + len(parts[0]) + place for place in wanted]
    both = pd.concat([released, parts[0]], ignore_index=True)
    older = learner.log.older(10**6, np.random.default_rng(0))
    assert sorted(older) == np.flatnonzero(both["positive"]).tolist(), "each once, and none of those to be learned now"
    everything = pd.concat([both, parts[1]], ignore_index=True)
    users = learner.log.users_at(learner.log.newest)
    part, places = learner.log.of(users)
    assert sorted(places) == np.flatnonzero(everything["user"].isin(users)).tolist()
    assert all(np.array_equal(part.events[name], everything[name].iloc[places]) for name in ("user", "item", "timestamp"))
    assert part.events.equals(part.events.sort_values(["user", "timestamp"], kind="stable"))


@pytest.fixture(scope="module")
def calm(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates that nobody disturbed."""
    out = shutil.copytree(released, tmp_path_factory.mktemp("calm") / "run")
    log_of(out, FIRST)
    one = follower(out)
    assert one.look()
    log_of(out, SECOND)
    assert one.look() and not one.look()
    return out


@pytest.mark.parametrize("where", [(Followed, "publish"), (Journal, "move")], ids=["before release", "before cursor"])
def test_a_kill_loses_nothing_and_repeats_nothing(calm: Path, out: Path, monkeypatch: pytest.MonkeyPatch, where):
    log_of(out, FIRST)
    one = follower(out)
    with monkeypatch.context() as patch:
        patch.setattr(*where, killed)
        with pytest.raises(KeyboardInterrupt):
            one.look()
    assert cursor(out)["update"] == 0
    log_of(out, SECOND)  # comes meanwhile, and waits for its turn
    last = follower(out)
    assert cursor(out)["update"] == 1 and last.look() and not last.look()
    assert bytes_of(out / "followed") == bytes_of(calm / "followed")
    assert cursor(out) == cursor(calm) and cursor(out)["update"] == 2
    for update, events in ((1, FIRST), (2, SECOND)):
        for folder in (out, calm):
            kept = Journal(folder).events(last.cursor, update)
            assert sorted(one["event_id"] for one in kept) == sorted(one["event_id"] for one in events)


def killed(*arguments, **named):
    raise KeyboardInterrupt


def test_going_back_restores_the_bytes_and_again_begins_anew(calm: Path, tmp_path: Path):
    out = shutil.copytree(calm, tmp_path / "run", symlinks=True)
    shutil.copytree(calm.parent / "feedback", tmp_path / "feedback")
    one = follower(out)  # at work, and told by nobody but the cursor
    done = CliRunner().invoke(app, ["follow", "--rollback", "--out", str(out)])
    assert done.exit_code == 0 and "release 1 itself (1000000) answers" in done.output, done.output
    log_of(out, [event(200 + number, "u3", 2 * number + 2, NOW) for number in range(12)])
    assert not one.look() and one.cursor.rolled_back == "asked for"
    assert read_labels(out / "followed").stable == 1_000_000
    models = [folder / "retrieval" / folder.name for folder in (out / "releases" / "1", out / "followed" / "1000000")]
    assert bytes_of(models[0]) == bytes_of(models[1])
    verify_release(out / "followed" / "1000000")
    assert not follower(out).look(), "a restart does not forget it"
    again(out)
    two = follower(out)
    assert two.look() and cursor(out)["rolled_back"] == "" and two.cursor.version == 1_000_004
    assert read_labels(out / "followed").stable == 1_000_004
    assert len(Journal(out).events(two.cursor, 4)) == len(FIRST) + len(SECOND) + 12, "all since the release count again"


def test_worse_than_the_release_goes_back_by_itself(out: Path):
    log_of(out, FIRST)
    one = follower(out)
    one.settings = FollowSettings(batch=12, rate=1.0, bound=0.05, k=10, least=10)
    assert one.look() and not one.cursor.rolled_back
    turned = {str(place): -weight for place, weight in enumerate(one.learner.weights())}
    one.learner.put_weights(turned)
    loyal = [event(300 + number, f"u{number % 12 + 1}", item, NOW) for number, item in enumerate(range(1, ITEMS, 2))]
    log_of(out, loyal)
    assert one.look()
    assert "the release" in one.cursor.rolled_back and read_labels(out / "followed").stable == 1_000_000
    events, followed, release = one.cursor.judged[-1]
    assert events >= 6 and followed < release
    arguments = ["follow", "--once", "--out", str(out), "--log", str(out.parent / "feedback")]
    with held(out / "follow", "follow", 60):
        assert CliRunner().invoke(app, arguments).exit_code == 12


def test_the_next_release_is_followed_with_what_its_job_has_not_seen(calm: Path, tmp_path: Path):
    out = shutil.copytree(calm, tmp_path / "run", symlinks=True)
    shutil.copytree(calm.parent / "feedback", tmp_path / "feedback")
    log_of(out, [event(400, "u4", 2, NOW + 9)])
    one = follower(out)
    assert not one.look() and len(one.batches.waiting) == 1
    write_release(out, Dataset.load(out / "ingest"), one.learner.released.ensemble, version=2)
    one.look()
    assert one.cursor.version == 2_000_001 and read_labels(out / "followed").stable == 2_000_001
    kept = Journal(out).events(one.cursor, 1)
    assert len(kept) == len(FIRST) + len(SECOND) + 1 and kept[-1]["event_id"] == "e00400"
    assert ask(out / "followed" / "2000001", "u1") != ask(out / "releases" / "2", "u1")
    assert not one.look(), "nothing counts twice"
    with held(out / "follow", "follow", 60), pytest.raises(StageError, match="is following"):
        drop_followed(out, frozenset(["u1"]))
    mounted = (out / "followed").stat().st_ino
    drop_followed(out, frozenset(["u1"]))
    assert [path.name for path in (out / "followed").iterdir()] == [".lock"]
    assert (out / "followed").stat().st_ino == mounted, "a server that has it mounted sees what comes next"
    files = {path.relative_to(out / "follow").as_posix() for path in (out / "follow").rglob("[!.]*") if path.is_file()}
    assert files == {"cursor.json", "2/000002/waiting.parquet"}
    ids = [one["event_id"] for one in Journal(out).waiting(Journal(out).cursor())]
    assert ids == [one["event_id"] for one in [*FIRST[10:], *SECOND]] + ["e00400"], "all but those of u1"
    two = follower(out)
    assert two.look(everything=True) and read_labels(out / "followed").stable == two.cursor.version


def test_what_the_next_release_has_learned_is_carried_no_further(calm: Path, tmp_path: Path):
    out = shutil.copytree(calm, tmp_path / "run", symlinks=True)
    shutil.copytree(calm.parent / "feedback", tmp_path / "feedback")
    strangers = [event(800 + days, f"stranger{days}", 2, NOW + 5 - 86_400 * days) for days in range(0, 20, 5)]
    log_of(out, strangers)
    one = follower(out)
    assert one.look(everything=True)
    assert len(Journal(out).carried(one.cursor)) == len(FIRST) + len(SECOND) + 4
    # As a job does: the next release has its events out of the same log, but for one that came too late for it.
    dataset = Dataset.load(out / "ingest")
    events = pd.concat([dataset.events, one.learner.log._since.iloc[:-1]], ignore_index=True)
    events = events.sort_values(["user", "timestamp"], kind="stable").reset_index(drop=True)
    grown = dataclasses.replace(dataset, events=events)
    grown.save(out / "ingest")
    write_release(out, grown, one.learner.released.ensemble, version=2)
    for begun in (one, follower(out)):  # a new process reads the log again
        begun.look(everything=True)
        assert begun.cursor.base == 2 and not begun.look(everything=True)
        kept = {told["event_id"] for told in Journal(out).carried(begun.cursor)}
        assert kept == {SECOND[-1]["event_id"], "e00800", "e00805"}, "strangers for a week"
    dataset.save(out / "ingest")
    promote(out / "releases", 1)  # it has not learned any of these
    begun.look(everything=True)
    kept = {told["event_id"] for told in Journal(out).carried(begun.cursor)}
    assert begun.cursor.base == 1 and {told["event_id"] for told in [*FIRST, *SECOND]} <= kept


def test_a_release_that_is_promoted_again_is_followed_again(calm: Path, tmp_path: Path):
    out = shutil.copytree(calm, tmp_path / "run", symlinks=True)
    shutil.copytree(calm.parent / "feedback", tmp_path / "feedback")
    one = follower(out)
    write_release(out, Dataset.load(out / "ingest"), one.learner.released.ensemble, version=2)
    one.look()
    assert one.cursor.version == 2_000_001
    promote(out / "releases", 1)  # 2 is withdrawn
    one.look()
    assert one.cursor.base == 1 and (out / "followed" / "2000001").is_dir()
    promote(out / "releases", 2, "canary"), promote(out / "releases")
    log_of(out, [event(700 + number, "u3", 2 * number + 2, NOW) for number in range(12)])
    one.look(everything=True)
    assert (one.cursor.base, one.cursor.since) == (2, 1) and one.cursor.version > 2_000_001
    assert read_labels(out / "followed").stable == one.cursor.version
    learned = [told["event_id"] for number in (2, 3) for told in Journal(out).events(one.cursor, number)]
    assert len(learned) == len(set(learned)) == len(FIRST) + len(SECOND) + 12
    shutil.rmtree(out / "follow")
    back = roll_back(out)
    assert back.version == 2_000_000 and back.since == one.cursor.update, "what is there is not published again"


def test_going_back_at_a_new_release_keeps_the_events_for_again(calm: Path, tmp_path: Path):
    out = shutil.copytree(calm, tmp_path / "run", symlinks=True)
    (tmp_path / "feedback").mkdir()  # as a stream, which sends nothing again
    one = follower(out)
    write_release(out, Dataset.load(out / "ingest"), one.learner.released.ensemble, version=2)
    back = roll_back(out)
    assert (back.base, back.version) == (2, 2_000_000)
    one.look()
    assert one.cursor == back and read_labels(out / "followed").stable == 2_000_000, "nothing is learned unasked"
    again(out)
    two = follower(out)
    assert two.look(everything=True) and two.cursor.version > 2_000_001
    learned = {told["event_id"] for told in Journal(out).events(two.cursor, two.cursor.update)}
    assert learned == {told["event_id"] for told in [*FIRST, *SECOND]}


def test_each_release_is_followed_with_the_settings_that_it_was_made_with(out: Path):
    """Histories of another length are arrays of another shape, which the graph of the other release refuses."""
    job, longer = out / "jobs" / "0002", load_config(overrides=["ranking.history_length=40", "data.min_value=3"])
    for name in ("ingest", "served"):
        shutil.copytree(out / name, job / name)
    JobRecord(2, "", None, "", "", "", True).write(job)
    write_outcome(job, {"outcome": "published", "release": {"version": 2}})
    write_settings(out, CONFIG), write_settings(job, longer)
    write_release(out, Dataset.load(job / "ingest"), load_served(job).ensemble, 2, longer)
    promote(out / "releases", 1), promote(out / "releases", 2, "canary")
    log_of(out, FIRST)
    arguments = ["follow", "--once", "--out", str(out), "--log", str(out.parent / "feedback"), "--batch", "12"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "release 1 with update 1" in done.output, done.output
    settings_of = {out: CONFIG, job: longer}
    one = Follower(out, FeedbackTail(out.parent / "feedback"), settings_of.__getitem__, SETTINGS, say=lambda line: None)
    assert one.learner.config == CONFIG
    promote(out / "releases")
    log_of(out, SECOND)
    one.look(everything=True)
    assert one.learner.config == longer and one.cursor.base == 2 and one.cursor.version > 2_000_000


def test_what_may_pass_ends_with_13_and_a_wrong_command_line_with_2(out: Path, monkeypatch: pytest.MonkeyPatch):
    write_settings(out, CONFIG)
    arguments = ["follow", "--once", "--out", str(out), "--log", str(out.parent / "feedback")]

    def refuse(*given, **named):
        raise ReleaseError("127.0.0.1:8500 has not loaded release 1000000")

    monkeypatch.setattr(Followed, "publish", refuse)
    for more in ([], ["--rollback"]):
        done = CliRunner().invoke(app, [*arguments, *more])
        assert done.exit_code == 13 and "failed: 127.0.0.1:8500 has not loaded" in done.output, done.output
    wrong = CliRunner().invoke(app, [*arguments, "--max-staleness", "2"])
    assert wrong.exit_code == 2 and "max_staleness" in wrong.output
    (out / "settings.toml").unlink()
    untold = CliRunner().invoke(app, arguments)
    assert untold.exit_code == 2 and "does not say with which settings" in untold.output
    shutil.rmtree(out / "releases")  # as before the first night
    early = CliRunner().invoke(app, arguments)
    assert early.exit_code == 13 and "no release to follow" in early.output, early.output


class Stream:
    """A source that does not send again what was kept, as Kafka."""

    def __init__(self, events: list[dict]) -> None:
        self.events, self.place, self.kept = events, 0, 0

    def begin_at(self, received: float) -> None:
        """It sends what was not kept, however old."""

    def poll(self) -> list[dict]:
        self.place, new = len(self.events), self.events[self.place :]
        return new

    def keep(self) -> None:
        self.kept = self.place


def test_a_stream_that_sends_nothing_again_loses_nothing_by_going_back(out: Path):
    stream = Stream(list(FIRST))

    def start() -> Follower:
        stream.place = stream.kept
        return Follower(out, stream, lambda run: CONFIG, SETTINGS, clock=lambda: NOW, say=lambda line: None)

    assert start().look() and stream.kept == 12
    stream.events += SECOND
    first = [one["event_id"] for one in FIRST]
    for number in (3, 6):
        roll_back(out)
        again(out)
        if number == 6:
            again(out)  # nothing is rolled back any more
            drop_followed(out, frozenset(["u1"]))
            stream.events.append(event(500, "u3", 4, NOW))
        one = start()
        assert one.look() and not one.look() and cursor(out)["update"] == number
        learned = [told["event_id"] for told in Journal(out).events(one.cursor, number)]
        second = [told["event_id"] for told in SECOND]
        assert learned == (first + second if number == 3 else [*first[10:], *second, "e00500"])
        assert one.cursor.version == 1_000_000 + number and stream.kept == len(stream.events)


def test_an_update_of_what_waited_is_done_once_whenever_it_is_killed(out: Path, monkeypatch: pytest.MonkeyPatch):
    stream = Stream(list(FIRST))
    begin = lambda: Follower(out, stream, lambda run: CONFIG, SETTINGS, clock=lambda: NOW, say=lambda line: None)  # noqa: E731
    assert begin().look()
    roll_back(out)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            again(out)
    assert cursor(out)["rolled_back"] and cursor(out)["update"] == 1
    again(out)
    one = begin()
    with monkeypatch.context() as patch:
        patch.setattr(Followed, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            one.look()
    one = begin()
    assert cursor(out)["update"] == 3 and not one.look() and not one.batches.waiting


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60)), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_no_event_grows_older_than_the_bound(arrivals, random):
    """Bursts of events at any times, updates of up to a quarter of the bound, a look every second."""
    batches, now, number, ages = EventBatches(batch=50, max_staleness=30.0), 1_000.0, 0, []
    waiting, moment = [], now
    for gap, size in arrivals:
        moment += gap
        waiting += [{"event_id": f"{(number := number + 1)}", "received": int(moment), "at": moment} for _ in range(size)]
    while waiting or batches.waiting:
        batches.add([one for one in waiting if one["at"] <= now])
        waiting = [one for one in waiting if one["at"] > now]
        if batches.due(now):
            taken, begun = batches.take(), now
            now += random.uniform(0.1, 7.5)
            ages += [now - one["at"] for one in taken]
            batches.published(taken, begun, now)
        now += 1.0
    assert len(ages) == number and max(ages) <= 30.0 and batches.late == 0
    assert FIRST_GUESS <= 7.5


def test_batches_refuse_what_cannot_hold():
    with pytest.raises(ValueError, match="max_staleness"):
        EventBatches(batch=1, max_staleness=2.0)
    slow = EventBatches(batch=9, max_staleness=10.0)
    slow.add([event(1, "u", 1, 100)])
    assert slow.published(slow.take(), 100, 120) == 20 and slow.late == 1


def test_an_event_of_a_clock_that_is_ahead_is_as_old_as_it_has_been_here():
    batches = EventBatches(batch=9, max_staleness=30.0)
    batches.add([event(1, "u", 1, 4_000)])
    begun = next(now for now in range(100, 4_100) if batches.due(now))
    assert begun - 100 <= 30 - FIRST_GUESS and batches.published(batches.take(), begun, begun + 7) == begun + 7 - 100
    assert not batches.seen
