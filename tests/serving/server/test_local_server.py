"""The local server against TF Serving's documented answers and messages, over gRPC, REST and an independent client."""

from __future__ import annotations

import json

import grpc
import httpx
import numpy as np
import ovmsclient
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from ovmsclient.tfs_compat.base.errors import ModelNotFoundError
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.client.model_client import ModelClient
from serving.local import LocalServer
from serving.server.inference import CLASSIFY_METHOD, REGRESS_METHOD
from serving.server.local_rest import RestApi
from serving.server.rest_document import parse_document
from serving.server.rest_request import to_tensor
from serving.server.rest_response import format_float, write_outputs
from serving.status import ServingError
from serving.tensors import to_array, to_proto

X = np.array([1.0, 2.0, 5.0], np.float32)
HALF = "/v1/models/half_plus_two"
LOOKUP = "/v1/models/lookup"


def refused(code: grpc.StatusCode, words: str, function, *arguments, **options) -> None:
    """Asserts that a call is answered with this code and exactly these words."""
    with pytest.raises(ServingError) as caught:
        function(*arguments, **options)
    assert (caught.value.code, caught.value.message) == (code, words)


# ---- the documented answers


def test_half_plus_two_answers_as_documented(client: ModelClient, rest: httpx.Client):
    np.testing.assert_array_equal(client.predict("half_plus_two", {"x": X}, version=1)["y"], [2.5, 3.0, 4.5])
    answer = rest.post(f"{HALF}/versions/1:predict", json={"instances": [1.0, 2.0, 5.0]})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    # TF Serving's documentation shows this very text, line break included.
    assert answer.text == '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    assert rest.post(f"{HALF}/versions/1:predict", json={"inputs": [1, 2, 5]}).json() == {"outputs": [2.5, 3.0, 4.5]}
    assert rest.post(f"{HALF}/versions/1:predict", json={"inputs": {"x": [1, 2, 5]}}).json() == {
        "outputs": [2.5, 3.0, 4.5]
    }
    named = rest.post(f"{HALF}/versions/1:predict", json={"instances": [{"x": 1}, {"x": 2}]})
    assert named.json() == {"predictions": [2.5, 3.0]}


def test_ovmsclient_agrees(server: LocalServer):
    over_grpc = ovmsclient.make_grpc_client(server.target)
    np.testing.assert_array_equal(over_grpc.predict({"x": X}, "half_plus_two", 1), [2.5, 3.0, 4.5])
    over_http = ovmsclient.make_http_client(f"{server.host}:{server.rest_port}")
    np.testing.assert_array_equal(over_http.predict({"x": X}, "half_plus_two", 1), [2.5, 3.0, 4.5])
    for reader in (over_grpc, over_http):
        state = reader.get_model_status("half_plus_two", 1)[1]
        assert (state["state"], state["error_code"]) == ("AVAILABLE", 0)
    found = over_grpc.get_model_metadata("half_plus_two", 2)
    assert found["model_version"] == 2
    assert found["inputs"]["x"] == {"shape": [-1], "dtype": "DT_FLOAT"}
    # Over HTTP it knows only its own server's spelling of the fields, and hands TF Serving's through.
    assert over_http.get_model_metadata("half_plus_two", 2)["model_spec"]["version"] == "2"
    with pytest.raises(ModelNotFoundError):
        over_grpc.predict({"x": X}, "half_plus_two", 7)


def test_newest_version_labels_and_numbers(client: ModelClient, rest: httpx.Client):
    wanted = {2: [3.5, 4.0, 5.5], 1: [2.5, 3.0, 4.5]}
    for options, version in (({}, 2), ({"version": 1}, 1), ({"label": "stable"}, 1), ({"label": "canary"}, 2)):
        answer, answered = client.predict_version("half_plus_two", {"x": X}, **options)
        assert answered == version
        np.testing.assert_array_equal(answer["y"], wanted[version])
    for path, version in (("", 2), ("/versions/1", 1), ("/labels/stable", 1), ("/labels/canary", 2)):
        body = rest.post(f"{HALF}{path}:predict", json={"instances": X.tolist()}).json()
        assert body == {"predictions": wanted[version]}


