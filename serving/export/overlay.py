"""A release with new values in some of its variables: the same graphs, published under a number of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from data.durable_file import link_or_copy
from serving.export.release import RANKING, RECOMMEND, RETRIEVAL, RETRIEVAL_SCANN
from serving.releases.manifest import Release, ReleaseError, read_release
from serving.releases.models_config import read_models_config
from serving.releases.release import publish
from serving.saved_model import stamp
from serving.saved_model_again import VARIABLES, declared_variables, write_variables

OVERLAID = (RETRIEVAL, RETRIEVAL_SCANN, RANKING, RECOMMEND)
"""Models that hold what is known of users; every other model of the release stays as it is."""


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
    graph = (folder / "saved_model.pb").read_bytes()
    declared = declared_variables(saved_model_pb2.SavedModel.FromString(graph))
    replaced = {path: np.asarray(values[path], tf.as_dtype(declared[path].dtype).as_numpy_dtype)
                for path in sorted(values) if path in declared}  # fmt: skip
    for path, value in replaced.items():
        shape = tf.TensorShape(declared[path].shape)
        if not shape.is_compatible_with(value.shape):
            raise ReleaseError(
                f"{folder}: {path} must have the shape {shape}, received {value.shape}; export the release again, "
                f"with the present code and from the same run"
            )
    if replaced:
        fresh = folder / "variables" / ".new"
        fresh.mkdir()
        write_variables(folder / VARIABLES, fresh / VARIABLES.name, replaced)
        for file in sorted(fresh.iterdir()):
            file.replace(folder / "variables" / file.name)
        fresh.rmdir()
        (folder / "fingerprint.pb").unlink()  # it may be a link to the base's
        stamp(folder, graph)
    return list(replaced)


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


