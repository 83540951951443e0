"""REST bodies of classify and regress: JSON objects to Examples, results to JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from serving.server.rest_document import is_base64, json_text, type_name
from serving.server.rest_request import to_leaf
from serving.server.rest_response import format_float
from serving.status import invalid_argument


def _add(value: Any, name: str, feature: feature_pb2.Feature) -> None:
    if isinstance(value, bool | int):
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        kind, content = "int64_list", int(value)
    elif isinstance(value, float):
        kind, content = "float_list", to_leaf(value, types_pb2.DT_FLOAT)
    elif isinstance(value, str) or is_base64(value):
        kind, content = "bytes_list", to_leaf(value, types_pb2.DT_STRING)
    else:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        expected = present.removesuffix("_list")
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {expected}")
    getattr(feature, kind).value.append(content)


def _read_example(value: Any) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for element in content if isinstance(content, list) else [content]:
            _add(element, name, feature)
    return example


def read_examples(document: Mapping[str, Any]) -> input_pb2.Input:
    """The examples, and the optional context they share, of a classify or regress body.

    Raises:
        ServingError: INVALID_ARGUMENT naming the feature and the rule.

    Example:
        >>> len(read_examples({"examples": [{"x": 1.0}, {"x": 2.0}]}).example_list.examples)
        2
    """
    result = input_pb2.Input()
    has_context = "context" in document
    if has_context:
        result.example_list_with_context.context.CopyFrom(_read_example(document["context"]))
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {json_text(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid_argument(f"JSON Value: {json_text(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid_argument(f"JSON Value: {json_text(document)} 'examples' value is an empty array")
    target = result.example_list_with_context.examples if has_context else result.example_list.examples
    target.extend(_read_example(value) for value in examples)
    return result


def write_classifications(result: classification_pb2.ClassificationResult) -> str:
    """The body of a classify answer: for each example, pairs of label and score."""
    rows = [
        [f"[{json.dumps(label.label)}, {format_float(label.score, np.float32)}]" for label in entry.classes]
        for entry in result.classifications
    ]
    text = ", ".join("[" + ", ".join(row) + "]" for row in rows)
    return f'{{\n    "results": [{text}\n    ]\n}}'


def write_regressions(result: regression_pb2.RegressionResult) -> str:
    """The body of a regress answer: one value an example."""
    values = ", ".join(format_float(entry.value, np.float32) for entry in result.regressions)
    return f'{{\n    "results": [{values}]\n}}'
