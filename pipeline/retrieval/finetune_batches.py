"""Training batches for fine-tuning: those of retrieval, with some of their items as the encoders' inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.batches import Batch, RetrievalBatches
from data.media import read_media
from pipeline.content.encode_plan import Content, find_content
from pipeline.content.encode_worker import decoder_of
from pipeline.content.encode_workers import decoder_arguments
from towers.encoder_card import EncoderCard

CACHE_BYTES = 2**30
"""Decoded pictures and clips kept in memory, a modality; what goes beyond is decoded each time it is drawn."""
STEP = 16
"""Token tables are as long as the longest text needs, rounded up to this."""
BLOCK = 256
"""Items encoded at a time."""


class EncoderInputs:
    """What an encoder reads of every item: texts as a table of tokens, pictures and sound decoded when they are drawn.

    Args:
        encoder: with `tensors`, `modality` and `size`.
        items: the ingested catalogue, row 0 included. present: [N + 1] bool, the items that the store has vectors of.
        media: folder of the dataset's media.
        tokens: at most so many of a text.

    Attributes:
        has: [N + 1] bool, the items that can be drawn.
    """

    def __init__(self, encoder: Any, items: pd.DataFrame, present: np.ndarray, media: Path, tokens: int) -> None:
        found = find_content(items, encoder.modality)
        self.encoder, self.media = encoder, media
        self.contents: dict[int, Content] = {row: content for row, content in found.items() if present[row]}
        if not self.contents:
            raise ValueError(
                f"encoders.{encoder.modality}.train: no item has content to tune on (ready-made vectors cannot be "
                f'tuned); set encoders.{encoder.modality}.train = "frozen"'
            )
        self.has = np.zeros(len(items), np.bool_)
        self.has[list(self.contents)] = True
        self._decoded: dict[int, np.ndarray] = {}
        self._room = CACHE_BYTES
        self._table = self._tokenize(tokens) if encoder.modality == "text" else None

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The encoder's inputs for item rows [K] by name, "" where there is only one; any item stands in for row 0."""
        usable = np.where(self.has[rows], rows, next(iter(self.contents)))
        if self._table is not None:
            return {name: table[usable] for name, table in self._table.items()}
        return as_named(self.encoder.tensors(np.stack([self._decode(int(row)) for row in usable])))

    def encode_all(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, vectors) of every item that can be drawn, block by block, as the encode stage would make them."""
        rows = np.flatnonzero(self.has)
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            if self._table is not None:
                batch: Any = [self._text(int(row)) for row in part]
            else:
                batch = np.stack([self._decode(int(row)) for row in part])
            yield part, np.asarray(self.encoder.encode(batch), np.float32)

    def _text(self, row: int) -> str:
        return self.contents[row].value[: self.encoder.size]

    def _tokenize(self, tokens: int) -> dict[str, np.ndarray]:
        rows = np.array(list(self.contents))
        inputs = as_named(self.encoder.tensors([self._text(int(row)) for row in rows]))
        # A joint encoder's text has one fixed length.
        if all(tensor.shape[1] is None for tensor in self.encoder.model.inputs):
            inputs = shorten(inputs, tokens)
        table = {}
        for name, values in inputs.items():
            table[name] = np.zeros((len(self.has), *values.shape[1:]), values.dtype)
            table[name][rows] = values
        return table

    def _decode(self, row: int) -> np.ndarray:
        if row in self._decoded:
            return self._decoded[row]
        content = self.contents[row]
        card = EncoderCard("", "", self.encoder.modality, self.encoder.width, self.encoder.size)
        arguments = decoder_arguments(card)[0]
        decoded = decoder_of(content.kind)(read_media(self.media, content.value), *arguments)
        if decoded.nbytes <= self._room:
            self._room -= decoded.nbytes
            self._decoded[row] = decoded
        return decoded


class FinetuneBatches:
    """Batches of `RetrievalBatches` plus `drawn_<m>` and `input_<m>_<name>` (see `towers.finetune_task`).

    The same (seed, epoch) gives the same draws in every process. Every item that stands in the batch and has the
    modality is drawn with the same chance, whether it is a target or part of a history.

    Args:
        batches: of the training events. inputs: by modality. items_per_step: K. seed: of the draws.
    """

    def __init__(
        self, batches: RetrievalBatches, inputs: Mapping[str, EncoderInputs], *, items_per_step: int, seed: int
    ) -> None:
        self.batches, self.inputs, self.seed = batches, inputs, seed
        self.drawn = {
            name: min(items_per_step, batches.capacity - 1, int(encoder.has.sum())) for name, encoder in inputs.items()
        }

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on."""
        for step, batch in enumerate(self.batches.epoch(number, start), start):
            rng = np.random.default_rng([self.seed, number, step])
            for name, inputs in self.inputs.items():
                drawn = draw_items(batch, inputs.has, self.drawn[name], rng)
                batch[f"drawn_{name}"] = drawn
                for key, value in inputs.take(batch["items"][drawn]).items():
                    batch[f"input_{name}_{key}"] = value
            yield batch


def draw_items(batch: Batch, has: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Positions in `batch["items"]` of `count` items that the batch uses and that have the content; padded with 0. [K]

    Example:
        >>> batch = {"items": np.array([0, 4, 5, 9]), "target": np.array([1]), "history": np.array([[2, 0]])}
        >>> draw_items(batch, np.array([True] * 10), 3, np.random.default_rng(0)).tolist()
        [1, 2, 0]
    """
    used = np.unique(np.concatenate([batch["target"].ravel(), batch["history"].ravel()]))
    used = used[(used > 0) & has[batch["items"][used]]]
    if len(used) > count:
        used = np.sort(rng.choice(used, count, replace=False))
    return np.pad(used, (0, count - len(used))).astype(np.int32)


def as_named(inputs: Any) -> dict[str, np.ndarray]:
    """An encoder's inputs by name; a single array is called ""."""
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    return {name: np.asarray(value) for name, value in named.items()}


def shorten(inputs: dict[str, np.ndarray], tokens: int) -> dict[str, np.ndarray]:
    """Token arrays [N, T] cut to the longest text, at most `tokens`; a text that is cut keeps its end token.

    Example:
        >>> token_ids, padding_mask = np.arange(1, 41)[None], np.ones((1, 40), np.int32)
        >>> shorten({"token_ids": token_ids, "padding_mask": padding_mask}, 16)["token_ids"][0, -3:].tolist()
        [14, 15, 40]
    """
    if "padding_mask" not in inputs:
        return inputs
    mask = inputs["padding_mask"].astype(bool)
    lengths = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)
    length = min(tokens, -(-int(lengths.max()) // STEP) * STEP, mask.shape[1])
    cut = np.flatnonzero(lengths > length)
    shortened = {name: values[:, :length].copy() for name, values in inputs.items()}
    for name, values in inputs.items():
        shortened[name][cut, -1] = values[cut, lengths[cut] - 1]
    return shortened
