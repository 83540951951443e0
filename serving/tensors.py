"""TensorProto to NumPy and back, faster than TensorFlow's own converters and safe on hostile input."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.status import invalid_argument

DEFAULT_SIGNATURE = "serving_default"
"""The signature meant when a request names none."""

NUMPY_TYPES: dict[int, np.dtype] = {
    types_pb2.DT_FLOAT: np.dtype(np.float32),
    types_pb2.DT_DOUBLE: np.dtype(np.float64),
    types_pb2.DT_HALF: np.dtype(np.float16),
    types_pb2.DT_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    types_pb2.DT_INT8: np.dtype(np.int8),
    types_pb2.DT_INT16: np.dtype(np.int16),
    types_pb2.DT_INT32: np.dtype(np.int32),
    types_pb2.DT_INT64: np.dtype(np.int64),
    types_pb2.DT_UINT8: np.dtype(np.uint8),
    types_pb2.DT_UINT16: np.dtype(np.uint16),
    types_pb2.DT_UINT32: np.dtype(np.uint32),
    types_pb2.DT_UINT64: np.dtype(np.uint64),
    types_pb2.DT_BOOL: np.dtype(np.bool_),
    types_pb2.DT_STRING: np.dtype(object),
}
DATA_TYPES = {dtype: code for code, dtype in NUMPY_TYPES.items()}

VALUE_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_BFLOAT16: "half_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}
"""The repeated field a data type's values lie in; every other type uses `int_val`."""

MAX_REPEATED = 1 << 24
"""A proto may name a large shape and give one value to fill it with; this bounds what such a request can allocate."""


def data_type_name(code: int) -> str:
    """TensorFlow's short name of a data type: `DT_FLOAT` is "float"."""
    return types_pb2.DataType.Name(code).removeprefix("DT_").lower()  # type: ignore[arg-type]


def to_array(proto: tensor_pb2.TensorProto, name: str) -> np.ndarray:
    """Reads a TensorProto.

    Both encodings are read: `tensor_content`, and the typed value fields, where the last value given fills the rest of
    the shape.

    Args:
        proto: the tensor.
        name: its input name, for the error message.

    Returns:
        The array; strings are `bytes` objects in an object array.

    Raises:
        ServingError: INVALID_ARGUMENT, "tensor parsing error: NAME", when type, shape and values do not fit together.

    Example:
        >>> to_array(to_proto(np.array([[1.5, 2.0]], np.float32)), "x").tolist()
        [[1.5, 2.0]]
    """
    dtype = NUMPY_TYPES.get(proto.dtype)
    shape = tuple(dimension.size for dimension in proto.tensor_shape.dim)
    if dtype is None or proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid_argument(f"tensor parsing error: {name}")
    size = 1
    for length in shape:
        size *= length
    if proto.tensor_content and not dtype.hasobject:
        if len(proto.tensor_content) != size * dtype.itemsize:
            raise invalid_argument(f"tensor parsing error: {name}")
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = getattr(proto, VALUE_FIELDS.get(proto.dtype, "int_val"))
    if len(values) > size or (len(values) < size and size > MAX_REPEATED):
        raise invalid_argument(f"tensor parsing error: {name}")
    if dtype.hasobject:
        flat = np.empty(size, object)
        flat[: len(values)] = list(values)
        flat[len(values) :] = values[-1] if values else b""
        return flat.reshape(shape)
    try:
        if VALUE_FIELDS.get(proto.dtype) == "half_val":
            given = np.array(values, np.uint16).view(dtype)
        else:
            given = np.array(values, dtype)
    except (OverflowError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {name}") from error
    if len(given) < size:
        given = np.concatenate([given, np.full(size - len(given), given[-1] if len(given) else 0, dtype)])
    return given.reshape(shape)


def to_proto(array: np.ndarray, proto: tensor_pb2.TensorProto | None = None) -> tensor_pb2.TensorProto:
    """Writes an array into the typed value fields of a TensorProto, as TF Serving answers.

    Args:
        array: numbers, booleans, `str` or `bytes`.
        proto: written in place when given, such as an entry of a response's map.

    Raises:
        ValueError: for a data type that TensorFlow's protos do not carry.
    """
    target = tensor_pb2.TensorProto() if proto is None else proto
    array = np.asarray(array)
    if array.dtype.kind in "US":
        array = array.astype(object)
    code = DATA_TYPES.get(array.dtype)
    if code is None:
        raise ValueError(f"array: dtype must be numeric, boolean or string, got {array.dtype}; cast it before sending")
    target.dtype = code  # type: ignore[assignment]
    for length in array.shape:
        target.tensor_shape.dim.add().size = length
    flat = array.ravel()
    if code == types_pb2.DT_STRING:
        target.string_val.extend([value.encode() if isinstance(value, str) else bytes(value) for value in flat])
    elif VALUE_FIELDS.get(code) == "half_val":
        target.half_val.extend(flat.view(np.uint16).tolist())
    else:
        getattr(target, VALUE_FIELDS.get(code, "int_val")).extend(flat.tolist())
    return target


def string_line(values: Sequence[str]) -> np.ndarray:
    """Strings as one line of a request: object [1, N], N >= 0.

    Example:
        >>> string_line(["a", "b"]).tolist(), string_line([]).shape
        ([['a', 'b']], (1, 0))
    """
    line = np.empty((1, len(values)), object)
    line[0, :] = list(values)
    return line
