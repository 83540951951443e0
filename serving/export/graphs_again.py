"""The graphs of an earlier release for the models of ids: a night changes what is in them, and seldom what they do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from serving.graphs.vocabulary_tables import VocabularyTables, vocabularies_again
from serving.releases.manifest import Release
from serving.saved_model_again import declared_variables, write_again

TRACED_FROM = "traced_from"
"""In a release's details: of each model the digest of what its graph follows from."""


@runtime_checkable
class Reusable(Protocol):
    """A module whose graph is that of any other with an equal basis and variables of equal types and widths."""

    users: VocabularyTables
    items: VocabularyTables

    def graph_basis(self) -> Mapping[str, Any] | None:
        """What the graph follows from beside variables and vocabularies, JSON-able; None where nobody knows it all."""


@dataclasses.dataclass
class GraphsAgain:
    """Writes the models of a release: each with the graph of an earlier one where tracing would give the same, else traced.

    A graph is taken over byte for byte, but for the names of its vocabularies' tables; which, and what it follows from, is told
    by the module (`Reusable`) and `basis`. Numbers of items and users, weights, calibrations, trees and policies are variables,
    and none of these things.

    Args:
        basis: what all graphs follow from and no module knows: code, libraries, form of the towers. None = nothing is known,
            so every model is traced and no later release can take its graphs.
        previous: the earlier release; whole, as `serving.releases.release.verify_release` says.

    Attributes:
        digests: of each model that was written and may be taken over, for the details under `TRACED_FROM`.
        again: names of the models that were not traced.
    """

    basis: Any = None
    previous: Release | None = None
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    again: list[str] = dataclasses.field(default_factory=list)

    def write(self, name: str, module: Any, folder: Path) -> None:
        """Writes one model into a new folder."""
        known = module.graph_basis() if self.basis is not None and isinstance(module, Reusable) else None
        if known is not None:
            text = json.dumps({"all": self.basis, "model": name, "module": known}, sort_keys=True)
            self.digests[name] = hashlib.sha256(text.encode()).hexdigest()
            before = {} if self.previous is None else self.previous.manifest["details"].get(TRACED_FROM, {})
            if self.previous is not None and before.get(name) == self.digests[name]:
                try:
                    save_again(module, self.previous.folder / name / str(self.previous.version), folder)
                    self.again.append(name)
                    return
                except ValueError:  # a table has become wider: another graph
                    pass
        module.save(folder)


def save_again(module: Reusable, previous: Path, folder: Path) -> None:
    """Writes a module with the graph of an earlier SavedModel.

    Raises:
        ValueError: its variables are others than the graph's.
    """
    values = module_variables(module)
    graph = saved_model_pb2.SavedModel.FromString((previous / "saved_model.pb").read_bytes())
    if other := set(values) ^ set(declared_variables(graph)):
        raise ValueError(
            f"module: variables must be those of {previous}, received {sorted(other)} of one alone; trace it"
        )
    write_again(previous, folder, values, *vocabularies_again(previous, module.users, module.items))


def module_variables(module: Any) -> dict[str, np.ndarray]:
    """Values of a module's variables by attribute path, as `serving.saved_model.read_variables` names them.

    Example:
        >>> class Scale(tf.Module):
        ...     def __init__(self):
        ...         self.parts = [tf.Variable(2.0), tf.Variable(3.0)]
        >>> {path: float(value) for path, value in module_variables(Scale()).items()}
        {'parts/0': 2.0, 'parts/1': 3.0}
    """
    found = module._flatten(predicate=lambda value: isinstance(value, tf.Variable), with_path=True)
    return {"/".join(map(str, path)): value.numpy() for path, value in found}
