"""A gRPC client of a model server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.status import ServingError
from serving.tensors import DEFAULT_SIGNATURE, to_array, to_proto

DEADLINE_SECONDS = 5.0

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    (
        "grpc.service_config",
        json.dumps(
            {
                "methodConfig": [
                    {
                        "name": [{}],
                        "retryPolicy": {  # a server that restarts; anything else is answered at once
                            "maxAttempts": 3,
                            "initialBackoff": "0.05s",
                            "maxBackoff": "0.5s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": ["UNAVAILABLE"],
                        },
                    }
                ]
            }
        ),
    ),
)


class ModelClient:
    """Calls a model server over gRPC.

    Args:
        target: "host:port" of the gRPC port.
        deadline: seconds for a call, unless the call gives its own.

    Example:
        client = ModelClient("127.0.0.1:8500")
        client.predict("half_plus_two", {"x": np.array([1.0, 2.0, 5.0], np.float32)})["y"]
    """

    def __init__(self, target: str, *, deadline: float = DEADLINE_SECONDS) -> None:
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._deadline = deadline

    def predict(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        version: int | None = None,
        label: str | None = None,
        deadline: float | None = None,
        signature_name: str = DEFAULT_SIGNATURE,
    ) -> dict[str, np.ndarray]:
        """Runs a model on named arrays.

        Args:
            model: model name.
            inputs: arrays by input alias; strings may be `str` or `bytes`.
            version: a version number; None = the highest one loaded.
            label: a version label, instead of a number.
            deadline: seconds for this call.
            signature_name: which signature.

        Returns:
            Arrays by output alias; strings are `bytes` in object arrays.

        Raises:
            ServingError: with the server's code and message; DEADLINE_EXCEEDED and UNAVAILABLE come from the client's
                side.
            ValueError: both a version and a label.
        """
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
        """As `predict`, and tells which version answered."""
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
        try:
            response = self._prediction.Predict(request, timeout=self._deadline if deadline is None else deadline)
        except grpc.RpcError as error:
            raise ServingError(error.code(), error.details() or "") from None
        outputs = {alias: to_array(proto, alias) for alias, proto in response.outputs.items()}
        return outputs, response.model_spec.version.value

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
