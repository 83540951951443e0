"""New content encoded by a process beside, while this one encodes the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.content.encode_local import Encoded, MakeEncoder, encode_batches
from pipeline.content.encode_plan import Batch
from pipeline.content.encode_workers import DecodePool
from towers.encoders import Encoder, make_encoder

MOST_TEXTS = 1024
"""A process beside computes on one core: of more texts than this it would make the others wait."""
FEW_MEDIA = 64
"""Up to so many pictures, clips and films are for the process beside, which has what they need ready, and texts for this one;
of more this process decodes and encodes with all that there is."""
BATCHES = "batches"


class Helper(Protocol):
    """A process that does `encode_some` once."""

    def order(self, *order: Any) -> None: ...

    def go_on(self, there: str = "", what: Any = True) -> None: ...

    def answer(self) -> tuple[Any, str]: ...


def encode_some(
    media: Path, weights: Path, ahead: tuple[str, str] | None, *, ready: Callable[[], Any]
) -> list[Encoded]:
    """What became of some batches: the work of the process. They come by `ready`; what they are likely to need is made before.

    Args:
        media: see `pipeline.content.encode_local.encode_batches`. weights: folder of converted weights.
        ahead: modality and spec of the encoder to be built at once; None = nothing is known yet.
    """
    make: MakeEncoder = functools.partial(make_encoder, cache=weights)
    with DecodePool(media, 1) as pool:
        if ahead is not None:
            pool.start()
            make = Built(make, *ahead)
        return list(encode_batches(ready(), media, 1, make, pool))


class Built:
    """`make_encoder` with one encoder that has been built before it is asked for; it is handed out once."""

    def __init__(self, make: MakeEncoder, modality: str, spec: str):
        self.make, self.name = make, (modality, spec)
        self.encoder: Encoder | None = make(modality, spec)

    def __call__(self, modality: str, spec: str) -> Encoder | None:
        """See `towers.encoders.make_encoder`."""
        encoder, self.encoder = self.encoder, None  # one encoder is held at a time
        return encoder if encoder is not None and (modality, spec) == self.name else self.make(modality, spec)


def encode_both(
    batches: Sequence[Batch],
    media: Path,
    weights: Path,
    helper: Helper | None,
    here: Callable[[Sequence[Batch]], Generator[Encoded, None, None]],
) -> Generator[Encoded, None, None]:
    """What `here` makes of batches, and the helper of its part last; where that fails, `here` makes it as well.

    A night's few new items take less time to be encoded than their encoders to be built.
    """
    texts = [batch for batch in batches if batch.card.modality == "text"]
    others = [batch for batch in batches if batch.card.modality != "text"]
    if helper is None or not texts or not others or sum(len(batch.keys) for batch in texts) > MOST_TEXTS:
        yield from here(batches)
        return
    few = sum(len(batch.keys) for batch in others) <= FEW_MEDIA
    theirs, mine = (others, texts) if few else (texts, others)
    helper.order(media, weights, None)  # unless it was asked before
    helper.go_on(BATCHES, theirs)
    yield from here(mine)
    encoded, _ = helper.answer()  # of a failure the process has printed where it was
    yield from here(theirs) if encoded is None else encoded
