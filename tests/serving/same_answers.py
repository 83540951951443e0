"""One request by every way that leads to a model: Python, the local server's two ports, a stranger's client, the C API."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import ovmsclient
import tensorflow as tf

from serving.client.model_client import ModelClient
from serving.local import LocalServer
from serving.releases.release import Release
from serving.server.warmup import read_warmup
from serving.tensors import DEFAULT_SIGNATURE, to_array
from tests.serving.independent import run_capi_jobs

Answers = dict[str, np.ndarray]
TOLERANCE = 1e-4


class Case(NamedTuple):
    """A request to one signature, and what the graph answers in this process."""

    model: str
    signature: str
    inputs: Answers
    expected: Answers


def cases(release: Release, models: Sequence[str], more: Sequence[tuple[str, Answers]] = ()) -> list[Case]:
    """The last warm-up request of every signature that has one, requests to those that have none (items like one,
    search by its other name, where an item lies in search), and last `more` (model, inputs) of default signatures."""
    found: dict[tuple[str, str], Case] = {}

    def add(model: str, signature: str, inputs: Answers) -> None:
        found[model, signature] = _asked(graphs[model], model, signature, inputs)

    graphs = {model: tf.saved_model.load(str(_folder(release, model))) for model in models}
    for model in models:
        requests = [log.predict_log.request for log in read_warmup(_folder(release, model))]
        last = {request.model_spec.signature_name or DEFAULT_SIGNATURE: request for request in requests}
        for signature, request in last.items():
            add(model, signature, {alias: to_array(proto, alias) for alias, proto in request.inputs.items()})
    default = found["retrieval", DEFAULT_SIGNATURE]
    beside = {name: default.inputs[name] for name in ("exclude_item_ids", "k")}
    add("retrieval", "similar", {"embedding": default.expected["query"], **beside})
    if {"search", "item_encoder"} <= set(models):
        encoded = found["item_encoder", DEFAULT_SIGNATURE].expected
        vectors = {"embedding": encoded["embedding"], "text_vector": encoded["text_vector"]}
        add("search", "search", found["search", DEFAULT_SIGNATURE].inputs)
        add("search", "items", {**vectors, "text_present": vectors["text_vector"].any(axis=1)})
    return [*found.values(), *(_asked(graphs[model], model, DEFAULT_SIGNATURE, inputs) for model, inputs in more)]


def answers_of(release: Release, server: LocalServer, asked: list[Case]) -> Iterator[tuple[str, Case, Answers]]:
    """(way, case, answer) of the C API, gRPC, REST and `ovmsclient`, which can name no signature and so asks the default
    one alone."""
    by_c = run_capi_jobs([(_folder(release, case.model), case.signature, [case.inputs]) for case in asked])
    stranger = ovmsclient.make_grpc_client(server.target)
    with ModelClient(server.target, deadline=60) as client:
        for case, (answer,) in zip(asked, by_c, strict=True):
            yield "C API", case, answer
            yield "gRPC", case, client.predict(case.model, case.inputs, signature_name=case.signature)
            inputs = {name: _json(value.tolist()) for name, value in case.inputs.items()}
            body = {"signature_name": case.signature, "inputs": inputs}
            reply = httpx.post(f"{server.url}/v1/models/{case.model}:predict", json=body, timeout=60)
            assert reply.status_code == 200, f"{case.model} {case.signature}: {reply.text}"
            yield "REST", case, _named(reply.json()["outputs"], case)
            if case.signature == DEFAULT_SIGNATURE:
                given = {name: one.astype("S") if one.dtype == object else one for name, one in case.inputs.items()}
                yield "ovmsclient", case, _named(stranger.predict(given, case.model, release.version), case)


def _asked(graph: Any, model: str, signature: str, inputs: Answers) -> Case:
    tensors = {name: tf.constant(value, _type(value)) for name, value in inputs.items()}
    answer = graph.signatures[signature](**tensors)
    return Case(model, signature, inputs, {name: one.numpy() for name, one in answer.items()})


def _folder(release: Release, model: str) -> Path:
    return release.folder / model / str(release.version)


def _named(outputs: Any, case: Case) -> Answers:
    """One output comes back without its name."""
    outputs = outputs if isinstance(outputs, dict) else dict.fromkeys(case.expected, outputs)
    return {name: np.asarray(value) for name, value in outputs.items()}


def assert_same(way: str, case: Case, answer: Answers) -> None:
    """The same outputs: ids to the letter, numbers within `TOLERANCE`."""
    label, expected = f"{case.model} {case.signature} by {way}", case.expected
    assert answer.keys() == expected.keys(), label
    for name, values in expected.items():
        found = np.asarray(answer[name]).reshape(values.shape)
        if values.dtype == object:
            assert _texts(found) == _texts(values), f"{label}: {name}"
        else:
            close = {"atol": TOLERANCE, "rtol": TOLERANCE, "err_msg": f"{label}: {name}"}
            np.testing.assert_allclose(found.astype(values.dtype), values, **close)


def _type(value: np.ndarray) -> Any:
    return tf.string if value.dtype == object else value.dtype


def _json(value: Any) -> Any:
    """Lists with strings as the `b64` objects that also carry what is no text."""
    if isinstance(value, list):
        return [_json(one) for one in value]
    value = value.encode() if isinstance(value, str) else value
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _texts(array: np.ndarray) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else str(one) for one in array.ravel()]
