"""A SavedModel once more with other values: the graph that was traced before, variables and vocabularies written anew."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, saved_object_graph_pb2

from serving.saved_model import SUFFIX, stamp

VARIABLES = Path("variables") / "variables"
"""Of a SavedModel: what the names of the files with its variables begin with."""


def write_again(
    previous: str | Path,
    folder: str | Path,
    values: Mapping[str, np.ndarray],
    assets: Mapping[str, bytes] | None = None,
    renamed: Mapping[bytes, bytes] | None = None,
) -> None:
    """Writes the model of a module that differs from an earlier one in some variables alone.

    Tracing an encoder of a thousand operations takes longer than writing its weights; where its graph is the one of the last
    release, only what has changed is made.

    Args:
        previous: folder of the earlier SavedModel, whose format this one keeps; stays as it is.
        folder: must not exist.
        values: new value of variables by their attribute path, as `read_variables` names them. A variable that the graph
            knows without a number of rows may have another one than before.
        assets: new content of files under `assets`, by name.
        renamed: names in the graph that follow from the content, such as a table's; each as long as the one before.

    Raises:
        FileExistsError: the folder exists. ValueError: a variable, a file or a name that the earlier model does not have, or a
            value of another type or width: its graph is another.
    """
    previous, folder, assets, renamed = Path(previous), Path(folder), assets or {}, renamed or {}
    if folder.exists():
        raise FileExistsError(f"folder: must not exist yet, received {folder}; remove it or take another")
    graph = (previous / "saved_model.pb").read_bytes()
    check_variables(saved_model_pb2.SavedModel.FromString(graph), values)
    for before, after in renamed.items():
        if len(before) != len(after) or before not in graph:
            raise ValueError(
                f"renamed: {before!r} must be a name in {previous} as long as {after!r}; trace the model instead"
            )
        graph = graph.replace(before, after)
    missing = [name for name in assets if not (previous / "assets" / name).is_file()]
    if missing:
        raise ValueError(f"assets: {missing} are no files of {previous}; trace the model instead")
    try:
        (folder / "variables").mkdir(parents=True)
        (folder / "assets").mkdir()
        for file in (previous / "assets").iterdir():
            (folder / "assets" / file.name).write_bytes(assets.get(file.name) or file.read_bytes())
        write_variables(previous / VARIABLES, folder / VARIABLES, values)
        (folder / "saved_model.pb").write_bytes(graph)
        stamp(folder, graph)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_variables(source: Path, prefix: Path, values: Mapping[str, np.ndarray]) -> None:
    """Writes the variables under `source` once more under `prefix`, with `values` in those that they name by path."""
    reader = tf.train.load_checkpoint(str(source))
    names = sorted(reader.get_variable_to_shape_map())
    tensors = [tf.constant(values[path] if (path := name.removesuffix(SUFFIX)) in values else reader.get_tensor(name))
               for name in names]  # fmt: skip
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)


def declared_variables(graph: saved_model_pb2.SavedModel) -> dict[str, saved_object_graph_pb2.SavedVariable]:
    """What a graph declares of each variable, by its path: type, and shape, -1 along an axis that may be of any length."""
    nodes = graph.meta_graphs[0].object_graph_def.nodes
    found: dict[str, saved_object_graph_pb2.SavedVariable] = {}
    waiting, seen = collections.deque([("", 0)]), {0}
    while waiting:  # breadth first, as TensorFlow names what can be reached in two ways
        path, place = waiting.popleft()
        if nodes[place].WhichOneof("kind") == "variable":
            found[path] = nodes[place].variable
        for child in nodes[place].children:
            if child.node_id not in seen or nodes[child.node_id].WhichOneof("kind") == "variable":
                seen.add(child.node_id)
                waiting.append((f"{path}/{child.local_name}".lstrip("/"), child.node_id))
    return found


def check_variables(graph: saved_model_pb2.SavedModel, values: Mapping[str, np.ndarray]) -> None:
    """Whether a saved graph would take these values for its variables.

    Args:
        graph: as `saved_model.pb` holds it. values: by attribute path.

    Raises:
        ValueError: the first that it would not.
    """
    declared = declared_variables(graph)
    for path, value in values.items():
        if path not in declared:
            raise ValueError(f"values: {path} is no variable of the model; trace it instead")
        shape, dtype = tf.TensorShape(declared[path].shape), tf.as_dtype(declared[path].dtype)
        given = tf.constant(value)
        if given.dtype != dtype or not shape.is_compatible_with(given.shape):
            raise ValueError(
                f"values: {path} was {dtype.name} {shape} and is {given.dtype.name} {given.shape}; trace the model instead"
            )
