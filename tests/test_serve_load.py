"""The load of `benchmarks/serve.py`: what a request waits for is part of its time."""

import itertools
import time

import pytest

from benchmarks.serve_load import at_most, in_turns, open_loop, per_second


def test_a_load_beyond_what_a_system_can_bear_shows_its_queue():
    """At twice its rate the queue grows by half of the elapsed time; a loop that waits for answers sees nothing of it."""

    def ask(number):
        time.sleep(0.005)

    closed = in_turns({"system": ask}, 25)["system"]
    loaded = open_loop(ask, rate=400.0, seconds=0.4)
    assert 5 <= closed["p50_ms"] < 40 and loaded["p99_ms"] > 150 and loaded["answered_per_second"] < 200
    assert open_loop(ask, rate=400.0, seconds=0.4, workers=16)["p50_ms"] < loaded["p50_ms"] / 2


def test_one_stall_is_counted_in_every_request_that_was_due_meanwhile():
    stalls = itertools.chain([0.2], itertools.repeat(0.0))
    loaded = open_loop(lambda number: time.sleep(next(stalls)), rate=200.0, seconds=0.6)
    assert loaded["p99_ms"] > 150
    slow = itertools.chain([0.2], itertools.repeat(0.0))
    assert in_turns({"system": lambda number: time.sleep(next(slow))}, 100)["system"]["p50_ms"] < 50


@pytest.mark.parametrize("load", [lambda ask: open_loop(ask, 200.0, 0.2, workers=2), lambda ask: at_most(ask, 0.2, workers=2)])
def test_a_request_that_fails_is_no_fast_one(load):
    def ask(number):
        if number == 3:
            raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        load(ask)


def test_systems_take_turns_and_every_request_is_asked():
    asked = []
    in_turns({"a": lambda number: asked.append(("a", number)), "b": lambda number: asked.append(("b", number))}, 30, turn=15)
    names = [name for name, _ in asked]
    assert [name for name, _ in itertools.groupby(names)] == ["a", "b", "a", "b"]
    assert [number for _, number in asked] == list(range(len(asked)))
    assert per_second(lambda number: time.sleep(0.01), 32, 3) < 3200


def test_a_full_load_is_that_of_all_workers():
    def ask(number):
        time.sleep(0.01)

    assert 2 < at_most(ask, 0.3, workers=4) / at_most(ask, 0.3, workers=1) < 4.5
