"""A file's bytes, unpacked where they are packed, in overlapping blocks: a long video is never in memory as a whole."""

from __future__ import annotations

import dataclasses
import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK_BYTES = 4 * 2**20
LONGEST_CHARACTER = 4
"""Bytes of a character in UTF-8, at most."""
GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a file.

    Attributes:
        content: its bytes. head, tail: bytes or, decoded, characters at its two edges that belong to its neighbours: what is
            found there may be cut off, and stands farther inside in the block before or after; 0 at the ends of the file.
    """

    content: bytes
    head: int
    tail: int


def blocks(path: Path, longest: int) -> Iterator[Block]:
    """The blocks of a file, or of each file in it; whatever has at most `longest` bytes lies, with as many around it, wholly
    between the edges of some block."""
    if path.suffix == ".npz" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    yield from _of_stream(member, longest)
    elif path.suffix == ".gz" and starts_with(path, GZIP_MAGIC):
        with gzip.open(path, "rb") as unpacked:
            yield from _of_stream(unpacked, longest)
    else:
        with path.open("rb") as file:
            yield from _of_stream(file, longest)


def starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _of_stream(stream: IO[bytes] | gzip.GzipFile, longest: int) -> Iterator[Block]:
    # An edge of so many characters has at most `LONGEST_CHARACTER` times as many bytes; two edges, and what lies between.
    overlap = (2 * LONGEST_CHARACTER + 1) * longest
    size = max(BLOCK_BYTES, overlap)
    content, head = stream.read(size + overlap), 0
    while True:
        more = stream.read(size)
        yield Block(content, head, longest if more else 0)
        if not more:
            return
        content, head = content[-overlap:] + more, longest
