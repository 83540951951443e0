"""The REST port of the local server, route by route as TF Serving's."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import grpc
import uvicorn
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    model_pb2,
    regression_pb2,
)

from serving.server.example_inference import classify, regress
from serving.server.inference import metadata, predict_arrays
from serving.server.model_manager import ModelManager
from serving.server.prometheus import ServerMetrics
from serving.server.rest_document import parse_document, signature_name
from serving.server.rest_examples import read_examples, write_classifications, write_regressions
from serving.server.rest_request import read_inputs
from serving.server.rest_response import write_outputs
from serving.status import ServingError, invalid_argument
from serving.tensors import DEFAULT_SIGNATURE

logger = logging.getLogger(__name__)

PREDICTION_PATH = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
STATUS_PATH = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?", re.IGNORECASE | re.ASCII
)


def _model_spec(name: str | None, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(name or "", errors="replace"))
    if version is not None:
        if int(version[:20]) >= 1 << 63:
            raise invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label, errors="replace")
    return spec


class RestApi:
    """Answers REST requests on a ModelManager, without any HTTP library: method, path and body in, status and body out.

    Args:
        manager: the loaded models.
        metrics: where requests are counted.
        metrics_path: path of the Prometheus page; None when monitoring is not configured.
    """

    def __init__(
        self, manager: ModelManager, metrics: ServerMetrics | None = None, metrics_path: str | None = None
    ) -> None:
        self._manager = manager
        self._metrics = metrics
        self._metrics_path = metrics_path

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str, str]:
        """Answers one request.

        Args:
            method: HTTP method.
            path: path as sent, percent escapes included, without the query.
            body: request body.

        Returns:
            HTTP status, content type, body text.
        """
        if self._metrics is not None and path == self._metrics_path:
            return 200, "text/plain", self._metrics.page()
        if not path.lower().startswith("/v1/"):
            return 404, "application/json", _error_body("Not found")
        try:
            return 200, "application/json", self._dispatch(method, path, body)
        except ServingError as error:
            return error.http_status, "application/json", _error_body(error.message)
        except Exception as error:  # the client gets a status and never a stack trace
            logger.error("Request failed", exc_info=error)
            return 500, "application/json", _error_body(f"{type(error).__name__} in the server, see its log")

    def _dispatch(self, method: str, path: str, body: bytes) -> str:
        if method == "POST" and (match := PREDICTION_PATH.fullmatch(path)):
            name, version, label, verb = match.groups()
            return self._infer(verb.lower(), _model_spec(name, version, label), body)
        if method == "GET" and (match := STATUS_PATH.fullmatch(path)):
            name, version, label, resource = match.groups()
            if name is None:
                raise invalid_argument("Missing model name in request.")
            spec = _model_spec(name, version, label)
            return self._metadata(spec) if resource else _to_json(self._manager.status(spec))
        raise invalid_argument(f"Malformed request: {method} {path}")

    def _infer(self, verb: str, spec: model_pb2.ModelSpec, body: bytes) -> str:
        started = time.perf_counter()
        code = grpc.StatusCode.INTERNAL
        try:
            answer = self._predict(spec, body) if verb == "predict" else self._examples(verb, spec, body)
            code = grpc.StatusCode.OK
            return answer
        except ServingError as error:
            code = error.code
            raise
        finally:
            if self._metrics is not None:
                model = spec.name if spec.name in self._manager.names else ""
                self._metrics.record(model, verb.capitalize(), "REST", code.name, (time.perf_counter() - started) * 1e6)

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        document = parse_document(body)
        key = signature_name(document)
        with self._manager.use(spec) as servable:
            signature = servable.signatures.get(key or DEFAULT_SIGNATURE)
            if signature is None:
                name = key or DEFAULT_SIGNATURE
                raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
            if not signature.inputs:
                raise invalid_argument(f"Failed to get input map for signature: {key or 'DEFAULT'}")
            inputs, row_format = read_inputs(document, signature.inputs)
            started = time.perf_counter()
            outputs = predict_arrays(servable, key, inputs)
            if self._metrics is not None:
                self._metrics.record_runtime(spec.name, "Predict", (time.perf_counter() - started) * 1e6)
        return write_outputs(outputs, row_format)

    def _examples(self, verb: str, spec: model_pb2.ModelSpec, body: bytes) -> str:
        document = parse_document(body)
        spec.signature_name = signature_name(document)
        examples = read_examples(document)
        with self._manager.use(spec) as servable:
            if verb == "classify":
                classification = classification_pb2.ClassificationRequest(model_spec=spec, input=examples)
                return write_classifications(classify(servable, classification).result)
            regression = regression_pb2.RegressionRequest(model_spec=spec, input=examples)
            return write_regressions(regress(servable, regression).result)

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        with self._manager.use(spec) as servable:
            response = metadata(servable, ["signature_def"])
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        model_spec = _to_json(response.model_spec)
        return f'{{\n"model_spec":{model_spec},\n"metadata": {{"signature_def": {_to_json(signatures)}}}\n}}\n'


def _to_json(message: Any) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )


def _error_body(message: str) -> str:
    return JSONResponse({"error": message}).body.decode()  # type: ignore[union-attr]


def rest_application(api: RestApi, threads: int) -> Starlette:
    """The ASGI application of the REST port: reads the body, answers in a pool of threads."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="rest")

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        path = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1").partition("?")[0]
        loop = asyncio.get_running_loop()
        status, content_type, text = await loop.run_in_executor(pool, api.answer, request.method, path, body)
        return Response(text, status, media_type=content_type)

    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]
    return Starlette(routes=[Route("/{path:path}", endpoint, methods=methods)])


class RestServer:
    """Uvicorn in a thread.

    Args:
        api: what answers.
        host: address to bind.
        port: 0 = any free port; `port` tells which.
        threads: requests answered at the same time.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, api: RestApi, host: str, port: int, threads: int = 8) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol is named because asyncio sets TCP_NODELAY only where it is, and without that an answer takes 40
        # ms.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise OSError(
                f"rest_port: cannot bind {host}:{port}: {error}; choose another, or 0 for a free one"
            ) from error
        self._socket.listen(1024)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            rest_application(api, threads),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="rest-server", daemon=True
        )

    def start(self, timeout: float = 30.0) -> None:
        """Starts answering; returns when the port does."""
        self._thread.start()
        deadline = time.monotonic() + timeout
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise OSError(f"rest_port: the server on port {self.port} did not start in {timeout} s; see its log")
            time.sleep(0.005)

    def stop(self) -> None:
        """Finishes the requests under way and closes the port."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
