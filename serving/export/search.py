"""The `search` model of a release: words in, items out, one graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ranking.stored_rows import Precision
from serving.graphs.keras_weights import KerasWeights
from serving.graphs.raw_encoder import make_raw_encoder
from serving.graphs.raw_text import clean_text
from serving.graphs.request_history import no_rows, table_variable, without_gone
from serving.graphs.vocabulary_tables import VocabularyTables
from serving.index.index import LOWEST, ExactIndex
from serving.saved_model import write_saved_model

SIGNATURES = ("serving_default", "search")
ITEMS = "items"


class SearchModule(tf.Module):
    """Tokenizer, text encoder, search tower, exact index and vocabulary as one function from a question to items.

    Args:
        item_ids: vocabulary file.
        encoder: the text encoder, with a form in TensorFlow operations.
        search_tower: built; `search_tower(vectors [B, F])` returns questions [B, E] beside the item table.
        item_table: f32 [N + 1, E], see `search_table`.
        precision: how the item table is kept; the encoder's own weights stay as they are.
        gone: int32 [G], rows that are never found, see `ServingTables`.

    Raises:
        ValueError: vocabulary and table are of different sizes. UnsupportedEncoderError: see `make_raw_encoder`.
    """

    def __init__(
        self,
        item_ids: Path,
        encoder: Any,
        search_tower: Any,
        item_table: np.ndarray,
        precision: Precision = "float32",
        gone: np.ndarray | None = None,
    ):
        super().__init__(name="search")
        self.items = VocabularyTables(item_ids, "items")
        if self.items.size != len(item_table):
            raise ValueError(
                f"item_table: must have {self.items.size} rows as item_ids, received {len(item_table)}; take both from "
                f"one run"
            )
        self.encoder = make_raw_encoder(encoder)
        self.search_tower = KerasWeights(search_tower, "search_tower")
        self.index = ExactIndex(item_table, precision)
        self.gone = table_variable(no_rows() if gone is None else gone, tf.int32, "gone_rows")

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec((None,), tf.string, "query"),
            tf.TensorSpec((None, None), tf.string, "exclude_item_ids"),
            tf.TensorSpec((), tf.int32, "k"),
        ],
    )
    def search(self, query, exclude_item_ids, k):
        """`serving_default`, also under the name `search`.

        Shapes: query string [B]; exclude_item_ids string [B, E], "" = none; k int32 scalar -> {"item_ids": string [B,
        k], "scores": f32 [B, k], "query": f32 [B, E]}, best first; where fewer items are left, "" and the lowest float.
        A question without words finds nothing, and its query is 0; words that the encoder does not know find whatever
        the rest of the question means.
        """
        text = clean_text(query)
        encode = getattr(self.encoder, "queries", self.encoder)
        vectors = encode(text)
        # The pack's encoders give some vector for nothing at all, hashed n-grams give zeros.
        asked = tf.strings.regex_full_match(text, r"(?s).*[\pL\pN].*") & tf.reduce_any(vectors != 0.0, axis=1)
        queries = tf.where(asked[:, None], self.search_tower(vectors), 0.0)
        hidden = without_gone(self.items.rows(exclude_item_ids), tf.convert_to_tensor(self.gone))
        rows, scores = self.index.search(queries, k, hidden)
        found = asked[:, None] & (rows > 0)
        item_ids, scores = self.items.ids(tf.where(found, rows, 0)), tf.where(found, scores, LOWEST)
        return {"item_ids": item_ids, "scores": scores, "query": queries}

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec((None, None), tf.float32, "embedding"),
            tf.TensorSpec((None, None), tf.float32, "text_vector"),
            tf.TensorSpec((None,), tf.bool, "text_present"),
        ],
    )
    def place(self, embedding, text_vector, text_present):
        """`items`: where items that are younger than the release lie beside its table, by what `item_encoder` answers.

        Shapes: embedding f32 [B, D], text_vector f32 [B, F], text_present bool [B] -> {"vectors": f32 [B, E]}; the dot
        product with a `query` is a score of `search`.
        """
        return {"vectors": self.search_tower.method("items", embedding, text_vector, text_present)}

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `search/<version>`."""
        write_saved_model(self, folder, {**dict.fromkeys(SIGNATURES, self.search), ITEMS: self.place})


def search_table(search_tower: Any, embeddings: np.ndarray, vectors: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The items' side of a search tower, row 0 zeros.

    Shapes: embeddings [N + 1, D], text vectors [N + 1, F], present [N + 1] bool -> f32 [N + 1, E].
    """
    parts = []
    for start in range(0, len(embeddings), 65_536):
        some = slice(start, start + 65_536)
        table = search_tower.items(embeddings[some], np.asarray(vectors[some], np.float32), present[some])
        parts.append(keras.ops.convert_to_numpy(table).astype(np.float32))
    table = np.concatenate(parts)
    table[0] = 0.0
    return table
