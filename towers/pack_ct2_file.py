"""CTranslate2's `model.bin`, version 6: named arrays one after another."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

VERSION = 6
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
"""By the number that stands for them in the file."""


def read_ct2_file(path: Path, prefix: str = "") -> tuple[str, dict[str, np.ndarray]]:
    """The kind of model (`"WhisperSpec"`) and its arrays whose names begin with `prefix`.

    Layout, little-endian: version u32, kind, revision u32, number of arrays u32; of each array its name, number of
    dimensions u8, dimensions u32, type u8, bytes u32 and content. Strings: length u16, content ending with a zero.

    Raises:
        ValueError: another version or type, or a file cut short.
    """
    content, place = path.read_bytes(), 0

    def number(layout: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + layout, content, place)
        place += struct.calcsize("<" + layout)
        return value

    def word() -> str:
        nonlocal place
        length = number("H")
        place += length
        return content[place - length : place].rstrip(b"\0").decode()

    try:
        version = number("I")
        if version != VERSION:
            raise ValueError(f"version {version} instead of {VERSION}")
        kind, _ = word(), number("I")
        arrays = {}
        for _ in range(number("I")):
            name = word()
            shape = [number("I") for _ in range(number("B"))]
            dtype = np.dtype(DTYPES[number("B")])
            size = number("I")
            if name.startswith(prefix):
                arrays[name] = np.frombuffer(content, dtype, size // dtype.itemsize, place).reshape(shape)
            place += size
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"path: must be a whole CTranslate2 model of version 6, received {path} ({error})") from error
    return kind, arrays
