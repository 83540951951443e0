"""Classify, regress and multi-inference on Examples: what signatures of older models offer, and clean refusals for the
rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc
import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from serving.server.inference import CLASSIFY_METHOD, REGRESS_METHOD, fill_model_spec
from serving.server.servable import Servable
from serving.status import ServingError, failed_precondition, invalid_argument
from serving.tensors import DATA_TYPES, DEFAULT_SIGNATURE, data_type_name

FindOutputs = Callable[[meta_graph_pb2.SignatureDef], dict[str, str]]


def _examples(request_input: input_pb2.Input) -> np.ndarray:
    if request_input.WhichOneof("kind") == "example_list_with_context":
        # Concatenated messages parse as their merge, so a shared context is a prefix of every example.
        context = request_input.example_list_with_context.context.SerializeToString()
        examples_given = request_input.example_list_with_context.examples
        serialized = [context + example.SerializeToString() for example in examples_given]
    else:
        serialized = [example.SerializeToString() for example in request_input.example_list.examples]
    if not serialized:
        raise invalid_argument("Input is empty.")
    examples = np.empty(len(serialized), object)
    examples[:] = serialized
    return examples


def _check_method(signature: meta_graph_pb2.SignatureDef, method: str, kind: str) -> None:
    if signature.method_name != method:
        raise invalid_argument(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if "inputs" not in signature.inputs:
        raise failed_precondition(f"No {kind} inputs found in SignatureDef: {signature}")


def _classify_outputs(signature: meta_graph_pb2.SignatureDef) -> dict[str, str]:
    _check_method(signature, CLASSIFY_METHOD, "classification")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    found = {alias: signature.outputs[alias].name for alias in ("classes", "scores") if alias in signature.outputs}
    if not found:
        raise failed_precondition(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature}"
        )
    return found


def _regress_outputs(signature: meta_graph_pb2.SignatureDef) -> dict[str, str]:
    _check_method(signature, REGRESS_METHOD, "regression")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "outputs" not in signature.outputs:
        raise failed_precondition(f"No regression outputs found in SignatureDef: {signature}")
    return {"outputs": signature.outputs["outputs"].name}


def _classifications(outputs: Mapping[str, np.ndarray], count: int) -> classification_pb2.ClassificationResult:
    for alias, dtype in (("classes", "string"), ("scores", "float")):
        array = outputs.get(alias)
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if data_type_name(DATA_TYPES[array.dtype]) != dtype:
            raise invalid_argument(f"Expected {alias} Tensor of DT_{dtype.upper()}. Got: {array.dtype}")
        if len(array) != count:
            raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
    widths = {array.shape[1] for array in outputs.values()}
    if len(widths) != 1:
        raise invalid_argument(f"Tensors class and score should match in dim_size(1). Got {sorted(widths)}")
    result = classification_pb2.ClassificationResult()
    for row in range(count):
        entry = result.classifications.add()
        for column in range(widths.copy().pop()):
            label = entry.classes.add()
            if "classes" in outputs:
                label.label = outputs["classes"][row, column].decode("utf-8", "replace")
            if "scores" in outputs:
                label.score = float(outputs["scores"][row, column])
    return result


def _regressions(outputs: Mapping[str, np.ndarray], count: int) -> regression_pb2.RegressionResult:
    array = outputs["outputs"]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(array.shape)}"
        )
    if len(array) != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    if array.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {array.dtype}")
    result = regression_pb2.RegressionResult()
    for value in array.ravel().tolist():
        result.regressions.add().value = value
    return result


def _find(servable: Servable, key: str) -> meta_graph_pb2.SignatureDef:
    signature = servable.signatures.get(key or DEFAULT_SIGNATURE)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {key or DEFAULT_SIGNATURE}")
    return signature


def _run_examples(
    servable: Servable,
    signature: meta_graph_pb2.SignatureDef,
    request_input: input_pb2.Input,
    find_outputs: FindOutputs,
) -> tuple[dict[str, np.ndarray], int]:
    names = find_outputs(signature)
    examples = _examples(request_input)
    arrays = servable.run({signature.inputs["inputs"].name: examples}, list(names.values()))
    return dict(zip(names, (np.asarray(array) for array in arrays), strict=True)), len(examples)


def classify(
    servable: Servable, request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    """Answers a Classify request; the signature's method must be classify."""
    signature = _find(servable, request.model_spec.signature_name)
    outputs, count = _run_examples(servable, signature, request.input, _classify_outputs)
    response = classification_pb2.ClassificationResponse(result=_classifications(outputs, count))
    fill_model_spec(response.model_spec, servable, request.model_spec.signature_name)
    return response


def regress(servable: Servable, request: regression_pb2.RegressionRequest) -> regression_pb2.RegressionResponse:
    """Answers a Regress request; the signature's method must be regress."""
    signature = _find(servable, request.model_spec.signature_name)
    outputs, count = _run_examples(servable, signature, request.input, _regress_outputs)
    response = regression_pb2.RegressionResponse(result=_regressions(outputs, count))
    fill_model_spec(response.model_spec, servable, request.model_spec.signature_name)
    return response


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest
) -> inference_pb2.MultiInferenceResponse:
    """Answers a MultiInference request: several classify and regress signatures of one model on one input."""
    seen: set[str] = set()
    plans: list[tuple[inference_pb2.InferenceTask, meta_graph_pb2.SignatureDef, FindOutputs]] = []
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        key = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if key in seen:
            raise invalid_argument(f"Duplicate evaluation of signature: {key}")
        seen.add(key)
        signature = servable.signatures.get(key)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {key}")
        if task.method_name not in (CLASSIFY_METHOD, REGRESS_METHOD):
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        classifying = task.method_name == CLASSIFY_METHOD
        find_outputs: FindOutputs = _classify_outputs if classifying else _regress_outputs
        find_outputs(signature)
        if plans and plans[0][1].inputs["inputs"].name != signature.inputs["inputs"].name:
            raise invalid_argument("Input tensor must be the same for all Signatures.")
        plans.append((task, signature, find_outputs))
    response = inference_pb2.MultiInferenceResponse()
    for task, signature, find_outputs in plans:
        outputs, count = _run_examples(servable, signature, request.input, find_outputs)
        result = response.results.add()
        fill_model_spec(result.model_spec, servable, task.model_spec.signature_name)
        if task.method_name == CLASSIFY_METHOD:
            result.classification_result.CopyFrom(_classifications(outputs, count))
        else:
            result.regression_result.CopyFrom(_regressions(outputs, count))
    return response
