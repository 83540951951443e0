"""The models of raw content with the graphs of an earlier release: encoders as they are, towers and tables of today."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from serving.export.item_encoder import SIGNATURE, ItemEncoderModule
from serving.graphs.keras_weights import KerasWeights
from serving.graphs.request_history import no_rows
from serving.graphs.vocabulary_tables import VocabularyTables, vocabularies_again
from serving.saved_model_again import check_variables, write_again

VECTOR = "_vector"


class ItemEncoderAgain:
    """An earlier `item_encoder` with another item tower, of the same form, and content map.

    Args:
        previous: folder of the earlier SavedModel. item_tower, widths, content_map: see `ItemEncoderModule`.

    Attributes:
        widths, vector_inputs: as an `ItemEncoderModule` has them. encoders: names of the modalities that the graph encodes.

    Raises:
        ValueError: the earlier graph is of another form.
    """

    def __init__(self, previous: Path, item_tower: Any, widths: Mapping[str, int], content_map: Any = None):
        module = ItemEncoderModule(item_tower, widths, {}, content_map)
        self.previous, self.widths = previous, module.widths
        self.values = variables_of(module.item_tower, "item_tower") | variables_of(module.content_map, "content_map")
        graph = saved_model_pb2.SavedModel.FromString((previous / "saved_model.pb").read_bytes())
        inputs = graph.meta_graphs[0].signature_def[SIGNATURE].inputs
        self.vector_inputs = tuple(name for name in self.widths if name + VECTOR in inputs)
        self.encoders = tuple(name for name in self.widths if name not in self.vector_inputs)
        check_variables(graph, self.values)

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder."""
        write_again(self.previous, folder, self.values)


class SearchAgain:
    """An earlier `search` with another search tower, of the same form, and other items.

    Args:
        previous: folder of the earlier SavedModel. item_ids, search_tower, item_table, gone: see `SearchModule`.

    Raises:
        ValueError: the earlier graph is of another form, or knows how many items there were.
    """

    def __init__(
        self, previous: Path, item_ids: Path, search_tower: Any, item_table: np.ndarray, gone: np.ndarray | None = None
    ):
        items, table = VocabularyTables(item_ids, "items"), np.array(item_table, np.float32)
        table[0] = 0.0
        self.previous = previous
        self.assets, self.renamed = vocabularies_again(previous, items)
        self.values = variables_of(KerasWeights(search_tower, "search_tower"), "search_tower")
        self.values |= {"index/item_embeddings": table, "items/strings": items.strings.numpy()}
        self.values["gone"] = no_rows() if gone is None else gone
        check_variables(saved_model_pb2.SavedModel.FromString((previous / "saved_model.pb").read_bytes()), self.values)

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder."""
        write_again(self.previous, folder, self.values, self.assets, self.renamed)


def variables_of(weights: Any, name: str) -> dict[str, np.ndarray]:
    """Values of a `KerasWeights` or `PartialWeights` by attribute path; none of None."""
    values: list[tf.Variable] = [] if weights is None else weights.values
    return {f"{name}/values/{place}": value.numpy() for place, value in enumerate(values)}