def test_strings_scalars_and_bytes(client: ModelClient, rest: httpx.Client):
    ids = np.array([["古琴", "unheard", "ambient"]])
    arrays = client.predict("lookup", {"ids": ids, "k": np.array(2, np.int32)})
    np.testing.assert_array_equal(arrays["rows"], [[3, 0]])
    assert arrays["echo"].tolist() == [["古琴".encode(), b"unheard"]]
    body = rest.post(f"{LOOKUP}:predict", json={"inputs": {"ids": ids.tolist(), "k": 2}}).json()["outputs"]
    assert body["rows"] == [[3, 0]]
    assert body["known"] == [[True, False]]
    assert body["echo"] == [["古琴", "unheard"]]
    assert body["raw_bytes"] == [[{"b64": "5Y+k55C0"}, {"b64": "dW5oZWFyZA=="}]]
    assert body["share"] == [[1.0, 0.0]]
    encoded = rest.post(f"{LOOKUP}:predict", json={"inputs": {"ids": [[{"b64": "5Y+k55C0"}]], "k": 1}}).json()
    assert encoded["outputs"]["rows"] == [[3]]
    empty = rest.post(f"{LOOKUP}:predict", json={"inputs": {"ids": [[]], "k": 1}}).json()["outputs"]
    assert empty["rows"] == [[]]


def test_batch_shapes_other_than_the_static_one(client: ModelClient):
    # The session runs a shape that the placeholder's own does not name: the real server answers it, so this one must.
    answer = client.predict("half_plus_two", {"x": np.ones((2, 3), np.float32)}, version=1)
    np.testing.assert_array_equal(answer["y"], np.full((2, 3), 2.5))


def test_metadata(server: LocalServer, rest: httpx.Client):
    body = rest.get(f"{HALF}/metadata").json()
    assert body["model_spec"] == {"name": "half_plus_two", "version": "2", "signature_name": ""}
    signature = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.target))
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "half_plus_two"
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(request)
    assert caught.value.details() == "GetModelMetadataRequest must specify at least one metadata_field"
    request.metadata_field.append("weights")
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(request)
    assert caught.value.details() == "Metadata field weights is not supported"


def test_status(rest: httpx.Client, client: ModelClient):
    assert rest.get(f"{HALF}/versions/1").json() == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert [entry["version"] for entry in rest.get(HALF).json()["model_version_status"]] == ["2", "1"]
    assert rest.get(f"{HALF}/labels/canary").json()["model_version_status"][0]["version"] == "2"
    assert client.status("half_plus_two") == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_health(server: LocalServer):
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.target))
    for service in ("", "half_plus_two", "tensorflow.serving.PredictionService"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


# ---- classify, regress, multi-inference


def test_classify_and_regress(rest: httpx.Client):
    classified = rest.post(
        f"{HALF}/versions/1:classify", json={"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}
    )
    assert classified.json() == {"results": [[["", 12]]]}
    regressed = rest.post(
        f"{HALF}/versions/1:regress",
        json={"signature_name": "regress_x_to_y", "context": {"x": 80.0}, "examples": [{}, {"x": 2.0}]},
    )
    assert regressed.json() == {"results": [42, 3]}  # the second example overrides the shared context


def test_multi_inference(server: LocalServer):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.target))
    request = inference_pb2.MultiInferenceRequest()
    for method, signature in ((CLASSIFY_METHOD, "classify_x_to_y"), (REGRESS_METHOD, "regress_x_to_y")):
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "half_plus_two", signature
        task.model_spec.version.value = 1
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(80)
    response = stub.MultiInference(request)
    assert response.results[0].classification_result.classifications[0].classes[0].score == 42
    assert response.results[1].regression_result.regressions[0].value == 42
    request.tasks[1].model_spec.signature_name = "classify_x_to_y"
    with pytest.raises(grpc.RpcError) as caught:
        stub.MultiInference(request)
    assert caught.value.details() == "Duplicate evaluation of signature: classify_x_to_y"


