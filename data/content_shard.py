"""A shard: one file of keys and fp16 vectors that is written once, checked by its hash, and never changed.

Layout, little-endian, R rows of width F:

    magic (12 bytes), header length (uint32), header (JSON, padded with spaces),
    keys [R, 16] in ascending order (padded with zeros), vectors fp16 [R, F], BLAKE2b-256 of everything before

Keys and vectors start at multiples of 64 bytes, so that vectors are mapped, not read. A shard is named after its hash:
two writers of the same rows write the same file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.content_key import KEY_BYTES, key_halves
from data.durable_file import write_durably

MAGIC = b"TRIPTYCHSH1\n"
ALIGNMENT = 64
CHECKSUM_BYTES = 32
SHARD_SUFFIX = ".shard"
OPEN_MAPS = 128
"""Shards mapped at once: a map holds a file handle, of which a process has about a thousand."""


class ShardError(ValueError):
    """A file that is not a whole, undamaged shard of this encoder."""


@dataclasses.dataclass(frozen=True)
class StoredEncoder:
    """Whose vectors a folder of shards holds.

    Attributes:
        modality: what it reads. name: as a config says it. fingerprint: hash of weights and preprocessing.
        width: F_m.

    Example:
        >>> StoredEncoder("image", "pack:efficientnet", "0123456789abcdef", 1280).folder_name
        'image-pack-efficientnet-0123456789abcdef'
    """

    modality: str
    name: str
    fingerprint: str
    width: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9A-Za-z]{4,64}", self.fingerprint):
            raise ValueError(f"fingerprint: must be 4 to 64 letters and digits, received {self.fingerprint!r}")
        if self.width < 1:
            raise ValueError(f"width: must be at least 1, received {self.width}")

    def is_same(self, other: StoredEncoder) -> bool:
        """Whether both write the same vectors; the name is only a name."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return (mine[0], *mine[2:]) == (theirs[0], *theirs[2:])

    @property
    def folder_name(self) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[-48:].strip("-") or "encoder"
        return f"{self.modality}-{slug}-{self.fingerprint}"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file, read as far as its keys.

    Attributes:
        path: where. encoder: whose vectors. keys: uint8 [R, 16], ascending. cosine_loss: the largest that fp16 cost.
        offset: where vectors start. size: of the file, bytes.
    """

    path: Path
    encoder: StoredEncoder
    keys: np.ndarray = dataclasses.field(repr=False)
    cosine_loss: float
    offset: int
    size: int

    @property
    def rows(self) -> int:
        return len(self.keys)

    def vectors(self) -> np.ndarray:
        """fp16 [R, F], mapped and read-only.

        Raises:
            FileNotFoundError: it was compacted away meanwhile. ShardError: its length changed.
        """
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != self.size:
                raise ShardError(f"{self.path}: is {size} bytes long, was {self.size}")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = self.rows * self.encoder.width
        return np.frombuffer(content, np.float16, count, self.offset).reshape(self.rows, self.encoder.width)


class ShardMaps:
    """The vectors of many shards, a few of them mapped at a time."""

    def __init__(self) -> None:
        self._maps: OrderedDict[Path, np.ndarray] = OrderedDict()

    def of(self, shard: Shard) -> np.ndarray:
        """fp16 [R, F] of one shard; raises what `Shard.vectors` raises."""
        if shard.path not in self._maps:
            self._maps[shard.path] = shard.vectors()
            if len(self._maps) > OPEN_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard.path)
        return self._maps[shard.path]

    def forget(self, shard: Shard) -> None:
        self._maps.pop(shard.path, None)

    def clear(self) -> None:
        self._maps.clear()


def by_shard(numbers: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Positions of equal shard number in `numbers` [B], each in the order of `rows` [B]; negative numbers are left out.

    Example:
        >>> [(number, where.tolist()) for number, where in by_shard(np.array([4, -1, 2, 4]), np.array([9, 0, 7, 3]))]
        [(2, [2]), (4, [3, 0])]
    """
    order = np.lexsort((rows, numbers))
    order = order[numbers[order] >= 0]
    for positions in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else ():
        yield int(numbers[positions[0]]), positions


def write_shard(folder: Path, encoder: StoredEncoder, keys: np.ndarray, vectors: np.ndarray, loss: float) -> Path:
    """Write keys uint8 [R, 16] and vectors fp16 [R, F] as one shard: on disk and whole when this returns, or not there.

    Raises:
        WriteError: the disk is full or refuses to be written.
    """
    high, low = key_halves(keys)
    order = np.lexsort((low, high))
    header = {**dataclasses.asdict(encoder), "rows": len(keys), "dtype": "float16", "fp16_cosine_loss": loss}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-(len(MAGIC) + 4 + len(text)) % ALIGNMENT)
    key_block = keys[order].tobytes()
    key_block += bytes(-len(key_block) % ALIGNMENT)
    parts = [MAGIC, len(text).to_bytes(4, "little"), text, key_block, vectors[order].tobytes()]
    digest = hashlib.blake2b(digest_size=CHECKSUM_BYTES)
    for part in parts:
        digest.update(part)
    final = folder / f"{digest.hexdigest()[:32]}{SHARD_SUFFIX}"
    write_durably(final, [*parts, digest.digest()])
    return final


def read_shard(path: Path, whose: StoredEncoder | None = None, *, checksum: bool = True) -> Shard:
    """Read header and keys of a shard and check it: its whole hash, or with `checksum=False` only its lengths.

    Raises:
        FileNotFoundError: not there (any more).
        ShardError: truncated, damaged, no shard at all, or the vectors of another encoder than `whose`.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(MAGIC) + 4)
        if len(start) < len(MAGIC) + 4 or not start.startswith(MAGIC):
            raise ShardError(f"{path}: does not start as a shard does")
        length = int.from_bytes(start[len(MAGIC) :], "little")
        if length > size:
            raise ShardError(f"{path}: its header would be longer than the file")
        text = file.read(length)
        try:
            header = json.loads(text)
            encoder = StoredEncoder(*(header[field.name] for field in dataclasses.fields(StoredEncoder)))
            rows, loss = int(header["rows"]), float(header["fp16_cosine_loss"])
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: its header cannot be read ({error})") from error
        keys_at = len(start) + length
        key_bytes = rows * KEY_BYTES
        offset = keys_at + key_bytes + -key_bytes % ALIGNMENT
        expected = offset + rows * encoder.width * 2 + CHECKSUM_BYTES
        if rows < 1 or size != expected:
            raise ShardError(f"{path}: must be {expected} bytes long, received {size}")
        rest = file.read(offset - keys_at)
        if checksum:
            digest = hashlib.blake2b(start + text + rest, digest_size=CHECKSUM_BYTES)
            digest.update(file.read(size - CHECKSUM_BYTES - offset))
            if digest.digest() != file.read():
                raise ShardError(f"{path}: its checksum does not match its content")
    if whose is not None and not encoder.is_same(whose):
        raise ShardError(f"{path}: holds vectors of {encoder}, not of {whose}")
    keys = np.frombuffer(rest, np.uint8, key_bytes).reshape(rows, KEY_BYTES)
    return Shard(path, encoder, keys, loss, offset, size)
