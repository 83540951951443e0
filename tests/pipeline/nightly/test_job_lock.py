"""The job lock: one at a time, taken over from the dead and the expired, and lost by whoever overslept."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from pipeline.nightly.lock import GUARD_FILE, LOCK_FILE, LockedError, held, is_free, process_start, read_owner


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