def test_signatures_that_do_not_fit(server: LocalServer, rest: httpx.Client):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.target))
    classify, regress = classification_pb2.ClassificationRequest(), regression_pb2.RegressionRequest()
    for request, call, kind in ((classify, stub.Classify, "classif"), (regress, stub.Regress, "regress")):
        request.model_spec.name = "half_plus_two"
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        method = CLASSIFY_METHOD if kind == "classif" else REGRESS_METHOD
        assert caught.value.details() == (
            f"Expected {kind}{'ication' if kind == 'classif' else 'ion'} signature method_name to be {method}. "
            "Was: tensorflow/serving/predict"
        )
    regress.model_spec.signature_name = "regress_x_to_y"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Regress(regress)
    assert caught.value.details() == "Input is empty."
    answer = rest.post(f"{HALF}:classify", json={"examples": [{"x": 1.0}]})
    assert (answer.status_code, "Expected classification signature" in answer.json()["error"]) == (400, True)
    multi = inference_pb2.MultiInferenceRequest()
    task = multi.tasks.add(method_name="tensorflow/serving/predict")
    task.model_spec.name = "half_plus_two"
    with pytest.raises(grpc.RpcError) as caught:
        stub.MultiInference(multi)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "Unsupported signature method_name: tensorflow/serving/predict"


# ---- errors, message by message


def test_grpc_errors(client: ModelClient, server: LocalServer):
    code = grpc.StatusCode
    refused(code.NOT_FOUND, "Servable not found for request: Latest(x)", client.predict, "x", {"x": X})
    refused(
        code.NOT_FOUND,
        "Servable not found for request: Specific(half_plus_two, 7)",
        client.predict,
        "half_plus_two",
        {"x": X},
        version=7,
    )
    words = "Unrecognized servable version label: nope"
    refused(code.INVALID_ARGUMENT, words, client.predict, "half_plus_two", {"x": X}, label="nope")
    words = 'Serving signature key "zz" not found.'
    refused(code.FAILED_PRECONDITION, words, client.predict, "half_plus_two", {"x": X}, signature_name="zz")
    refused(
        code.INVALID_ARGUMENT,
        "input size does not match signature: 1!=2 len({ids}) != len({ids,k}). "
        "Sent extra: {}. Missing but required: {k}.",
        client.predict,
        "lookup",
        {"ids": np.array([["a"]])},
    )
    words = "input tensor alias not found in signature: z. Inputs expected to be in the set {x}."
    refused(code.INVALID_ARGUMENT, words, client.predict, "half_plus_two", {"z": X})
    words = "Expects arg[0] to be float but int64 is provided"
    refused(code.INVALID_ARGUMENT, words, client.predict, "half_plus_two", {"x": np.array([1])})
    refused(code.INVALID_ARGUMENT, "ModelSpec has no name specified.", client.predict, "", {"x": X})
    refused(code.NOT_FOUND, "Could not find any versions of model x", client.status, "x")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.target))
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    to_proto(X, request.inputs["x"])
    request.output_filter.append("nope")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request)
    assert caught.value.details() == (
        "output tensor alias not found in signature: nope Outputs expected to be in the set {y}."
    )
    del request.output_filter[:]
    request.inputs["x"].tensor_shape.dim[0].size = 2  # three values do not fit
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request)
    assert (caught.value.code(), caught.value.details()) == (code.INVALID_ARGUMENT, "tensor parsing error: x")


def test_errors_of_the_graph_carry_no_stack_trace(client: ModelClient):
    with pytest.raises(ServingError) as caught:
        client.predict("lookup", {"ids": np.array("scalar"), "k": np.array(1, np.int32)})
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in caught.value.message
    assert ".py" not in caught.value.message


