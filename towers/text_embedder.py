"""Text through a pretrained keras-hub backbone: sentence vectors from a preset name or a local folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint
from towers.joint_embedder import is_joint, joint_text_model, joint_tokens
from towers.model_batches import predict_tokens
from towers.preset import measured, one_of, preset_files, preset_folder, preset_kind, split_options, whole_number, why

VERSION = 1
OPTIONS = ("tokens", "pooling", "prefix")
POOLINGS = ("auto", "mean", "first", "last")
TOKENS = 64
PREFIXES = ((r"(^|[_\-])e5([_\-]|$)", "passage: "), (r"^embedding_?gemma", "title: none | text: "))
"""What item texts begin with where a preset's name says that it was trained so (Wang et al. 2022)."""
TASKS = {"bert": "Bert", "xlm-roberta": "XLMRoberta", "gemma3": "Gemma3", "gemma3_text": "Gemma3", "qwen3": "Qwen3"}
"""Hugging Face model types for which keras-hub has a text embedder."""


class TextEmbedderEncoder:
    """Sentence embeddings; texts are tokenised together, sorted by length and run in batches trimmed to their longest.

    Attention costs grow with the padded length, so sorting is worth several times the speed on titles and short
    descriptions. Paper: Reimers and Gurevych 2019 (mean-pooled sentence encoders).

    Pooling of `auto`: what the preset's own text embedder says (BERT, XLM-RoBERTa, Gemma 3, Qwen 3), the text tower's
    own for CLIP and SigLIP, and for every other backbone the mean. Formula of the mean: `y = m / |m|`,
    `m = sum_l mask_l h_l / sum_l mask_l` over the hidden states h; `first` and `last` take one state instead.

    Args:
        preset: keras-hub preset name, or a folder in its or in the Hugging Face format; options may follow it, as in
            `multilingual_e5_small?tokens=128&pooling=mean&prefix=passage: `. Without `prefix`, names of the E5 and
            EmbeddingGemma families bring theirs.
        batch_size: texts of one forward pass.

    Attributes:
        model: Keras model over `tensors`. preprocessor: strings to tokens. prefix: put before every text.

    Shapes: B strings -> float32 [B, F_m] of unit length; for MiniLM F_m = 384.

    Raises:
        ValueError: a preset without a text backbone, or an unknown option.
        FileNotFoundError, ConnectionError: see `preset_folder`.
    """

    modality = "text"

    def __init__(self, preset: str, *, batch_size: int = 64) -> None:
        folder, options, self.prefix = _read(preset)
        self.name, self.batch_size = f"keras_hub:{preset}", batch_size
        self.fingerprint = _digest(folder, options, self.prefix)
        kind, _ = preset_kind(folder)
        self._trim = not is_joint(kind)
        length = whole_number(options, "tokens", TOKENS, 8, 8192)
        pooling = one_of(options, "pooling", POOLINGS)
        try:
            if is_joint(kind):
                self.model, self.preprocessor, length = joint_text_model(folder, kind)
            elif pooling == "auto" and _task(kind) is not None:
                self.model, self.preprocessor = _text_embedder(folder, length)
            else:
                self.model, self.preprocessor = _pooled_backbone(folder, pooling, length)
        except Exception as error:
            raise ValueError(
                f"preset: must hold a text backbone and its tokenizer, {preset!r} holds {kind} "
                f"({why(error)})"
            ) from error
        # By XLA MiniLM is 15 to 20 % faster on two cores, but every length takes 2 to 3 s to compile, as long as 7,000 texts.
        self.model.compile(jit_compile=False)
        self.width = int(self.model.output_shape[-1])
        self.size = 20 * length  # characters: more than the tokens can use in spaced scripts

    @classmethod
    def card(cls, preset: str) -> EncoderCard:
        """The encoder's facts without building it, except for the width of a backbone whose config has none."""
        folder, options, prefix = _read(preset)
        kind, settings = preset_kind(folder)
        digest = _digest(folder, options, prefix)
        width, length = _width(kind, settings), whole_number(options, "tokens", TOKENS, 8, 8192)
        if width is None or is_joint(kind):

            def measure() -> tuple[int, int]:
                encoder = TextEmbedderEncoder(preset)
                return encoder.width, encoder.size

            width, size = measured(digest, measure)
        else:
            size = 20 * length
        return EncoderCard(f"keras_hub:{preset}", digest, "text", width, size)

    def tensors(self, batch: Sequence[str]) -> dict[str, np.ndarray]:
        """B strings -> the model's inputs: `token_ids` int32 [B, L], and masks where the backbone has them."""
        texts = [self.prefix + text for text in batch]
        if not self._trim:
            return joint_tokens(self.preprocessor, texts)
        return {key: np.asarray(value) for key, value in self.preprocessor(texts).items()}

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        """B strings -> float32 [B, F_m], in the order given."""
        if not len(batch):
            return np.zeros((0, self.width), np.float32)
        tokens = self.tensors(batch)
        longest = next(iter(tokens.values())).shape[1]
        mask = next((value for key, value in tokens.items() if key.endswith("padding_mask")), None) if self._trim else None
        lengths = np.full(len(batch), longest) if mask is None else np.asarray(mask, np.int64).sum(axis=1)
        return predict_tokens(self.model, tokens, lengths, self.batch_size)


