"""The gRPC port of the local server: PredictionService, ModelService and grpc.health.v1."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.server.example_inference import classify, multi_inference, regress
from serving.server.inference import metadata, predict
from serving.server.model_manager import ModelManager
from serving.server.prometheus import ServerMetrics
from serving.server.servable import Servable
from serving.status import ServingError, invalid_argument

logger = logging.getLogger(__name__)


def _answer(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    if isinstance(error, ServingError):
        context.abort(error.code, error.message)
    logger.error("Request failed", exc_info=error)
    context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__} in the server; its log has the details")
    raise AssertionError("abort returned")


class PredictionServicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """TF Serving's PredictionService on a ModelManager.

    Args:
        manager: the loaded models.
        metrics: where requests are counted; None counts nothing.
    """

    def __init__(self, manager: ModelManager, metrics: ServerMetrics | None = None) -> None:
        self._manager = manager
        self._metrics = metrics

    def _serve(
        self, api: str, context: grpc.ServicerContext, spec: model_pb2.ModelSpec, function: Callable[[Servable], Any]
    ) -> Any:
        started = time.perf_counter()
        failure: Exception | None = None
        response = None
        try:
            with self._manager.use(spec) as servable:
                running = time.perf_counter()
                response = function(servable)
                runtime = time.perf_counter() - running
        except Exception as error:  # whatever it is, the client gets a status and never a stack trace
            failure = error
        if self._metrics is not None:
            model = spec.name if spec.name in self._manager.names else ""
            code = getattr(failure, "code", grpc.StatusCode.INTERNAL) if failure else grpc.StatusCode.OK
            self._metrics.record(model, api, "GRPC", code.name, (time.perf_counter() - started) * 1e6)
            if failure is None:
                self._metrics.record_runtime(model, api, runtime * 1e6)
        if failure is not None:
            _answer(context, failure)
        return response

    def Predict(self, request, context):
        """Runs a signature on named tensors."""
        return self._serve("Predict", context, request.model_spec, lambda servable: predict(servable, request))

    def Classify(self, request, context):
        """Runs a classify signature on Examples."""
        return self._serve("Classify", context, request.model_spec, lambda servable: classify(servable, request))

    def Regress(self, request, context):
        """Runs a regress signature on Examples."""
        return self._serve("Regress", context, request.model_spec, lambda servable: regress(servable, request))

    def MultiInference(self, request: inference_pb2.MultiInferenceRequest, context):
        """Runs several classify and regress signatures on the same Examples."""
        if not request.tasks:
            _answer(context, invalid_argument("Inference request has no tasks; name at least one model and method"))
        spec = request.tasks[0].model_spec
        return self._serve("MultiInference", context, spec, lambda servable: multi_inference(servable, request))

    def GetModelMetadata(self, request, context):
        """Answers the signatures of a version."""
        if not request.HasField("model_spec"):
            _answer(context, invalid_argument("Missing ModelSpec"))
        return self._serve(
            "GetModelMetadata", context, request.model_spec, lambda servable: metadata(servable, request.metadata_field)
        )


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """TF Serving's ModelService: status, and configuration reload."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def GetModelStatus(self, request: get_model_status_pb2.GetModelStatusRequest, context):
        """State of a model's versions."""
        try:
            if not request.HasField("model_spec"):
                raise invalid_argument("Missing ModelSpec")
            return self._manager.status(request.model_spec)
        except Exception as error:
            _answer(context, error)

    def HandleReloadConfigRequest(self, request: model_management_pb2.ReloadConfigRequest, context):
        """Puts another configuration in force; returns when its models answer."""
        try:
            self._manager.apply(request.config)
        except Exception as error:
            _answer(context, error)
        return model_management_pb2.ReloadConfigResponse()


class HealthServicer(health_pb2_grpc.HealthServicer):
    """grpc.health.v1 read off the models: "" and the prediction service serve when every model has a version that
    answers.

    A model's own name is a service too. An unknown service is NOT_FOUND, as the protocol wants.
    """

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def Check(self, request: health_pb2.HealthCheckRequest, context):
        """Whether a service, or everything, is serving."""
        names = self._manager.names
        if request.service in names:
            names = [request.service]
        elif request.service not in ("", health.OVERALL_HEALTH, "tensorflow.serving.PredictionService"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        serving = bool(names) and all(self._manager.ready(name) for name in names)
        Status = health_pb2.HealthCheckResponse.ServingStatus
        return health_pb2.HealthCheckResponse(status=Status.SERVING if serving else Status.NOT_SERVING)


def start_grpc(
    manager: ModelManager, host: str, port: int, metrics: ServerMetrics | None = None, threads: int = 8
) -> tuple[grpc.Server, int]:
    """Starts the gRPC port.

    Args:
        manager: the loaded models.
        host: address to bind.
        port: 0 = any free port.
        metrics: where requests are counted.
        threads: requests answered at the same time.

    Returns:
        The server and its port.

    Raises:
        OSError: the port is taken.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionServicer(manager, metrics), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(manager), server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(manager), server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(
            f"grpc_port: cannot bind {host}:{port}: {error}; choose another port or 0 for a free one"
        ) from error
    server.start()
    return server, bound
