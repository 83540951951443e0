"""SavedModels whose bytes depend on their content alone, and what is inside one."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2
from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

NUMBERED = re.compile(
    r"(__(?:inference|forward|backward)_[\w.<>/-]*?_|PartitionedCall-|"
    r"\b\w*(?:cond(?:_\d+)?|Guard)_(?:true|false)_|\b\w*while(?:_\d+)?_(?:cond|body)_|\b\w*_branch\d+_)(\d+)"
    r"(?=___|(?![\w.]))"
)
"""Names that TensorFlow numbers by a counter of the process."""

CAPTURED = "_user_specified_name"
"""The attribute that calls captured variables by the same counter."""

LONGEST_NAME = 1024
"""Bytes above which a value is content, such as a tokenizer's model, and holds no such name."""

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def write_saved_model(module: tf.Module, folder: str | Path, signatures: Mapping[str, Callable]) -> None:
    """Saves a module so that the same content gives the same files, byte for byte, in any process.

    TensorFlow numbers functions by a counter of the process, serialises maps in any order and stamps a random UUID.
    Here the numbers become ranks, maps are sorted, and the UUID is drawn from the graph's hash.

    Args:
        module: with every variable and table as a tracked attribute.
        folder: must not exist.
        signatures: `tf.function`s with an input signature, by name.

    Raises:
        FileExistsError: the folder exists; a saved model is never written over.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"folder: must not exist yet, received {folder}; remove it or take another")
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    try:
        tf.saved_model.save(module, str(folder), signatures=dict(signatures), options=options)
        _normalise(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _normalise(folder: Path) -> None:
    file, saved = folder / "saved_model.pb", _read(folder)
    numbers: set[int] = set()

    @functools.cache
    def collect(name: str) -> str:
        numbers.update(int(found[2]) for found in NUMBERED.finditer(name))
        return name

    _rename(saved, collect)
    ranks = {number: rank for rank, number in enumerate(sorted(numbers))}

    @functools.cache
    def renumber(name: str) -> str:
        return NUMBERED.sub(lambda found: f"{found[1]}{ranks[int(found[2])]}", name)

    _rename(saved, renumber)
    for meta_graph in saved.meta_graphs:
        meta_graph.graph_def.library.function.sort(key=lambda function: function.signature.name)
    data = saved.SerializeToString(deterministic=True)
    file.write_bytes(data)
    stamp(folder, data)


def stamp(folder: Path, graph: bytes) -> None:
    """Write a SavedModel's `fingerprint.pb`, with an UUID that follows from its graph."""
    print_ = fingerprint_pb2.FingerprintDef.FromString(fingerprinting.CreateFingerprintDef(str(folder)))
    print_.uuid = str(int(hashlib.sha256(graph).hexdigest()[:16], 16))
    (folder / "fingerprint.pb").write_bytes(print_.SerializeToString(deterministic=True))


def _rename(message: Any, rename: Callable[[str], str]) -> None:
    """Passes every string of a message through a function, short values of bytes and map keys too."""
    for field, value in message.ListFields():
        repeated = field.is_repeated
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _rename_map(field.message_type.fields_by_name["value"], value, rename)
        elif field.message_type is not None:
            for one in value if repeated else [value]:
                _rename(one, rename)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            for place, one in enumerate(value) if repeated else [(None, value)]:
                new = _renamed(one, rename)
                if new == one:
                    continue
                if repeated:
                    value[place] = new
                else:
                    setattr(message, field.name, new)


def _rename_map(held: Any, entries: Any, rename: Callable[[str], str]) -> None:
    for key in list(entries):
        if held.message_type is None:
            if isinstance(key, str):
                value = entries.pop(key)
                entries[rename(key)] = rename(value) if isinstance(value, str) else value
            continue
        _rename(entries[key], rename)
        if key == CAPTURED and entries[key].s.isdigit():
            entries[key].s = b"captured"
        elif isinstance(key, str) and rename(key) != key:
            entries[rename(key)].CopyFrom(entries[key])
            del entries[key]


def _renamed(value: str | bytes, rename: Callable[[str], str]) -> str | bytes:
    if len(value) > LONGEST_NAME:
        return value
    # Latin-1 keeps every byte.
    return rename(value) if isinstance(value, str) else rename(value.decode("latin-1")).encode("latin-1")


def _read(folder: Path) -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def operations(folder: str | Path) -> set[str]:
    """The types of all operations in a SavedModel's graph and functions.

    An operation of core TensorFlow is an attribute of `tf.raw_ops`; one of a loaded library, such as ScaNN's, never is.
    """
    used: set[str] = set()
    for meta_graph in _read(Path(folder)).meta_graphs:
        library = meta_graph.graph_def.library.function
        used.update(node.op for node in meta_graph.graph_def.node)
        used.update(node.op for function in library for node in function.node_def)
        used -= {function.signature.name for function in library}
    return used


def read_variables(folder: str | Path) -> dict[str, Any]:
    """Values of a SavedModel's variables by their attribute path, without loading its graph: NumPy arrays.

    Raises:
        FileNotFoundError: the folder holds no SavedModel.
    """
    prefix = Path(folder) / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise FileNotFoundError(
            f"folder: must hold a SavedModel with variables, received {folder}; run the stage that writes it"
        )
    reader = tf.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith(SUFFIX)]
    values = {name.removesuffix(SUFFIX): reader.get_tensor(name) for name in sorted(names)}
    # np.asarray would make a fixed-width array of a scalar string, and drop its trailing zeros.
    return {
        name: np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
        for name, value in values.items()
    }
