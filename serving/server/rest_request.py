"""JSON bodies of TF Serving's REST predict requests to arrays, with its rules and its error messages."""

from __future__ import annotations

import base64
import binascii
import itertools
import math
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server.rest_document import is_base64, json_text, type_name
from serving.status import ServingError, invalid_argument
from serving.tensors import NUMPY_TYPES, data_type_name

INTEGER_TYPES = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
TensorInfos = Mapping[str, meta_graph_pb2.TensorInfo]


def to_leaf(value: Any, dtype: int) -> Any:
    """Converts one JSON value to what its tensor holds, or says what is wrong with it."""
    name = data_type_name(dtype)
    mismatch = f"JSON Value: {{}} Type: {{}} is not of expected type: {name}"
    if dtype == types_pb2.DT_STRING:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, dict):
            if not is_base64(value):
                raise invalid_argument(f"JSON Value: {json_text(value)} not formatted correctly for base64 data")
            try:
                return base64.b64decode(value["b64"] + "=" * (-len(value["b64"]) % 4), validate=True)
            except (binascii.Error, ValueError):
                raise invalid_argument("Unable to base64 decode") from None
    elif name in ("float", "double"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            limit = (1 << (24 if name == "float" else 53)) - 1
            largest = float(np.finfo(np.float32 if name == "float" else np.float64).max)
            # Integers beyond 64 bits are doubles to the parser; only those within are held to the mantissa.
            whole = isinstance(value, int) and -(1 << 63) <= value < 1 << 64
            infinite = isinstance(value, float) and math.isinf(value)
            if abs(value) > (limit if whole else largest) and not infinite:
                raise invalid_argument(
                    f"Cannot convert JSON value: {json_text(value)} to {name} without loss of precision."
                )
            return value
    elif name in INTEGER_TYPES:
        # The parser's narrowest integer is 32 bits wide; narrower tensors keep the low bits, as a C++ cast does.
        bounds = np.iinfo(NUMPY_TYPES[dtype] if name in ("int64", "uint32", "uint64") else np.int32)
        if isinstance(value, int) and not isinstance(value, bool) and bounds.min <= value <= bounds.max:
            return value
    elif name == "bool":
        if isinstance(value, bool):
            return value
    else:
        words = f"Conversion of JSON Value: {json_text(value)} to type: {name}"
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, words)
    raise invalid_argument(mismatch.format(json_text(value), type_name(value)))


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _array(flat: list[Any], shape: list[int], dtype: int) -> np.ndarray:
    numpy_type = NUMPY_TYPES[dtype]
    if numpy_type.hasobject:
        array = np.empty(len(flat), object)
        array[:] = flat
    elif numpy_type.kind in "iu" and numpy_type.itemsize < 4:
        array = np.array(flat, np.int64).astype(numpy_type)
    else:
        array = np.array(flat, numpy_type)
    return array.reshape(shape)


def to_tensor(value: Any, dtype: int) -> np.ndarray:
    """A dense tensor of a JSON value: nested lists, or a scalar.

    Raises:
        ServingError: INVALID_ARGUMENT for ragged lists and for values that are not of the type, naming the first.

    Example:
        >>> to_tensor([[1, 2.5]], types_pb2.DT_FLOAT).tolist()
        [[1.0, 2.5]]
    """
    shape = _shape(value)
    flat = [value]
    for length in shape:
        if not all(isinstance(entry, list) and len(entry) == length for entry in flat):
            break
        flat = list(itertools.chain.from_iterable(flat))
    else:
        if not any(isinstance(entry, list) for entry in flat):
            return _array([to_leaf(entry, dtype) for entry in flat], shape, dtype)
    values: list[Any] = []
    _fill(value, 0, shape, dtype, values)  # finds the first mistake in reading order
    raise invalid_argument(f"Encountered list at unexpected size: {len(values)}")


def _fill(value: Any, level: int, shape: list[int], dtype: int, values: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {json_text(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        values.append(to_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for entry in value:
        _fill(entry, level + 1, shape, dtype, values)


def _from_columns(value: Any, infos: TensorInfos) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or is_base64(value):
        if len(infos) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map"
            )
        ((name, info),) = infos.items()
        return {name: to_tensor(value, info.dtype)}
    tensors = {}
    for name in sorted(infos):
        if name not in value:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        tensors[name] = to_tensor(value[name], infos[name].dtype)
    return tensors


def _from_rows(rows: list[Any], infos: TensorInfos) -> dict[str, np.ndarray]:
    named = isinstance(rows[0], dict) and not is_base64(rows[0])
    if not isinstance(rows[0], dict) and len(infos) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    cells: dict[str, list[np.ndarray]] = {}

    def add(name: str, value: Any, where: str) -> None:
        try:
            if name not in infos:
                raise invalid_argument(f"JSON object: does not have named input: {name}")
            tensor = to_tensor(value, infos[name].dtype)
            first = cells.setdefault(name, [tensor])[0]
            if first is tensor:
                return
            if first.size != tensor.size:
                raise invalid_argument(f"Expecting tensor size: {first.size} but got: {tensor.size}")
            if first.shape != tensor.shape:
                shapes = [f"[{','.join(map(str, shape))}]" for shape in (first.shape, tensor.shape)]
                raise invalid_argument(f"Expecting shape {shapes[0]} but got: {shapes[1]}")
            cells[name].append(tensor)
        except ServingError as error:
            raise invalid_argument(f"Failed to process element: {where} of 'instances' list. Error: {error}") from None

    for index, row in enumerate(rows):
        is_object = isinstance(row, dict) and not is_base64(row)
        if named and not is_object:
            raise invalid_argument(f"Expecting object but got list at item {index} of input list")
        if not named and is_object:
            raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
        if not named:
            add(min(infos), row, f"{index}")
            continue
        for name, value in row.items():
            add(name, value, f"{index} key: {name}")
        if row.keys() != infos.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {json_text(row)} "
                f"keys must be equal to: {','.join(sorted(infos))}"
            )
    return {name: np.stack(tensors) for name, tensors in cells.items()}


def read_inputs(document: Mapping[str, Any], infos: TensorInfos) -> tuple[dict[str, np.ndarray], bool]:
    """The tensors of a predict body.

    Args:
        document: the parsed body.
        infos: the signature's inputs.

    Returns:
        Arrays by input alias, and whether the body was in row format ("instances").
    """
    if "inputs" in document and "instances" in document:
        raise invalid_argument(
            f"JSON Value: {json_text(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise invalid_argument(f"JSON Value: {json_text(document)} Excepting 'instances' to be an list/array")
        if not rows:
            raise invalid_argument(f"JSON Value: {json_text(document)} No values in 'instances' array")
        return _from_rows(rows, infos), True
    if "inputs" in document:
        return _from_columns(document["inputs"], infos), False
    raise invalid_argument("Missing 'inputs' or 'instances' key")
