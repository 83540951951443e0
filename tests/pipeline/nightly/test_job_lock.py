"""The job lock: one at a time, taken over from the dead and the expired, and lost by whoever overslept."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from pipeline.nightly import lock as job_lock
from pipeline.nightly.lock import GUARD_FILE, LOCK_FILE, LockedError, held, is_free, process_start, read_owner
from pipeline.nightly.termination import ended_by_sigterm
from pipeline.stage import StageError


def hold(folder, ready):
    with held(folder, "job", 60.0):
        ready.send(True)
        time.sleep(60)


def start_holder(folder):
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=hold, args=(folder, theirs), daemon=True)
    process.start()
    assert mine.poll(10) and mine.recv()
    return process


def test_a_second_job_is_told_who_is_at_work_until_that_one_is_killed(tmp_path):
    process = start_holder(tmp_path)
    with pytest.raises(LockedError, match=rf"locked by process {process.pid} on .* \(job, since"), held(tmp_path, "job", 60.0):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with held(tmp_path, "job", 60.0) as lock:
        lock.check()
    assert sorted(path.name for path in tmp_path.iterdir()) == [GUARD_FILE]


def test_owners_elsewhere_keep_it_until_it_expires():
    mine = {"host": os.uname().nodename, "process": os.getpid(), "began": process_start(os.getpid()), "expires": 100.0}
    assert not is_free(mine, 99.0) and is_free(mine, 100.0)
    assert is_free({**mine, "began": "another process with this number"}, 99.0)
    assert not is_free({**mine, "host": "elsewhere", "process": 1, "began": "?"}, 99.0)


def test_who_overslept_notices_and_leaves_the_lock_to_the_other(tmp_path):
    with held(tmp_path, "job", 60.0) as lock:
        owner = read_owner(tmp_path)
        (tmp_path / LOCK_FILE).write_text(json.dumps({**owner, "token": "other", "doing": "job", "process": 7}))
        lock.renew()
        with pytest.raises(LockedError, match="process 7"):
            lock.check()
    assert read_owner(tmp_path)["token"] == "other"


def test_it_is_renewed_while_it_is_held(tmp_path):
    with held(tmp_path, "job", 0.6):
        first = read_owner(tmp_path)["expires"]
        time.sleep(0.5)
        assert read_owner(tmp_path)["expires"] > first + 0.1


def test_a_damaged_lock_file_locks_nobody_out(tmp_path):
    for text in ("", "[]", '{"token": 1}'):
        (tmp_path / LOCK_FILE).write_text(text)
        with held(tmp_path, "job", 60.0) as lock:
            lock.check()


def elsewhere(folder, seconds):
    """Another machine's lock."""
    folder.mkdir(exist_ok=True)
    now = time.time()
    owner = {"token": "theirs", "host": "elsewhere", "process": 7, "began": "?", "doing": "job", "since": now}
    (folder / LOCK_FILE).write_text(json.dumps({**owner, "expires": now + seconds}))


def test_the_lock_of_a_pod_that_is_gone_is_waited_for(tmp_path):
    elsewhere(tmp_path, 0.4)
    said, begun = [], time.monotonic()
    with held(tmp_path, "job", 60.0, said.append) as lock:
        assert 0.3 < time.monotonic() - begun < 5
        lock.check()
        assert read_owner(tmp_path)["token"] == lock.token
    assert len(said) == 1 and "waiting for process 7 on elsewhere" in said[0]


def test_a_lock_that_is_given_up_meanwhile_is_taken_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(job_lock, "LOOK_SECONDS", 0.02)
    elsewhere(tmp_path, 60.0)
    threading.Timer(0.1, (tmp_path / LOCK_FILE).unlink).start()
    with held(tmp_path, "job", 60.0, lambda line: None) as lock:
        assert read_owner(tmp_path)["token"] == lock.token


def test_an_owner_elsewhere_that_renews_it_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(job_lock, "LOOK_SECONDS", 0.02)
    elsewhere(tmp_path, 60.0)
    threading.Timer(0.1, elsewhere, (tmp_path, 61.0)).start()
    begun = time.monotonic()
    with pytest.raises(LockedError, match="locked by process 7 on elsewhere"), held(tmp_path, "job", 60.0, lambda line: None):
        pass
    assert time.monotonic() - begun < 5


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lock_of_many_minutes_is_renewed_soon_enough_to_be_told_from_a_dead_one(tmp_path, monkeypatch):
    assert job_lock.RENEW_SECONDS == 20.0
    monkeypatch.setattr(job_lock, "RENEW_SECONDS", 0.05)
    with held(tmp_path, "job", 900.0):
        first = read_owner(tmp_path)["expires"]
        until(lambda: read_owner(tmp_path)["expires"] > first)


def test_a_disk_that_refuses_for_a_moment_does_not_end_the_renewing(tmp_path, monkeypatch):
    refused, write = [], job_lock._write

    def refuse(folder, owner):
        refused.append(folder)
        raise OSError("stale file handle")

    monkeypatch.setattr(job_lock, "RENEW_SECONDS", 0.02)
    with held(tmp_path, "job", 60.0) as lock:
        monkeypatch.setattr(job_lock, "_write", refuse)
        until(lambda: len(refused) >= 2)
        first = lock.expires
        lock.check()  # nobody else takes it yet
        monkeypatch.setattr(job_lock, "_write", write)
        until(lambda: lock.expires > first)
        lock.check()
        refused.clear()
        monkeypatch.setattr(job_lock, "_write", refuse)
        until(lambda: len(refused) >= 2)
        lock.expires = time.time() - 1
        with pytest.raises(StageError, match="could not be renewed"):
            lock.check()
        monkeypatch.setattr(job_lock, "_write", write)
        lock.check()  # nobody has taken it meanwhile
        assert lock.expires > time.time() + 50


def test_what_cannot_be_read_is_not_free(tmp_path, monkeypatch):
    with held(tmp_path, "job", 60.0) as lock, monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_text", refuse_to_read)
        with pytest.raises(OSError, match="stale"):
            read_owner(tmp_path)
        lock.check()
        lock.expires = time.time() - 1
        with pytest.raises(StageError, match="could not be renewed"):
            lock.check()


def refuse_to_read(path, *arguments, **named):
    raise OSError("stale file handle")


def test_a_job_that_is_told_to_end_leaves_no_lock(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ended_by_sigterm(), held(tmp_path, "job", 60.0):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert ended.value.code == 143 and read_owner(tmp_path) is None
    assert signal.getsignal(signal.SIGTERM) is before
