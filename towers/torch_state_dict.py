"""PyTorch state dicts without PyTorch: a pickle reader that knows tensors and nothing else."""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _View(NamedTuple):
    """A tensor before its storage is known; offset and stride count elements."""

    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a `.pth` file, legacy (before PyTorch 1.6) or zipped.

    Of what a pickle can name, only ordered dicts, `torch._utils._rebuild_tensor_v2` and the storage types in `DTYPES`
    are allowed, and the first two are stand-ins of this file; so reading runs no code of the file's choosing.

    Raises:
        ValueError: another name in the pickle, or a file that is not a state dict.
    """
    try:
        with Path(path).open("rb") as stream:
            state, storages = _read_zip(stream) if zipfile.is_zipfile(stream) else _read_legacy(stream)
        return {name: _array(storages, view) for name, view in state.items() if isinstance(view, _View)}
    except (pickle.UnpicklingError, EOFError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"path: must be a PyTorch state dict of plain tensors, received {path} ({error})") from error


class _Reader(pickle.Unpickler):
    """Refuses every global but the few that tensors need; notes the type of each storage that it meets."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.types: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> str:
        kind, dtype, key = pid[:3]
        if kind != "storage" or dtype not in DTYPES.values():
            raise pickle.UnpicklingError(f"a persistent {kind!r} is not allowed")
        self.types[str(key)] = dtype
        return str(key)


def _rebuild(key: str, offset: int, shape: Any, stride: Any, *_: Any) -> _View:
    return _View(str(key), int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _read_legacy(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    stream.seek(0)
    magic, protocol = _Reader(stream).load(), _Reader(stream).load()
    if magic != MAGIC or protocol != PROTOCOL:
        raise pickle.UnpicklingError("its first bytes are not a state dict's")
    _Reader(stream).load()  # sizes and byte order of the machine that wrote it; little-endian ever since
    reader = _Reader(stream)
    state = reader.load()
    storages = {}
    for key in _Reader(stream).load():
        dtype = np.dtype(reader.types[str(key)])
        count = int.from_bytes(stream.read(8), "little")
        content = stream.read(count * dtype.itemsize)
        storages[str(key)] = np.frombuffer(content, dtype, count)
    return state, storages


def _read_zip(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with zipfile.ZipFile(stream) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise pickle.UnpicklingError("it holds no single data.pkl")
        with archive.open(names[0]) as content:
            reader = _Reader(content)
            state = reader.load()
        root = names[0].removesuffix("data.pkl")
        read = {key: np.frombuffer(archive.read(f"{root}data/{key}"), dtype) for key, dtype in reader.types.items()}
    return state, read


def _array(storages: dict[str, np.ndarray], view: _View) -> np.ndarray:
    storage = storages[view.key]
    last = view.offset + sum((length - 1) * step for length, step in zip(view.shape, view.stride, strict=True))
    empty = 0 in view.shape
    if min((*view.stride, 0)) < 0 or not (empty or 0 <= view.offset <= last < len(storage)):
        raise pickle.UnpicklingError(f"a tensor reaches beyond its {len(storage)} numbers")
    strides = [step * storage.itemsize for step in view.stride]
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()
