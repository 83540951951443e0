"""The language model of enrichment: a keras-hub causal model, or a vision-language one, from prompts to answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.settings.enrich import EnrichSection
from towers.encoder_card import fingerprint
from towers.preset import preset_files, preset_folder, preset_kind, why

VERSION = 1
STYLES = {
    "PaliGemmaBackbone": "pali_gemma",
    "paligemma": "pali_gemma",
    **dict.fromkeys(("GemmaBackbone", "Gemma3Backbone", "gemma", "gemma2", "gemma3", "gemma3_text"), "gemma"),
    **dict.fromkeys(("QwenBackbone", "Qwen3Backbone", "SmolLM3Backbone", "qwen2", "qwen3", "smollm3"), "chatml"),
    **dict.fromkeys(("Llama3Backbone", "llama"), "llama3"),
    "Phi3Backbone": "phi3",
}
"""How to speak to what a preset holds; others get the bare prompt."""
ENDS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>")
"""Words that end a turn in one family or another; the tokenizer's own end counts as well."""
STEP = 64
"""Prompts are padded to multiples of this, so that generation is compiled for few lengths."""


class ItemWriter:
    """Writes answers to prompts; built without the model, which is loaded with the first prompt.

    Args:
        section: preset, style, sampler, seed, dtype and bounds.

    Attributes:
        name: preset and fingerprint, as `generated.parquet` records it.
        fingerprint: 16 hex digits over the preset's files.
        style: one of `pipeline.content.enrich_prompt.TURNS`.
        takes_pictures, needs_pictures: whether it can read pictures, and whether it reads nothing else.

    Raises:
        ValueError: a preset that is no causal language model.
        FileNotFoundError, ConnectionError: see `towers.preset.preset_folder`.
    """

    def __init__(self, section: EnrichSection) -> None:
        self.section, self.folder = section, preset_folder(section.preset)
        kind, settings = preset_kind(self.folder)
        self.fingerprint = fingerprint("writer", VERSION, files=preset_files(self.folder))
        self.name = f"{section.preset}@{self.fingerprint}"
        self.style = STYLES.get(kind, "plain") if section.style == "auto" else section.style
        self.needs_pictures = kind in ("PaliGemmaBackbone", "paligemma")
        sees = settings.get("vision_encoder") is not None or settings.get("vision_config") is not None
        self.takes_pictures = self.needs_pictures or (kind in ("Gemma3Backbone", "gemma3") and sees)
        self._kind = kind
        self._model: Any = None
        self._preprocessor: Any = None
        self._ends: tuple[int, ...] = ()

    @property
    def picture_size(self) -> int:
        """Pixels a side of the pictures that it reads."""
        self._load()
        return int(self._preprocessor.image_converter.image_size[0])

    @property
    def commands(self) -> tuple[str, ...]:
        """Special words of the tokenizer, which no item's text may hold."""
        self._load()
        return tuple(str(word) for word in getattr(self._preprocessor.tokenizer, "special_tokens", ()))

    def count(self, prompt: str) -> int:
        """Tokens of a prompt, start token included and pictures not."""
        self._load()
        return len(np.asarray(self._preprocessor.tokenizer(prompt)).reshape(-1)) + 1

    def write(self, prompts: Sequence[str], pictures: np.ndarray | None = None) -> list[str]:
        """Answers to B prompts, at most `max_new_tokens` tokens each, cut at the first end of a turn.

        Greedy answers do not depend on what shares the batch.

        Args:
            prompts: as `pipeline.content.enrich_prompt.make_prompt` builds them.
            pictures: uint8 [B, size, size, 3], one for every prompt, or None.
        """
        if not prompts:
            return []
        self._load()
        longest = max(self.count(prompt) for prompt in prompts)
        if pictures is not None and not self.needs_pictures:
            longest += int(self._preprocessor.num_vision_tokens_per_image) + 8  # marks and blank lines around them
        length = -(-longest // STEP) * STEP + self.section.max_new_tokens
        inputs = self._preprocessor.generate_preprocess(self._request(prompts, pictures), sequence_length=length)
        starts = np.asarray(inputs["padding_mask"]).astype(np.int64).sum(axis=1)
        output = self._model.generate(inputs, stop_token_ids=self._ends)
        tokens, real = np.asarray(output["token_ids"]), np.asarray(output["padding_mask"]).astype(np.int64).sum(axis=1)
        answers = []
        for row, start, end in zip(tokens, starts, real, strict=True):
            new = row[start : min(end, start + self.section.max_new_tokens)]
            stops = np.flatnonzero(np.isin(new, self._ends))
            new = new[: stops[0]] if len(stops) else new
            answers.append(self._text(new))
        return answers

    def _request(self, prompts: Sequence[str], pictures: np.ndarray | None) -> Any:
        import keras

        if pictures is None:
            return list(prompts)
        images = keras.ops.convert_to_tensor(pictures.astype(np.float32))
        return {"prompts": list(prompts), "images": images}

    def _text(self, tokens: np.ndarray) -> str:
        if not len(tokens):
            return ""
        text = self._preprocessor.tokenizer.detokenize(tokens.astype(np.int32))
        value = text.numpy() if hasattr(text, "numpy") else text
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _load(self) -> None:
        if self._model is not None:
            return
        import keras_hub

        folder, section = str(self.folder), self.section
        try:
            self._preprocessor = keras_hub.models.CausalLMPreprocessor.from_preset(folder)
            self._model = keras_hub.models.CausalLM.from_preset(folder, preprocessor=None, dtype=section.dtype)
        except Exception as error:
            raise ValueError(
                f"enrich.preset: must hold a causal language model and its tokenizer, {section.preset!r} holds "
                f"{self._kind} ({why(error)})"
            ) from error
        if self.takes_pictures and not self.needs_pictures:
            self._preprocessor.max_images_per_prompt = 1
        samplers = {
            "greedy": lambda: keras_hub.samplers.GreedySampler(),
            "top_k": lambda: keras_hub.samplers.TopKSampler(k=20, seed=section.seed),
            "top_p": lambda: keras_hub.samplers.TopPSampler(p=0.9, seed=section.seed),
        }
        self._model.compile(sampler=samplers[section.sampler]())
        self._ends = _end_tokens(self._preprocessor.tokenizer)


def _end_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Numbers of the tokens that end an answer."""
    ends = [getattr(tokenizer, name, None) for name in ("end_token_id", "end_token2_id")]
    for word in ENDS:
        try:
            number = tokenizer.token_to_id(word)
            known = number is not None and tokenizer.id_to_token(int(number)) == word
        except (KeyError, ValueError, IndexError):  # what tokenizers say of a word that they do not have
            known = False
        if known:
            ends.append(int(number))
    return tuple(dict.fromkeys(int(end) for end in ends if end is not None))
