"""Arrays to the JSON bodies of TF Serving's REST answers, with its float format."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping

import numpy as np
from tensorflow.core.framework import types_pb2

from serving.status import invalid_argument
from serving.tensors import NUMPY_TYPES


def format_float(value: float, dtype: type[np.floating]) -> str:
    """A number as TF Serving prints it: six digits when they suffice, the type's full precision otherwise, and always a
    sign of being a decimal.

    Example:
        >>> format_float(3, np.float32), format_float(0.1, np.float32), format_float(1 / 3, np.float32)
        ('3.0', '0.1', '0.333333343')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    narrow = dtype is not np.float64
    exact = float(np.float32(value)) if narrow else float(value)
    text = f"{exact:.6g}"
    if (float(np.float32(float(text))) if narrow else float(text)) != exact:
        text = f"{exact:.{9 if narrow else 17}g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _format_flat(array: np.ndarray, as_bytes: bool) -> list[str]:
    flat = array.ravel()
    kind = array.dtype.kind
    if array.dtype.hasobject:
        values = [value if isinstance(value, bytes) else str(value).encode() for value in flat]
        if as_bytes:
            return [json.dumps({"b64": base64.b64encode(value).decode()}) for value in values]
        return [json.dumps(value.decode("utf-8", "replace"), ensure_ascii=False) for value in values]
    if kind == "b":
        return ["true" if value else "false" for value in flat.tolist()]
    if kind in "iu":
        return list(map(str, flat.tolist()))
    if array.dtype == np.float64:
        return [format_float(value, np.float64) for value in flat.tolist()]
    if kind == "f" or array.dtype == NUMPY_TYPES[types_pb2.DT_BFLOAT16]:
        return [format_float(value, np.float32) for value in flat.astype(np.float32).tolist()]
    raise invalid_argument(f"Failed to write JSON value for tensor type: {array.dtype}")


def _nest(cells: list[str], shape: Iterable[int]) -> str:
    for length in reversed(tuple(shape)):
        cells = [f"[{', '.join(cells[start : start + length])}]" for start in range(0, len(cells), length)]
    return cells[0]


def _dense(name: str, array: np.ndarray) -> str:
    if array.size == 0:
        return json.dumps(array.tolist())
    return _nest(_format_flat(array, name.endswith("_bytes")), array.shape)


def write_outputs(outputs: Mapping[str, np.ndarray], row_format: bool) -> str:
    """The body of a predict answer.

    Args:
        outputs: arrays by output alias; one alone is written bare.
        row_format: "predictions" with one entry a row, otherwise "outputs".

    Raises:
        ServingError: row format needs every output to have the same first dimension.

    Example:
        >>> print(write_outputs({"y": np.array([2.5, 3.0], np.float32)}, row_format=True))
        {
            "predictions": [2.5, 3.0
            ]
        }
    """
    if not row_format:
        columns = {name: _dense(name, array) for name, array in outputs.items()}
        if len(columns) == 1:
            return f'{{\n    "outputs": {next(iter(columns.values()))}\n}}'
        lines = ",\n".join(f"        {json.dumps(name)}: {text}" for name, text in columns.items())
        return f'{{\n    "outputs": {{\n{lines}\n    }}\n}}'
    batch = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(array) != batch:
            raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    if not batch:
        return '{\n    "predictions": []\n}'
    rows = {name: [_dense(name, row) for row in np.split(array, batch)] for name, array in outputs.items()}
    # Each row came out as a batch of one: take its outer brackets off again.
    rows = {name: [text[1:-1] for text in texts] for name, texts in rows.items()}
    if len(rows) == 1:
        return f'{{\n    "predictions": [{", ".join(next(iter(rows.values())))}\n    ]\n}}'
    entries = [
        ",\n".join(f"            {json.dumps(name)}: {texts[index]}" for name, texts in rows.items())
        for index in range(batch)
    ]
    entries = [f"        {{\n{entry}\n        }}" for entry in entries]
    return '{\n    "predictions": [\n' + ",\n".join(entries) + "\n    ]\n}"
