"""A gRPC client of a model server, and the two-stage recommendation on top: retrieve, then rank."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

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
            ServingError: with the server's code and message; DEADLINE_EXCEEDED and UNAVAILABLE come from the client's side.
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class RankedItem(NamedTuple):
    """One recommended item: its place is its place in the list."""

    item_id: str
    score: float
    click: float
    purchase: float
    retrieval_score: float
    retrieval_rank: int


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The answer to one request.

    Attributes:
        user_id: whom it is for.
        items: best first.
        seconds: wall time of each stage, "retrieval" and "ranking".
        versions: the version of each model that answered.
    """

    user_id: str
    items: list[RankedItem]
    seconds: dict[str, float]
    versions: dict[str, int]


def _strings(values: Sequence[str]) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    array[0, :] = list(values)
    return array


class Recommender:
    """Retrieves candidates, then ranks them, on one model server.

    Args:
        target: "host:port" of the gRPC port, or a client to share.
        label: version label that both models are asked for, so that their releases move together; None = the highest version.
        deadline: seconds for each of the two calls.
    """

    def __init__(self, target: str | ModelClient, *, label: str | None = None, deadline: float = DEADLINE_SECONDS) -> None:
        self.client = target if isinstance(target, ModelClient) else ModelClient(target, deadline=deadline)
        self._label = label
        self._deadline = deadline

    def recommend(
        self,
        user_id: str,
        *,
        recent_item_ids: Sequence[str] = (),
        exclude_item_ids: Sequence[str] = (),
        k: int = 10,
        candidates: int = 200,
        timestamp: int | None = None,
        retrieval_model: str = "retrieval",
        ranking_model: str = "ranking",
    ) -> Recommendation:
        """The k best items for a user.

        Args:
            user_id: any string; one never seen gets the items of a cold start.
            recent_item_ids: most recent first; empty = the history stored at training time.
            exclude_item_ids: never answered.
            k: length of the list.
            candidates: how many items are retrieved and ranked.
            timestamp: time of the request in UTC seconds; None = now.
            retrieval_model: "retrieval", or another index under its name.
            ranking_model: the ranker's name.

        Returns:
            At most k items, by ranking score; equal scores keep the retrieval order.

        Raises:
            ValueError: k or candidates out of range.
            ServingError: what the server answered.
        """
        if not 1 <= k <= candidates:
            raise ValueError(f"k: must be 1 to candidates, got k={k} and candidates={candidates}; ask for more candidates")
        user = np.array([user_id], object)
        recent = _strings(recent_item_ids)
        started = time.perf_counter()
        retrieved, retrieval_version = self.client.predict_version(
            retrieval_model,
            {
                "user_id": user,
                "recent_item_ids": recent,
                "exclude_item_ids": _strings(exclude_item_ids),
                "k": np.int32(candidates),
            },
            label=self._label,
            deadline=self._deadline,
        )
        middle = time.perf_counter()
        keep = retrieved["item_ids"][0] != b""
        ids, scores = retrieved["item_ids"][0][keep], retrieved["scores"][0][keep]
        seconds = {"retrieval": middle - started, "ranking": 0.0}
        if not len(ids):
            return Recommendation(user_id, [], seconds, {retrieval_model: retrieval_version})
        ranked, ranking_version = self.client.predict_version(
            ranking_model,
            {
                "user_id": user,
                "recent_item_ids": recent,
                "candidate_ids": ids[None, :],
                "retrieval_scores": scores[None, :].astype(np.float32),
                "timestamp": np.array([int(time.time()) if timestamp is None else timestamp], np.int64),
            },
            label=self._label,
            deadline=self._deadline,
        )
        seconds["ranking"] = time.perf_counter() - middle
        order = np.argsort(-ranked["score"][0], kind="stable")[:k]
        items = [
            RankedItem(
                item_id=ids[place].decode(),
                score=float(ranked["score"][0, place]),
                click=float(ranked["click"][0, place]),
                purchase=float(ranked["purchase"][0, place]),
                retrieval_score=float(scores[place]),
                retrieval_rank=int(place) + 1,
            )
            for place in order
        ]
        return Recommendation(
            user_id, items, seconds, {retrieval_model: retrieval_version, ranking_model: ranking_version}
        )