PREDICT = f"{HALF}/versions/1:predict"
REST_ERRORS = [
    ("POST", "/v1/models/x:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(x)"),
    (
        "POST",
        f"{HALF}/versions/7:predict",
        '{"instances": [1]}',
        404,
        "Servable not found for request: Specific(half_plus_two, 7)",
    ),
    ("POST", f"{HALF}/labels/x:predict", '{"instances": [1]}', 400, "Unrecognized servable version label: x"),
    ("GET", "/v1/models/x", "", 404, "Could not find any versions of model x"),
    ("GET", f"{HALF}/versions/7", "", 404, "Could not find version 7 of model half_plus_two"),
    ("GET", f"{HALF}/labels/x", "", 400, "Unrecognized servable version label: x"),
    ("GET", "/v1/models/x/metadata", "", 404, "Servable not found for request: Latest(x)"),
    ("GET", "/v1/models", "", 400, "Missing model name in request."),
    ("POST", "/v1/models", "", 400, "Malformed request: POST /v1/models"),
    ("POST", "/v1/foo", "", 400, "Malformed request: POST /v1/foo"),
    ("GET", "/v1/models/foo:predict", "", 400, "Malformed request: GET /v1/models/foo:predict"),
    ("PUT", HALF, "", 400, f"Malformed request: PUT {HALF}"),
    ("POST", f"{HALF}/versions/A:predict", "", 400, f"Malformed request: POST {HALF}/versions/A:predict"),
    ("POST", f"{HALF}/versions/{1 << 64}:predict", "", 400, f"Failed to convert version: {1 << 64} to numeric."),
    ("POST", PREDICT, "", 400, "JSON Parse error: The document is empty"),
    ("POST", PREDICT, "instances = [1, 2]", 400, "JSON Parse error: Invalid value. at offset: 0"),
    (
        "POST",
        PREDICT,
        '{"instances": [1',
        400,
        "JSON Parse error: Missing a comma or ] after an array element. at offset: 16",
    ),
    (
        "POST",
        PREDICT,
        '{"instances": 1',
        400,
        "JSON Parse error: Missing a comma or } after an object member. at offset: 15",
    ),
    (
        "POST",
        PREDICT,
        "{} 1",
        400,
        "JSON Parse error: The document root must not be followed by other values. at offset: 3",
    ),
    ("POST", PREDICT, "[1]", 400, "JSON Value: [\n    1\n] Is not object"),
    ("POST", PREDICT, "{}", 400, "Missing 'inputs' or 'instances' key"),
    ("POST", PREDICT, '{"inputs": {"y": [1]}}', 400, "Missing named input: x in 'inputs' object."),
    ("POST", f"{LOOKUP}:predict", '{"inputs": {"ids": [["a"]]}}', 400, "Missing named input: k in 'inputs' object."),
    ("POST", PREDICT, '{"inputs": ["a"]}', 400, 'JSON Value: "a" Type: String is not of expected type: float'),
    ("POST", PREDICT, '{"inputs": [true]}', 400, "JSON Value: true Type: True is not of expected type: float"),
    ("POST", PREDICT, '{"inputs": [1, [2]]}', 400, "Encountered list at unexpected level: 1 expected < 1"),
    (
        "POST",
        PREDICT,
        '{"inputs": [[1, 2], [3]]}',
        400,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    (
        "POST",
        PREDICT,
        '{"inputs": [33554433]}',
        400,
        "Cannot convert JSON value: 33554433 to float without loss of precision.",
    ),
    (
        "POST",
        PREDICT,
        '{"signature_name": "zz", "inputs": [1]}',
        400,
        'Serving signature name: "zz" not found in signature def',
    ),
    (
        "POST",
        PREDICT,
        '{"instances": [1, "x"]}',
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "x" Type: String is not of expected type: float',
    ),
    (
        "POST",
        PREDICT,
        '{"instances": [[1, 2], [1]]}',
        400,
        "Failed to process element: 1 of 'instances' list. "
        "Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
    ),
    ("POST", PREDICT, '{"instances": [{"x": 1}, 2]}', 400, "Expecting object but got list at item 1 of input list"),
    (
        "POST",
        PREDICT,
        '{"instances": [2, {"x": 1}]}',
        400,
        "Expecting value/list but got object at item 1 of input list",
    ),
    (
        "POST",
        f"{LOOKUP}:predict",
        '{"instances": ["a"]}',
        400,
        "instances is a plain list, but expecting list of objects as multiple input tensors "
        "required as per tensorinfo_map",
    ),
    (
        "POST",
        f"{LOOKUP}:predict",
        '{"instances": [{"ids": ["a"]}]}',
        400,
        "Failed to process element: 0 of 'instances' list. JSON object: "
        '{\n    "ids": [\n        "a"\n    ]\n} keys must be equal to: ids,k',
    ),
    (
        "POST",
        f"{LOOKUP}:predict",
        '{"inputs": {"ids": [[{"b65": "x"}]], "k": 1}}',
        400,
        'JSON Value: {\n    "b65": "x"\n} not formatted correctly for base64 data',
    ),
    ("POST", f"{LOOKUP}:predict", '{"inputs": {"ids": [[{"b64": "*"}]], "k": 1}}', 400, "Unable to base64 decode"),
    (
        "POST",
        f"{LOOKUP}:predict",
        '{"inputs": {"ids": [["a"]], "k": 1.0}}',
        400,
        "JSON Value: 1.0 Type: Number is not of expected type: int32",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "words"), REST_ERRORS, ids=range(len(REST_ERRORS)))
def test_rest_errors(rest: httpx.Client, method: str, path: str, body: str, status: int, words: str):
    answer = rest.request(method, path, content=body)
    assert answer.json() == {"error": words}
    assert answer.status_code == status


def test_rest_errors_that_quote_the_body(rest: httpx.Client):
    for body, words in (
        ({"signature_name": 100}, "not formatted correctly. 'signature_name' key must be a string value."),
        ({"instances": [1], "inputs": [1]}, "Not formatted correctly expecting only one of 'inputs' or 'instances'"),
        ({"instances": 1}, "Excepting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
    ):
        error = rest.post(PREDICT, json=body).json()["error"]
        assert error.startswith("JSON Value: {\n")
        assert words in error
    missing = rest.post(f"{HALF}:regress", json={"examples": []}).json()["error"]
    assert missing.endswith("'examples' value is an empty array")


def test_reload_config_errors(server: LocalServer):
    stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server.target))
    with pytest.raises(grpc.RpcError) as caught:
        stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("ServerModelConfig type not supported by HandleReloadConfigRequest.")


