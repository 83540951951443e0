"""Asking running model servers how far a release has got: loaded, and answering under its label."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.releases.manifest import ReleaseError

POLL_SECONDS = 0.5
CALL_SECONDS = 10.0
AVAILABLE = get_model_status_pb2.ModelVersionStatus.State.AVAILABLE

Question = Callable[[grpc.Channel, str], str]
"""Asks a server about a model; "" when all is well, else what is not."""


def wait_until_loaded(servers: Sequence[str], models: Sequence[str], version: int, timeout: float) -> None:
    """Returns when every server has loaded a version of all models.

    Raises:
        ReleaseError: one has not within its own `timeout` seconds, or failed to load it.
    """

    def loaded(channel: grpc.Channel, model: str) -> str:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        request.model_spec.version.value = version
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=CALL_SECONDS)
        status = answer.model_version_status[0]
        if status.state == AVAILABLE:
            return ""
        state = get_model_status_pb2.ModelVersionStatus.State.Name(status.state)
        return f"version {version} is {state} {status.status.error_message}".strip()

    _wait(servers, models, loaded, timeout, f"has not loaded release {version}; no label was moved")


def wait_until_labelled(servers: Sequence[str], models: Sequence[str], label: str, version: int, timeout: float) -> None:
    """Returns when every server answers under a label with a version, for all models.

    Raises:
        ReleaseError: one does not within its own `timeout` seconds.
    """

    def labelled(channel: grpc.Channel, model: str) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = model
        request.model_spec.version_label = label
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        found = stub.GetModelMetadata(request, timeout=CALL_SECONDS).model_spec.version.value
        return "" if found == version else f"{label} is version {found}"

    words = f"does not answer as {label} with release {version}; the config is written, does the server poll it?"
    _wait(servers, models, labelled, timeout, words)


def _wait(servers: Sequence[str], models: Sequence[str], ask: Question, timeout: float, words: str) -> None:
    for server in servers:
        until = time.monotonic() + timeout
        with grpc.insecure_channel(server) as channel:
            for model in models:
                while problem := _asked(channel, model, ask):
                    if time.monotonic() >= until:
                        raise ReleaseError(f"servers: {server} {words} ({model}: {problem}, after {timeout:g} s)")
                    time.sleep(POLL_SECONDS)


def _asked(channel: grpc.Channel, model: str, ask: Question) -> str:
    try:
        return ask(channel, model)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