def _read(preset: str) -> tuple[Path, dict[str, str], str]:
    name, options = split_options(preset, OPTIONS)
    folder, last = preset_folder(name), name.rstrip("/").rpartition("/")[2].lower()
    known = next((prefix for pattern, prefix in PREFIXES if re.search(pattern, last)), "")
    return folder, options, options.get("prefix", known)


def _digest(folder: Path, options: dict[str, str], prefix: str) -> str:
    tokens, pooling = whole_number(options, "tokens", TOKENS, 8, 8192), one_of(options, "pooling", POOLINGS)
    return fingerprint("text", VERSION, tokens, pooling, prefix, files=preset_files(folder))


def _width(kind: str, settings: dict[str, Any]) -> int | None:
    if is_joint(kind):
        return None
    keys = ("embedding_dim",) if settings.get("is_embedding_model") else ("hidden_dim", "hidden_size", "d_model")
    return next((int(settings[key]) for key in keys if isinstance(settings.get(key), int)), None)


def _task(kind: str) -> str | None:
    """Name of keras-hub's text embedder for a backbone class or model type; None if it has none."""
    import keras_hub

    task = f"{TASKS.get(kind, kind.removesuffix('Backbone'))}TextEmbedder"
    return task if hasattr(keras_hub.models, task) else None


def _text_embedder(folder: Path, length: int) -> tuple[Any, Callable[..., Any]]:
    import keras_hub

    preprocessor = keras_hub.models.TextEmbedderPreprocessor.from_preset(str(folder), sequence_length=length)
    return keras_hub.models.TextEmbedder.from_preset(str(folder), preprocessor=None), preprocessor


def _pooled_backbone(folder: Path, pooling: str, length: int) -> tuple[Any, Callable[..., Any]]:
    """A backbone, or the encoder of an encoder-decoder, with one state or the mean of its states on top."""
    import keras
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    if not isinstance(backbone.input, dict) or not any(key.endswith("token_ids") for key in backbone.input):
        raise ValueError("its input is not tokens")
    side = "encoder_" if "encoder_token_ids" in backbone.input else ""
    known = {f"{side}{key}" for key in ("token_ids", "padding_mask", "segment_ids")}
    inputs = {key: value for key, value in backbone.input.items() if key in known}
    others = set(backbone.input) - known - ({"decoder_token_ids", "decoder_padding_mask"} if side else set())
    if others:
        raise ValueError(f"text alone does not fill its inputs {sorted(others)}; choose a text-only preset")
    states = backbone.output
    if isinstance(states, dict):
        states = states[f"{side}sequence_output"]
    mask = inputs.setdefault(f"{side}padding_mask", keras.Input((None,), dtype="int32", name=f"{side}padding_mask"))
    weights = keras.ops.cast(mask, states.dtype)
    if pooling in ("first", "last"):
        counted = weights if pooling == "first" else keras.ops.flip(weights, axis=1)
        one = keras.ops.cast(keras.ops.equal(keras.ops.cumsum(counted, axis=1), 1), states.dtype)
        weights = weights * (one if pooling == "first" else keras.ops.flip(one, axis=1))
    total = keras.ops.maximum(keras.ops.sum(weights, axis=1, keepdims=True), 1e-9)
    pooled = keras.ops.sum(states * weights[..., None], axis=1) / total
    model = keras.Model(inputs, keras.ops.normalize(pooled, axis=-1, order=2), name="pooled_text")
    model.backbone = backbone
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(str(folder))
    packer = keras_hub.layers.StartEndPacker(
        sequence_length=length,
        start_value=getattr(tokenizer, "start_token_id", None),
        end_value=getattr(tokenizer, "end_token_id", None),
        pad_value=getattr(tokenizer, "pad_token_id", 0),
        return_padding_mask=True,
    )

    def preprocess(texts: Sequence[str]) -> dict[str, Any]:
        tokens, present = packer(tokenizer(list(texts)))
        tensors = {f"{side}token_ids": tokens, f"{side}padding_mask": np.asarray(present, np.int32)}
        if f"{side}segment_ids" in inputs:
            tensors[f"{side}segment_ids"] = np.zeros(np.shape(tokens), np.int32)
        return tensors

    return model, preprocess
