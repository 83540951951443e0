"""Warm-up records: requests that a server runs before it announces a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.server.example_inference import classify, multi_inference, regress
from serving.server.inference import predict
from serving.server.servable import Servable
from serving.status import ServingError, invalid_argument
from serving.tensors import DEFAULT_SIGNATURE, to_proto

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1_000
"""TF Serving refuses a version with more."""


def write_warmup(
    version_folder: Path,
    model_name: str,
    requests: Sequence[Mapping[str, np.ndarray]],
    signature_name: str = DEFAULT_SIGNATURE,
    *,
    append: bool = False,
) -> Path:
    """Writes Predict requests as warm-up records into a SavedModel folder.

    Args:
        version_folder: the SavedModel, `NAME/<version>`.
        model_name: the name it will be served under.
        requests: inputs by alias, at the batch shapes that traffic will have.
        signature_name: the signature they call.
        append: keep the records already there, for a second signature.

    Returns:
        The file written.

    Raises:
        ValueError: no request, or more than TF Serving takes.
    """
    file = version_folder / WARMUP_FILE
    kept = [log.SerializeToString(deterministic=True) for log in read_warmup(version_folder)] if append else []
    if not 1 <= len(requests) + len(kept) <= MAX_RECORDS:
        raise ValueError(
            f"requests: need 1 to {MAX_RECORDS} warm-up records, got {len(requests) + len(kept)}; sample fewer"
        )
    for inputs in requests:
        log = prediction_log_pb2.PredictionLog()
        request = log.predict_log.request
        request.model_spec.name = model_name
        request.model_spec.signature_name = signature_name
        for alias in sorted(inputs):
            to_proto(np.asarray(inputs[alias]), request.inputs[alias])
        kept.append(log.SerializeToString(deterministic=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in kept:
            writer.write(record)
    return file


def read_warmup(version_folder: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    """Yields the warm-up records of a SavedModel folder; none when it has no such file."""
    file = version_folder / WARMUP_FILE
    if not file.is_file():
        return
    with tf.device("/CPU:0"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            yield prediction_log_pb2.PredictionLog.FromString(record)


def run_warmup(servable: Servable) -> int:
    """Runs a version's warm-up records.

    Returns:
        How many ran.

    Raises:
        ServingError: a record that cannot be read or run fails the version, as in TF Serving.
    """
    count = 0
    try:
        for log in read_warmup(servable.folder):
            count += 1
            if count > MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {servable.folder}"
                )
            kind = log.WhichOneof("log_type")
            if kind == "predict_log":
                predict(servable, log.predict_log.request)
            elif kind == "classify_log":
                classify(servable, log.classify_log.request)
            elif kind == "regress_log":
                regress(servable, log.regress_log.request)
            elif kind == "multi_inference_log":
                multi_inference(servable, log.multi_inference_log.request)
            elif kind is not None:
                raise invalid_argument(f"Unsupported log_type for warmup: {kind}")
    except tf.errors.OpError as error:
        raise invalid_argument(f"Failed to read warmup record from {servable.folder}: {error.message}") from error
    except ServingError as error:
        raise ServingError(
            error.code, f"Warm-up record {count} of {servable.folder} failed: {error.message}"
        ) from error
    return count
