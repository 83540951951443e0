"""Predict and metadata on one servable, with TF Serving's checks and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2, predict_pb2

from serving.server.servable import Servable
from serving.status import ServingError, failed_precondition, invalid_argument
from serving.tensors import DATA_TYPES, DEFAULT_SIGNATURE, data_type_name, to_array, to_proto

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
METHODS = (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD)


def _names(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def fill_model_spec(spec: model_pb2.ModelSpec, servable: Servable, signature_name: str | None) -> None:
    """Writes which model, version and signature answered."""
    spec.name = servable.name
    spec.version.value = servable.version
    if signature_name is not None:
        spec.signature_name = signature_name or DEFAULT_SIGNATURE


def predict_arrays(
    servable: Servable, signature_name: str, inputs: Mapping[str, np.ndarray], output_filter: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Runs one signature on arrays.

    Args:
        servable: the loaded version.
        signature_name: "" for `serving_default`.
        inputs: one array per input alias of the signature; inputs with a default may be left out.
        output_filter: aliases to compute; empty computes all.

    Returns:
        One array per output alias, in the order asked for (sorted when all are).

    Raises:
        ServingError: as TF Serving: unknown signature, missing, surplus or unknown aliases, and what the graph itself
            reports.
    """
    key = signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(key)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{key}" not found.')
    if signature.method_name not in METHODS:
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(METHODS)}}}. "
            f"Was: {signature.method_name}",
        )
    sent, known, defaults = set(inputs), set(signature.inputs), servable.defaults[key]
    if len(sent) > len(known) or (len(sent) < len(known) and not defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({{{_names(sent)}}}) != len({{{_names(known)}}}). "
            f"Sent extra: {{{_names(sent - known)}}}. Missing but required: {{{_names(known - sent)}}}."
        )
    for alias in sorted(sent - known) + sorted(known - sent - set(defaults)):
        raise invalid_argument(
            f"input tensor alias not found in signature: {alias}. Inputs expected to be in the set {{{_names(known)}}}."
        )
    aliases = list(output_filter)
    for position, alias in enumerate(aliases):
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_names(signature.outputs)}}}."
            )
        if alias in aliases[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
    aliases = aliases or sorted(signature.outputs)
    feeds = {}
    for alias, info in signature.inputs.items():
        value = inputs[alias] if alias in inputs else defaults[alias]
        given = DATA_TYPES.get(value.dtype)
        if given != info.dtype:  # the runtime's own words, which it would say only for tensors that an operation reads
            position = sorted(signature.inputs).index(alias)
            received = data_type_name(given) if given else str(value.dtype)
            expected = data_type_name(info.dtype)
            raise invalid_argument(f"Expects arg[{position}] to be {expected} but {received} is provided")
        feeds[info.name] = value
    outputs = servable.run(feeds, [signature.outputs[alias].name for alias in aliases])
    return dict(zip(aliases, (np.asarray(output) for output in outputs), strict=True))


def predict(servable: Servable, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Answers a Predict request."""
    key = request.model_spec.signature_name
    inputs = {alias: to_array(proto, alias) for alias, proto in request.inputs.items()}
    outputs = predict_arrays(servable, key, inputs, request.output_filter)
    response = predict_pb2.PredictResponse()
    fill_model_spec(response.model_spec, servable, key)
    for alias, array in outputs.items():
        to_proto(array, response.outputs[alias])
    return response


def metadata(servable: Servable, fields: Iterable[str]) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers a GetModelMetadata request; `signature_def` is the one field there is."""
    fields = list(fields)
    if not fields:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != "signature_def":
            raise invalid_argument(f"Metadata field {field} is not supported")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    fill_model_spec(response.model_spec, servable, None)
    response.metadata["signature_def"].Pack(signatures)
    return response
