"""A release with new values in some of its variables: the same graphs, published under a number of its own."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from data.durable_file import link_or_copy
from serving.export import RANKING, RECOMMEND, RETRIEVAL, RETRIEVAL_SCANN
from serving.models_config import read_models_config
from serving.release import publish
from serving.release_manifest import Release, ReleaseError, read_release
from serving.saved_model import SUFFIX, stamp

OVERLAID = (RETRIEVAL, RETRIEVAL_SCANN, RANKING, RECOMMEND)
"""Models that hold what is known of users; every other model of the release stays as it is."""
VARIABLES = Path("variables") / "variables"


def publish_overlay(
    base: Path, releases: Path, version: int, values: Mapping[str, np.ndarray], details: Mapping[str, Any] | None = None
) -> Release:
    """Publishes `base` as release `version` of another folder, with `values` in its variables; whole or not at all.

    Files that do not change are hard links, so that an update costs the disk what changed. Without values every model has
    the bytes that it has in the base.

    Args:
        base: a published release. releases: the folder to publish in. version: not yet published there.
        values: by the variable's path in the model, such as "history"; a model without that variable has no need of it.
        details: for the manifest.

    Raises:
        ReleaseError: the version exists, or a value does not fit the graph.
    """
    release = read_release(base)
    with publish(releases, version, counts=release.manifest["counts"], details=dict(details or {})) as staging:
        for name in release.manifest["files"]:
            parts = [str(version) if place == 1 and part == str(release.version) else part
                     for place, part in enumerate(Path(name).parts)]  # fmt: skip
            target = staging.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if len(parts) == 1 and name.startswith("models"):
                _renumber(base / name, target, release.version, version)
            else:
                link_or_copy(base / name, target)
        for model in OVERLAID:
            folder = staging / model / str(version)
            if values and folder.is_dir():
                replace_variables(folder, values)
    return read_release(releases / str(version))


def replace_variables(folder: Path, values: Mapping[str, np.ndarray]) -> list[str]:
    """Writes new values into a SavedModel, whose graph stays as it is; returns the names of those that it has.

    A value is kept in the type that the variable has. New files take the old ones' place, so that links to these keep
    what they had.

    Raises:
        ReleaseError: a value of a shape that the graph does not take.
    """
    reader = tf.train.load_checkpoint(str(folder / VARIABLES))
    types, shapes = reader.get_variable_to_dtype_map(), _declared_shapes(folder)
    names, tensors, replaced = sorted(types), [], []
    for name in names:
        path = name.removesuffix(SUFFIX)
        if path not in values:
            tensors.append(tf.convert_to_tensor(reader.get_tensor(name)))
            continue
        value = np.asarray(values[path], types[name].as_numpy_dtype)
        if not shapes[path].is_compatible_with(value.shape):
            raise ReleaseError(
                f"{folder}: {path} must have the shape {shapes[path]}, received {value.shape}; export the release again, "
                f"with the present code and from the same run"
            )
        tensors.append(tf.constant(value))
        replaced.append(path)
    if replaced:
        fresh = folder / "variables" / ".new"
        fresh.mkdir()
        tf.raw_ops.SaveV2(
            prefix=str(fresh / VARIABLES.name), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
        )
        for file in sorted(fresh.iterdir()):
            file.replace(folder / "variables" / file.name)
        fresh.rmdir()
        (folder / "fingerprint.pb").unlink()  # it may be a link to the base's
        stamp(folder, (folder / "saved_model.pb").read_bytes())
    return replaced


def _declared_shapes(folder: Path) -> dict[str, tf.TensorShape]:
    """The shape that the graph gives each variable, by its path; None along an axis that may be of any length."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    nodes = saved.meta_graphs[0].object_graph_def.nodes
    shapes: dict[str, tf.TensorShape] = {}
    waiting, seen = collections.deque([("", 0)]), {0}
    while waiting:  # breadth first, as TensorFlow names what can be reached in two ways
        path, place = waiting.popleft()
        if nodes[place].WhichOneof("kind") == "variable":
            shapes[path] = tf.TensorShape(nodes[place].variable.shape)
        for child in nodes[place].children:
            if child.node_id not in seen or nodes[child.node_id].WhichOneof("kind") == "variable":
                seen.add(child.node_id)
                waiting.append((f"{path}/{child.local_name}".lstrip("/"), child.node_id))
    return shapes


def _renumber(source: Path, target: Path, before: int, after: int) -> None:
    """A release's own models.config under another number."""
    config = read_models_config(source)
    for model in config.model_config_list.config:
        versions = [after if one == before else one for one in model.model_version_policy.specific.versions]
        del model.model_version_policy.specific.versions[:]
        model.model_version_policy.specific.versions.extend(versions)
        for label, version in model.version_labels.items():
            model.version_labels[label] = after if version == before else version
    target.write_text(text_format.MessageToString(config))


