"""Calls to a model server that is slow, down, or coming back: retries, hedges, and the circuit breaker."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client.circuit_breaker import CLOSED, OPEN, CircuitBreaker
from serving.client.hedging import BURST, LEAST, HedgePolicy
from serving.client.model_client import ModelClient
from serving.status import ServingError
from serving.tensors import to_proto
from serving.trace_context import CURRENT, Trace


class Scripted(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Does what it is told at each call, in turn, and then answers the number of the call."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.script: list[Callable[[grpc.ServicerContext], None]] = []
        self.calls = 0
        self.traces: list[str] = []

    def Predict(self, request, context):
        with self.lock:
            self.calls += 1
            number = self.calls
            action = self.script.pop(0) if self.script else lambda _: None
            self.traces += [value for name, value in context.invocation_metadata() if name == "traceparent"]
        action(context)
        reply = predict_pb2.PredictResponse()
        reply.model_spec.version.value = 7
        to_proto(np.array([number], np.int32), reply.outputs["number"])
        return reply


def fail(code: grpc.StatusCode) -> Callable[[grpc.ServicerContext], None]:
    return lambda context: context.abort(code, "as told")


def wait(seconds: float) -> Callable[[grpc.ServicerContext], None]:
    return lambda context: time.sleep(seconds)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield scripted, f"127.0.0.1:{port}"
    server.stop(0)


@pytest.fixture
def server(running: tuple[Scripted, str]) -> tuple[Scripted, str]:
    scripted, target = running
    scripted.script, scripted.calls, scripted.traces = [], 0, []
    return scripted, target


def ask(client: ModelClient, model: str = "m", **options) -> int:
    return int(client.predict(model, {"x": np.zeros(1, np.float32)}, **options)["number"][0])


def test_a_server_that_restarts_is_asked_again_and_another_refusal_is_not(server) -> None:
    scripted, target = server
    with ModelClient(target, deadline=5) as client:
        scripted.script = [fail(grpc.StatusCode.UNAVAILABLE)] * 2
        assert ask(client) == 3
        scripted.script = [fail(grpc.StatusCode.INVALID_ARGUMENT)]
        with pytest.raises(ServingError, match="INVALID_ARGUMENT: as told"):
            ask(client)
        assert scripted.calls == 4


def test_a_slow_call_is_sent_again_and_the_first_answer_counts(server) -> None:
    scripted, target = server
    hedged: list[str] = []
    with ModelClient(target, deadline=5, hedge=True, on_hedge=hedged.append) as client:
        for _ in range(LEAST):
            ask(client)
        assert not hedged or len(hedged) < LEAST / 4
        before, scripted.script = len(hedged), [wait(2.0)]
        started = time.perf_counter()
        number = ask(client)
        assert time.perf_counter() - started < 1.0
        assert number == scripted.calls and hedged[before:] == ["m"]
        # Of a call that fails while the other is on its way, the other counts.
        scripted.script = [lambda context: (time.sleep(0.3), context.abort(grpc.StatusCode.INTERNAL, "x")), wait(0.6)]
        assert ask(client) == scripted.calls


def test_hedges_end_with_their_budget() -> None:
    policy = HedgePolicy()
    for _ in range(100):
        policy.observe(0.01)
    assert sum(policy.spend() for _ in range(100)) == BURST
    for _ in range(100):
        policy.observe(0.01)
    assert sum(policy.spend() for _ in range(100)) == BURST
    for _ in range(50):
        policy.observe(0.01)
    assert sum(policy.spend() for _ in range(100)) == 5


def test_a_deadline_covers_the_hedge_too(server) -> None:
    scripted, target = server
    with ModelClient(target, deadline=0.4, hedge=True) as client:
        for _ in range(LEAST):
            ask(client)
        scripted.script = [wait(2.0), wait(2.0)]
        started = time.perf_counter()
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            ask(client)
        assert time.perf_counter() - started < 1.2


def test_a_failing_model_is_left_alone_and_tried_again(server) -> None:
    scripted, target = server
    breaker = lambda: CircuitBreaker(0.2, least=3, window=4)  # noqa: E731
    with ModelClient(target, deadline=5, breaker=breaker) as client:
        assert ask(client) == 1
        scripted.script = [fail(grpc.StatusCode.INTERNAL)] * 2
        for _ in range(2):  # of three calls: more than half
            with pytest.raises(ServingError, match="INTERNAL"):
                ask(client)
        calls = scripted.calls
        for _ in range(20):
            started = time.perf_counter()
            with pytest.raises(ServingError, match="UNAVAILABLE: m is not asked for a while"):
                ask(client)
            assert time.perf_counter() - started < 0.05
        assert scripted.calls == calls and client.breakers is not None and client.breakers["m"].state == OPEN
        assert ask(client, "other") == calls + 1  # each model has its own
        time.sleep(0.25)
        assert ask(client) == calls + 2 and client.breakers["m"].state == CLOSED
        scripted.script = [fail(grpc.StatusCode.INVALID_ARGUMENT)] * 10  # says that the server works
        for _ in range(10):
            with pytest.raises(ServingError):
                ask(client)
        assert client.breakers["m"].state == CLOSED


def test_the_trace_goes_along(server) -> None:
    scripted, target = server
    trace = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    with ModelClient(target, deadline=5) as client:
        token = CURRENT.set(trace)
        ask(client)
        CURRENT.reset(token)
        ask(client)
    assert scripted.traces == [trace.header]


@given(
    outcomes=st.lists(st.tuples(st.booleans(), st.floats(0, 3, allow_subnormal=False)), max_size=60),
    seed=st.integers(0, 9),
)
def test_a_breaker_lets_one_probe_through_at_a_time_and_always_comes_back(outcomes, seed: int) -> None:
    now = [0.0]
    breaker = CircuitBreaker(1.0, least=2, window=4, longest=8.0, clock=lambda: now[0], rng=random.Random(seed))
    for succeeds, gap in outcomes:
        now[0] += gap
        opened = breaker.state == OPEN
        if breaker.allow():
            if opened:
                assert not breaker.allow()  # a second caller while the probe is under way
            breaker.record(succeeds)
            assert not (opened and succeeds) or breaker.state == CLOSED
        else:
            assert breaker.state == OPEN
    now[0] += 8.0
    assert breaker.allow()
    breaker.record(True)
    assert breaker.state == CLOSED
