"""Text features that need no weights: hashed words and character n-grams under a signed random projection."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint

WORD = re.compile(r"\w+")
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af]+")


class SignalTextEncoder:
    """A fixed random projection of word and character n-gram counts.

    With w_g the weight of n-gram g (sublinear in its count), the vector is the unit-length multiple of

        sum_g w_g r(g),   r(g) in {-1, +1}^256 = the bits of BLAKE2b(g),

    so that E[x . y] is proportional to the weighted overlap of the two texts' n-grams, whatever their number, without a
    vocabulary and with the same result on every machine. Words of spaced scripts give the word, pairs of neighbours and
    character 3- to 5-grams; runs of unspaced scripts (Chinese, Japanese, Korean) give characters and pairs.

    Papers: Achlioptas 2003 (database-friendly random projections); Weinberger et al. 2009 (feature hashing).

    Shapes: B strings -> float32 [B, 256]. A text without letters gives zeros.

    Example:
        >>> a, b, c = SignalTextEncoder().encode(["slow jazz piano", "jazz piano, slow", "trail running shoes"])
        >>> bool(a @ b > 0.6 > a @ c)
        True
    """

    modality = "text"
    name = "signal:"
    version = 1
    size = 2000

    def __init__(self, width: int = 256) -> None:
        if not 8 <= width <= 512 or width % 8:
            raise ValueError(f"width: must be a multiple of 8 in 8..512 (the bits of one digest), received {width}")
        self.width = width
        self.fingerprint = self.card(width).fingerprint

    @classmethod
    def card(cls, width: int = 256) -> EncoderCard:
        """The facts of the encoder without making it."""
        digest = fingerprint("signal:text", cls.version, width, cls.size)
        return EncoderCard(cls.name, digest, cls.modality, width, cls.size)

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        """B strings -> float32 [B, F_m] of unit length."""
        vectors = np.stack([self._project(text) for text in batch]) if len(batch) else np.zeros((0, self.width))
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(length > 0, length, 1)).astype(np.float32)

    def _project(self, text: str) -> np.ndarray:
        weights: Counter[str] = Counter()
        for gram, weight in ngrams(text[: self.size]):
            weights[gram] += weight  # type: ignore[assignment]
        if not weights:
            return np.zeros(self.width)
        size = self.width // 8
        digests = b"".join(hashlib.blake2b(gram.encode(), digest_size=size).digest() for gram in weights)
        bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(len(weights), self.width)
        return np.sqrt(np.fromiter(weights.values(), np.float64)) @ (2.0 * bits - 1.0)


def ngrams(text: str) -> Iterator[tuple[str, float]]:
    """The n-grams of a text with their weights; short words weigh less, being mostly function words.

    Example:
        >>> [gram for gram, _ in ngrams("dub 爵士")]
        ['w:dub', 'c:<du', 'c:dub', 'c:ub>', 'c:<dub', 'c:dub>', 'c:<dub>', 'w:爵', 'w:士', 'w:爵士']
    """
    previous = ""
    for word in WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        for run in UNSPACED.findall(word):
            yield from (("w:" + character, 0.5) for character in run)
            yield from (("w:" + run[i : i + 2], 1.0) for i in range(len(run) - 1))
        rest = UNSPACED.sub("", word)
        if not rest:
            continue
        weight = min(len(rest), 6) / 6
        yield "w:" + rest, weight**2
        if previous:
            yield f"p:{previous} {rest}", 0.25 * weight**2
        marked = f"<{rest}>"
        for n in (3, 4, 5):
            yield from (("c:" + marked[i : i + n], 0.1 * weight) for i in range(len(marked) - n + 1))
        previous = rest
