"""Texts encoded by a process beside, while this one decodes and encodes everything else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.content.encode_local import Encoded, encode_batches
from pipeline.content.encode_plan import Batch
from towers.encoders import make_encoder

MOST_TEXTS = 1024
"""A process beside computes on one core: of more texts than this it would make the others wait."""


class Helper(Protocol):
    """A process that does `encode_texts` once, and has not been asked yet."""

    def order(self, *order: Any) -> None: ...

    def answer(self) -> tuple[Any, str]: ...


def encode_texts(batches: Sequence[Batch], media: Path, weights: Path, *, ready: Callable[[], Any]) -> list[Encoded]:
    """What became of some batches: the work of the process.

    Args:
        media: see `pipeline.content.encode_local.encode_batches`. weights: folder of converted weights.
    """
    return list(encode_batches(batches, media, 1, functools.partial(make_encoder, cache=weights)))


def encode_both(
    batches: Sequence[Batch],
    media: Path,
    weights: Path,
    helper: Helper | None,
    here: Callable[[Sequence[Batch]], Generator[Encoded, None, None]],
) -> Generator[Encoded, None, None]:
    """What `here` makes of batches, texts last and by the helper where it saves time; where that fails, by `here` as well.

    Two encoders take longer to be built than a night's few new items to be encoded.
    """
    texts = [batch for batch in batches if batch.card.modality == "text"]
    others = [batch for batch in batches if batch.card.modality != "text"]
    if helper is None or not texts or not others or sum(len(batch.keys) for batch in texts) > MOST_TEXTS:
        yield from here(batches)
        return
    helper.order(texts, media, weights)
    yield from here(others)
    encoded, _ = helper.answer()  # of a failure the process has printed where it was
    yield from here(texts) if encoded is None else encoded
