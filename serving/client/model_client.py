"""A gRPC client of a model server: deadlines, retries, and where wanted hedged calls and a circuit breaker."""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.client.circuit_breaker import CircuitBreaker
from serving.client.hedging import HedgePolicy, hedged
from serving.status import ServingError
from serving.tensors import DEFAULT_SIGNATURE, to_array, to_proto
from serving.trace_context import CURRENT, HEADER

DEADLINE_SECONDS = 5.0

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC would look for a server that is gone ever more rarely, at last every two minutes, and so overlook its return.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    (
        "grpc.service_config",
        json.dumps(
            {
                # Of several addresses behind one name each takes a call in turn; a hedge then goes to another server.
                "loadBalancingConfig": [{"round_robin": {}}],
                "methodConfig": [
                    {
                        "name": [{}],
                        # A server that restarts; anything else is answered at once. gRPC draws each wait from ±20 %.
                        "retryPolicy": {
                            "maxAttempts": 3,
                            "initialBackoff": "0.05s",
                            "maxBackoff": "0.5s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": ["UNAVAILABLE"],
                        },
                    }
                ],
                # When most calls fail, retries stop: they would only add to what a server cannot bear.
                "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
            }
        ),
    ),
)

SERVER_FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""What says that a server is unwell. Any other refusal is about the request, and comes from a server that works."""


class ModelClient:
    """Calls a model server over gRPC.

    Args:
        target: "host:port" of the gRPC port.
        deadline: seconds for a call, its retries and hedge included, unless the call gives its own.
        hedge: whether a Predict call that takes longer than the 95th percentile of its model is sent once more.
        breaker: makes the circuit breaker of a model when it is first asked; None = no breaker. While one is open, calls
            of that model fail with UNAVAILABLE at once.
        on_hedge: told the model's name whenever a call is sent again.

    Attributes:
        breakers: by model name.

    Example:
        client = ModelClient("127.0.0.1:8500")
        client.predict("half_plus_two", {"x": np.array([1.0, 2.0, 5.0], np.float32)})["y"]
    """

    def __init__(
        self,
        target: str,
        *,
        deadline: float = DEADLINE_SECONDS,
        hedge: bool = False,
        breaker: Callable[[], CircuitBreaker] | None = None,
        on_hedge: Callable[[str], None] | None = None,
    ) -> None:
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._deadline = deadline
        self._on_hedge = on_hedge
        self._policies: dict[str, HedgePolicy] | None = collections.defaultdict(HedgePolicy) if hedge else None
        self.breakers: dict[str, CircuitBreaker] | None = None if breaker is None else collections.defaultdict(breaker)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        version: int | None = None,
        label: str | None = None,
        deadline: float | None = None,
        signature_name: str = DEFAULT_SIGNATURE,
    ) -> dict[str, np.ndarray]:
        """What `predict_version` answers, which takes the same arguments, without the version."""
        return self.predict_version(model, inputs, version, label, deadline, signature_name)[0]

    def predict_version(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        version: int | None = None,
        label: str | None = None,
        deadline: float | None = None,
        signature_name: str = DEFAULT_SIGNATURE,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Runs a model on named arrays.

        Args:
            model: model name.
            inputs: arrays by input alias; strings may be `str` or `bytes`.
            version: a version number; None = the highest one loaded.
            label: a version label, instead of a number.
            deadline: seconds for this call.
            signature_name: which signature.

        Returns:
            Arrays by output alias, strings as `bytes` in object arrays; and the version that answered.

        Raises:
            ServingError: with the server's code and message; DEADLINE_EXCEEDED and UNAVAILABLE come from the client's
                side.
            ValueError: both a version and a label.
        """
        if version is not None and label is not None:
            raise ValueError(f"version and label: give one of them, got {version} and {label!r}")
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature_name
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        for alias, array in inputs.items():
            to_proto(np.asarray(array), request.inputs[alias])
        response = self._call(model, request, self._deadline if deadline is None else deadline)
        outputs = {alias: to_array(proto, alias) for alias, proto in response.outputs.items()}
        return outputs, response.model_spec.version.value

    def _call(self, model: str, request: predict_pb2.PredictRequest, deadline: float) -> Any:
        trace = CURRENT.get()
        metadata = None if trace is None else ((HEADER, trace.header),)
        breaker = None if self.breakers is None else self.breakers[model]
        policy = None if self._policies is None else self._policies[model]
        if breaker is not None and not breaker.allow():
            raise ServingError(grpc.StatusCode.UNAVAILABLE, f"{model} is not asked for a while: its last calls failed")
        succeeded = False

        def start(seconds: float) -> Any:
            return self._prediction.Predict.future(request, timeout=seconds, metadata=metadata)

        def spend() -> bool:
            again = policy is not None and policy.spend()
            if again and self._on_hedge is not None:
                self._on_hedge(model)
            return again

        try:
            started = time.perf_counter()
            call = hedged(start, deadline, None if policy is None else policy.delay(), spend)
            error = call.exception()
            succeeded = error is None or call.code() not in SERVER_FAILURES
            if error is not None:
                raise ServingError(call.code(), call.details() or "")
            if policy is not None:
                policy.observe(time.perf_counter() - started)
            return call.result()
        finally:
            if breaker is not None:
                breaker.record(succeeded)

    def status(self, model: str) -> dict[int, str]:
        """State of each version of a model by number: "AVAILABLE", "LOADING", "END", ..."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = self._models.GetModelStatus(request, timeout=self._deadline)
        except grpc.RpcError as error:
            raise ServingError(error.code(), error.details() or "") from None
        names = get_model_status_pb2.ModelVersionStatus.State
        return {entry.version: names.Name(entry.state) for entry in response.model_version_status}

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> ModelClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