# ---- metrics


def test_prometheus_page(rest: httpx.Client, client: ModelClient):
    def value(line: str) -> float:
        lines = rest.get("/monitoring/prometheus/metrics").text.splitlines()
        return next((float(found.rpartition(" ")[2]) for found in lines if found.startswith(line)), 0.0)

    ok = ':tensorflow:serving:request_count{model_name="lookup",status="OK"}'
    bad = ':tensorflow:serving:request_count{model_name="lookup",status="INVALID_ARGUMENT"}'
    labels = '{model_name="lookup",API="Predict",entrypoint="GRPC"}'
    before = value(ok), value(bad), value(f":tensorflow:serving:request_latency_count{labels}")
    for _ in range(3):
        client.predict("lookup", {"ids": np.array([["a"]]), "k": np.array(1, np.int32)})
    rest.post(f"{LOOKUP}:predict", json={"inputs": {"ids": [["a"]], "k": 1}})
    with pytest.raises(ServingError):
        client.predict("lookup", {})
    after = value(ok), value(bad), value(f":tensorflow:serving:request_latency_count{labels}")
    assert [late - early for early, late in zip(before, after, strict=True)] == [4, 1, 3]
    top = f'{labels[:-1]},le="+Inf"}}'
    assert value(f":tensorflow:serving:request_latency_bucket{top}") == after[2]
    assert value(':tensorflow:serving:runtime_latency_sum{model_name="lookup"') > 0


# ---- formats


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_survive_the_trip(value: float):
    text = format_float(value, np.float32)
    assert np.float32(json.loads(text)) == np.float32(value)
    assert "." in text or "e" in text


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_doubles_survive_the_trip(value: float):
    found = json.loads(format_float(value, np.float64))
    assert found == value or (np.isnan(value) and np.isnan(found))


