"""The same SavedModels through TensorFlow's C API, in a process without TensorFlow in Python and without our code."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.client.model_client import ModelClient
from serving.server.inference import predict_arrays
from serving.server.servable import Servable, read_meta_graph
from tests.serving.independent import run_capi
from tests.serving.models import write_scann


def texts(array: np.ndarray) -> np.ndarray:
    if array.dtype != object:
        return array
    return np.array([value.decode() for value in array.ravel()], "U").reshape(array.shape)


def test_half_plus_two_agrees_everywhere(model_store: Path, client: ModelClient, rest: httpx.Client):
    requests = [{"x": np.array([1, 2, 5], np.float32)}, {"x": np.zeros(0, np.float32)}]
    answers = run_capi(model_store / "half_plus_two" / "1", requests)
    np.testing.assert_array_equal(answers[0]["y"], [2.5, 3.0, 4.5])
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(client.predict("half_plus_two", request, version=1)["y"], answer["y"])
        body = {"inputs": request["x"].tolist()}
        assert rest.post("/v1/models/half_plus_two/versions/1:predict", json=body).json() == {
            "outputs": answer["y"].tolist()
        }


def test_strings_and_scalars_agree_everywhere(model_store: Path, client: ModelClient):
    requests = [
        {"ids": np.array([["古琴", "unheard", ""], ["drone", "ambient", "bossa nova"]]), "k": np.array(2, np.int32)},
        {"ids": np.array([["x" * 100]]), "k": np.array(1, np.int32)},  # longer than a string's inline storage
        {"ids": np.zeros((2, 0), "U1"), "k": np.array(0, np.int32)},
    ]
    answers = run_capi(model_store / "lookup" / "1", requests)
    np.testing.assert_array_equal(answers[0]["rows"], [[3, 0], [4, 1]])
    assert answers[1]["echo"].tolist() == [["x" * 100]]
    for request, answer in zip(requests, answers, strict=True):
        served = client.predict("lookup", request)
        assert served.keys() == answer.keys()
        for alias, array in served.items():
            np.testing.assert_array_equal(texts(array), answer[alias])


def test_scann_loads_with_its_operations(tmp_path: Path):
    """A graph with custom operations: the servable imports them, the C API loads their library; both find the true
    neighbours."""
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    folder = write_scann(tmp_path, 1, vectors, 5)
    queries = vectors[:3] + 0.1
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    (answer,) = run_capi(folder, [{"query": queries}])
    np.testing.assert_array_equal(answer["rows"], exact)
    functions = read_meta_graph(folder).graph_def.library.function
    assert any(node.op.startswith("Scann>") for function in functions for node in function.node_def)
    servable = Servable("scann", 1, folder)
    served = predict_arrays(servable, "", {"query": queries})
    np.testing.assert_array_equal(served["rows"], exact)
    np.testing.assert_allclose(served["scores"], np.sort(queries @ vectors.T, axis=1)[:, :-6:-1], rtol=1e-5)
    assert servable.retire(timeout=5)


def test_the_runner_says_what_is_wrong(model_store: Path, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"inputs are \['x'\], got \['z'\]"):
        run_capi(model_store / "half_plus_two" / "1", [{"z": np.zeros(1)}])
    with pytest.raises(RuntimeError, match="TF_LoadSessionFromSavedModel: Could not find SavedModel"):
        run_capi(tmp_path, [{"x": np.zeros(1)}])
