"""The content store: every vector any run ever encoded, filed under what it was made from, shared by all runs.

    <store>/<modality>-<encoder>-<fingerprint>/encoder.json, <hash>.shard, ...

One folder an encoder, many small files in it that are written once (`data.content_shard`). Several processes append
and read at once without waiting for one another: a shard appears whole, under a name of its own, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from data.content_folder import DAMAGED, hold, register, shard_names
from data.content_index import KeyIndex
from data.content_key import content_key, hashed_key, key_array
from data.content_shard import Shard, ShardError, ShardMaps, StoredEncoder, by_shard, read_shard, write_shard
from data.half_precision import to_half

__all__ = ["ContentStore", "DamagedShardWarning", "content_key", "hashed_key"]

SHARD_ROWS = 1024
FEW_SHARDS = 8
_VERIFIED: set[tuple[str, int, int, int]] = set()
"""Shards this process has hashed already: path, size, time of change, inode."""


class DamagedShardWarning(UserWarning):
    """A shard was set aside; what it held is encoded again."""


class ContentStore:
    """The stored vectors of one encoder, open for reading and appending.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> key = content_key(b"a picture", "00ff", "image-1")
        >>> with ContentStore.open(folder, "image", "signal:", "00ff", width=2) as store:
        ...     usable = store.append([key], [[0.5, 1.0]])
        >>> with ContentStore.open(folder, "image", "signal:", "00ff", width=2) as store:
        ...     found, vectors = store.lookup([key, bytes(16)])
        >>> found.tolist(), vectors.tolist()
        ([True, False], [[0.5, 1.0], [0.0, 0.0]])
    """

    def __init__(
        self,
        root: Path,
        encoder: StoredEncoder,
        verify: Literal["checksums", "lengths"] = "checksums",
        shard_rows: int = SHARD_ROWS,
    ) -> None:
        if verify not in ("checksums", "lengths") or shard_rows < 1:
            raise ValueError(
                f"verify, shard_rows: must be 'checksums' or 'lengths' and at least 1, received {verify!r}, {shard_rows}"
            )
        self.encoder = encoder
        self.folder = root / encoder.folder_name
        self.damaged: list[str] = []
        self._unusable: set[str] = set()
        self._verify, self._shard_rows = verify, shard_rows
        self._lock = threading.RLock()
        self._in_use: IO[bytes] | None = hold(root)
        register(root, encoder)
        self._index = KeyIndex.empty()
        self._shards: dict[int, Shard] = {}
        self._numbers: dict[str, int] = {}
        self._arrived = 0
        self._maps = ShardMaps()
        self._pending: dict[bytes, tuple[np.ndarray, float]] = {}
        self.refresh()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        modality: str,
        encoder: str,
        fingerprint: str,
        width: int,
        *,
        verify: Literal["checksums", "lengths"] = "checksums",
        shard_rows: int = SHARD_ROWS,
    ) -> ContentStore:
        """Open one encoder's part of a store, or begin it.

        Args:
            folder: the store, which holds the parts of all encoders.
            modality, encoder, fingerprint, width: whose vectors.
            verify: `"checksums"` hashes every shard that this process has not hashed yet, about 1 GB/s; `"lengths"`
                trusts a shard whose parts add up.
            shard_rows: rows gathered before a shard is written by itself.

        Raises:
            ValueError: an encoder of this name and fingerprint, but of another width, wrote here.
            data.content_folder.ContentStoreError: the folder cannot be made.
        """
        return cls(Path(folder), StoredEncoder(modality, encoder, fingerprint, width), verify, shard_rows)

    def __len__(self) -> int:
        """Rows in all shards known now; a key that two processes wrote at once counts twice."""
        return len(self._index.high)

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def cosine_loss(self) -> float:
        """The largest cosine that fp16 cost any stored vector."""
        with self._lock:
            waiting = (loss for _, loss in self._pending.values())
            return max([0.0, *waiting, *(shard.cosine_loss for shard in self._shards.values())])

    @property
    def shards(self) -> list[Shard]:
        return list(self._shards.values())

    def distinct(self) -> int:
        """Number of different keys on disk."""
        return self._index.distinct()

    def refresh(self) -> None:
        """Take notice of shards that others have written or compacted away."""
        with self._lock:
            names = shard_names(self.folder) - self._unusable
            gone = self._numbers.keys() - names
            if gone:
                self._forget({self._numbers[name] for name in gone})
            added = []
            paths = [self.folder / name for name in sorted(names - self._numbers.keys())]
            for path, shard in zip(paths, self._read_all(paths), strict=True):
                if isinstance(shard, ShardError):
                    self._set_aside(path, shard)
                elif shard is not None:
                    number = self._arrived
                    self._arrived += 1
                    self._shards[number], self._numbers[path.name] = shard, number
                    added.append((number, shard.keys))
            if added:
                self._index = self._index.extended(added)

    def contains(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """bool [B]: which keys have a vector, here or still waiting in this process to be written."""
        wanted = key_array(keys)
        with self._lock:
            self.refresh()
            found = self._index.find(wanted)[0] >= 0
            for position in np.flatnonzero(~found) if self._pending else ():
                found[position] = wanted[position].tobytes() in self._pending
        return found

    def lookup(self, keys: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of some keys; shards written since by any process count, and so does what waits in this one.

        Args:
            keys: B of 16 bytes, or uint8 [B, 16].

        Returns: found bool [B]; vectors fp16 [B, F_m], zeros where not found.
        """
        wanted = key_array(keys)
        with self._lock:
            while True:
                self.refresh()
                shards, rows = self._index.find(wanted)
                vectors = np.zeros((len(wanted), self.width), np.float16)
                if self._gather(shards, rows, vectors):
                    break
            found = shards >= 0
            for position in np.flatnonzero(~found) if self._pending else ():
                waiting = self._pending.get(wanted[position].tobytes())
                if waiting is not None:
                    found[position], vectors[position] = True, waiting[0]
        return found, vectors

    def append(self, keys: Sequence[bytes] | np.ndarray, vectors: Any) -> np.ndarray:
        """Store vectors [B, F_m]; a full shard is on disk when this returns, what is left over waits for `flush`.

        Keys that are stored already keep the vector they have.

        Returns:
            bool [B]: False where a vector does not survive fp16 (`data.half_precision.to_half`); the caller says why.

        Raises:
            ValueError: shapes that do not fit.
            data.durable_file.WriteError: the disk is full; what waits is kept, and `flush` may be tried again.
        """
        wanted, vectors = key_array(keys), np.asarray(vectors)
        expected = (len(wanted), self.width)
        if vectors.shape != expected:
            raise ValueError(f"vectors: must be {expected} for {self.encoder.name}, received {vectors.shape}")
        half, usable, losses = to_half(vectors)
        with self._lock:
            fresh = usable & (self._index.find(wanted)[0] < 0)
            # What is new is settled before a full shard in the middle of the batch empties `_pending`.
            first: dict[bytes, int] = {}
            for position in np.flatnonzero(fresh):
                key = wanted[position].tobytes()
                if key not in self._pending:
                    first.setdefault(key, int(position))
            for key, place in first.items():
                self._pending[key] = (half[place].copy(), float(losses[place]))
                if len(self._pending) >= self._shard_rows:
                    self.flush()
        return usable

    def flush(self) -> None:
        """Write what waits as a shard of its own; it is safe on disk when this returns."""
        with self._lock:
            if self._pending:
                vectors = np.stack([vector for vector, _ in self._pending.values()])
                loss = max(loss for _, loss in self._pending.values())
                write_shard(self.folder, self.encoder, key_array(list(self._pending)), vectors, loss)
                self._pending.clear()
                self.refresh()

    def close(self) -> None:
        """Flush, and let go of all files."""
        with self._lock:
            try:
                self.flush()
            finally:
                self._maps.clear()
                if self._in_use is not None:
                    self._in_use.close()
                    self._in_use = None

    def __enter__(self) -> ContentStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _gather(self, shards: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> bool:
        """Fill vectors [B, F_m] shard by shard; False when one went away or broke, and the keys must be found anew."""
        for number, positions in by_shard(shards, rows):
            try:
                table = self._maps.of(self._shards[number])
            except FileNotFoundError:
                self._forget({number})
                return False
            except ShardError as error:
                self._set_aside(self._shards[number].path, error)
                self._forget({number})
                return False
            vectors[positions] = table[rows[positions]]
        return True

    def _forget(self, numbers: set[int]) -> None:
        self._index = self._index.without(numbers)
        self._numbers = {name: number for name, number in self._numbers.items() if number not in numbers}
        for number in numbers:
            self._maps.forget(self._shards.pop(number))

    def _read_all(self, paths: Sequence[Path]) -> list[Shard | ShardError | None]:
        if len(paths) < FEW_SHARDS:
            return [self._read(path) for path in paths]
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            return list(pool.map(self._read, paths))

    def _read(self, path: Path) -> Shard | ShardError | None:
        """A shard, what is wrong with it, or None where it went away."""
        try:
            status = path.stat()
            seen = (str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
            shard = read_shard(path, self.encoder, checksum=self._verify == "checksums" and seen not in _VERIFIED)
            if self._verify == "checksums":
                _VERIFIED.add(seen)
            return shard
        except FileNotFoundError:
            return None
        except ShardError as error:
            return error

    def _set_aside(self, path: Path, error: ShardError) -> None:
        """Out of the way with a damaged shard; where the folder cannot be written it stays and is not read."""
        self.damaged.append(path.name)
        self._unusable.add(path.name)
        with contextlib.suppress(OSError):  # another process was quicker, or the store is read-only
            os.replace(path, path.with_name(DAMAGED + path.name))
            self._unusable.discard(path.name)  # the same rows may be written here again
        message = f"{error}; it is set aside as {DAMAGED}{path.name} and its items are encoded again"
        warnings.warn(message, DamagedShardWarning, stacklevel=3)