def test_float_text():
    cases = {3.0: "3.0", 0.2: "0.2", 9e6: "9e+06", 3e-5: "3e-05", 1 / 3: "0.333333343", 16777216.0: "16777216.0"}
    assert {value: format_float(value, np.float32) for value in cases} == cases
    assert [format_float(value, np.float64) for value in (np.nan, np.inf, -np.inf)] == ["NaN", "Infinity", "-Infinity"]


def test_row_format_needs_one_batch_size():
    with pytest.raises(ServingError, match="inconsistent batch size: 1 expecting: 2"):
        write_outputs({"a": np.zeros(2), "b": np.zeros(1)}, row_format=True)
    with pytest.raises(ServingError, match="has no shape information"):
        write_outputs({"a": np.zeros(())}, row_format=True)
    two = json.loads(write_outputs({"a": np.array([[1], [2]]), "b": np.array([b"x", b"y"], object)}, row_format=True))
    assert two == {"predictions": [{"a": [1], "b": "x"}, {"a": [2], "b": "y"}]}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from([types_pb2.DT_FLOAT, types_pb2.DT_INT32, types_pb2.DT_STRING, types_pb2.DT_BOOL]))
def test_any_json_becomes_a_tensor_or_an_invalid_argument(value: object, dtype: int):
    try:
        array = to_tensor(value, dtype)
    except ServingError as error:
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert array.shape == np.array(value, object).shape or dtype == types_pb2.DT_STRING


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789.eE-+truefalsn\\u ', max_size=60).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_parse_or_are_refused(body: bytes):
    try:
        assert isinstance(parse_document(body), dict)
    except ServingError as error:
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT


def test_mutated_requests_are_answered_without_a_server_error(server: LocalServer, client: ModelClient):
    """Bytes of good requests, damaged at random: each is answered, and none with a fault of the server."""
    rng = np.random.default_rng(0)
    api = RestApi(server.manager)
    stub = grpc.insecure_channel(server.target).unary_unary("/tensorflow.serving.PredictionService/Predict")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lookup"
    to_proto(np.array([["drone", "x"]]), request.inputs["ids"])
    to_proto(np.array(1, np.int32), request.inputs["k"])
    bodies = [b'{"inputs": {"ids": [["a", {"b64": "YQ=="}]], "k": 1}}', b'{"instances": [{"ids": ["a"], "k": [1]}]}']

    def damage(data: bytes) -> bytes:
        array = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(array)))
            array[place : place + int(rng.integers(0, 3))] = rng.bytes(int(rng.integers(0, 3)))
        return bytes(array)

    for turn in range(1500):
        method, path = ("POST", "GET")[int(rng.integers(8) == 0)], f"{LOOKUP}/versions/1:predict"
        path = damage(path.encode()).decode("latin-1") if turn % 5 == 0 else path
        status, _, text = api.answer(method, path, damage(bodies[turn % 2]))
        assert status < 500, (status, path, text)
        assert isinstance(json.loads(text), dict)
        try:
            stub(damage(request.SerializeToString()), timeout=10)
        except grpc.RpcError as error:
            malformed = error.code() == grpc.StatusCode.INTERNAL and "deserializing" in error.details()
            assert malformed or error.code().name in {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}, error
    np.testing.assert_array_equal(client.predict("half_plus_two", {"x": X}, version=1)["y"], [2.5, 3.0, 4.5])


@given(
    st.sampled_from(["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 100),
)
def test_tensor_protos_survive_the_trip(dtype: str, shape: list[int], seed: int):
    array = (np.random.default_rng(seed).integers(0, 100, shape)).astype(dtype)
    found = to_array(to_proto(array), "x")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_small_proto_cannot_claim_much_memory():
    proto = to_proto(np.zeros(1, np.float32))
    proto.tensor_shape.dim[0].size = 1 << 40
    refused(grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: x", to_array, proto, "x")
    proto.tensor_shape.dim[0].size = 4
    np.testing.assert_array_equal(to_array(proto, "x"), np.zeros(4))
