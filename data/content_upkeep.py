"""Looking after a content store: what is in it, whether it is whole, and letting go of what no run uses."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.content_folder import alone, encoder_folders, leftovers, shard_names
from data.content_index import KeyIndex
from data.content_key import KEY_BYTES
from data.content_shard import (
    Shard,
    ShardError,
    ShardMaps,
    StoredEncoder,
    by_shard,
    read_shard,
    write_shard,
)
from data.durable_file import sync

COMPACT_BYTES = 64 * 2**20
"""Size of the shards that `collect_garbage` writes."""

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class EncoderStats:
    """What one encoder's folder holds.

    Attributes:
        folder, encoder: which. vectors: different keys. duplicates: rows beyond those.
        shards, bytes: files that are read. cosine_loss: the largest that fp16 cost.
        damaged: shards that are broken or were set aside. unfinished: files some writer did not finish (yet).
    """

    folder: Path
    encoder: StoredEncoder
    vectors: int
    duplicates: int
    shards: int
    bytes: int
    cosine_loss: float
    damaged: int
    unfinished: int


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify_store` found: shards and bytes read, what is wrong with which, and what was set aside before."""

    shards: int
    bytes: int
    faults: dict[Path, str]
    set_aside: list[Path]


@dataclasses.dataclass(frozen=True)
class Collected:
    """What `collect_garbage` let go of in one encoder's folder.

    Attributes:
        folder: which; it is gone when `vectors_kept` is 0.
        files: unfinished and damaged files removed. freed: bytes, net of what was written.
        vectors_kept, vectors_dropped: different keys. shards_before, shards_after: files that are read.
    """

    folder: Path
    files: int
    freed: int
    vectors_kept: int
    vectors_dropped: int
    shards_before: int
    shards_after: int


def store_stats(root: str | Path) -> list[EncoderStats]:
    """Counts of every encoder's folder, from headers and keys alone; changes nothing."""
    stats = []
    for folder, encoder in encoder_folders(Path(root)).items():
        shards, faults = _read_shards(folder, encoder, checksum=False)
        index = KeyIndex.empty().extended([(number, shard.keys) for number, shard in enumerate(shards)])
        unfinished, damaged = leftovers(folder)
        vectors = index.distinct()
        stats.append(
            EncoderStats(
                folder,
                encoder,
                vectors,
                len(index.high) - vectors,
                len(shards),
                sum(shard.size for shard in shards),
                max((shard.cosine_loss for shard in shards), default=0.0),
                len(damaged) + len(faults),
                len(unfinished),
            )
        )
    return stats


def verify_store(root: str | Path, progress: Progress | None = None) -> Verification:
    """Hash every shard of every encoder again; changes nothing."""
    read = size = 0
    wrong: dict[Path, str] = {}
    set_aside: list[Path] = []
    for folder, encoder in encoder_folders(Path(root)).items():
        shards, faults = _read_shards(folder, encoder, checksum=True, progress=progress)
        read, size = read + len(shards) + len(faults), size + sum(shard.size for shard in shards)
        wrong |= faults
        set_aside += leftovers(folder)[1]
    return Verification(read, size, wrong, set_aside)


def collect_garbage(
    root: str | Path, live: np.ndarray | None = None, *, dry_run: bool = False, progress: Progress | None = None
) -> list[Collected]:
    """Remove leftovers, and with `live` every vector that is not in it.

    Args:
        root: the store; no process may have it open.
        live: uint8 [K, 16], the keys to keep. What is kept is then written anew in the order of keys, in few large
            shards without duplicates: the same vectors give the same files, whoever wrote them in whatever order. None
            keeps every vector where it is.
        dry_run: only say what would go.
        progress: called after each shard read.

    Returns: what went, one for each folder.

    Raises:
        ContentStoreError: a run is using the store. WriteError: the disk is full (nothing is lost: old shards go last).
    """
    root = Path(root)
    folders = encoder_folders(root)
    if dry_run:
        return [_collect(folder, encoder, live, True, progress) for folder, encoder in folders.items()]
    with alone(root):
        return [_collect(folder, encoder, live, False, progress) for folder, encoder in folders.items()]


def _collect(
    folder: Path, encoder: StoredEncoder, live: np.ndarray | None, dry_run: bool, progress: Progress | None
) -> Collected:
    # With `alone` held no writer lives, so that every unfinished file is one that somebody was killed over.
    unfinished, damaged = leftovers(folder)
    shards, faults = _read_shards(folder, encoder, checksum=True, progress=progress)
    rubbish = [*unfinished, *damaged, *faults]
    freed = sum(path.stat().st_size for path in rubbish)
    index = KeyIndex.empty().extended([(number, shard.keys) for number, shard in enumerate(shards)])
    vectors = index.distinct()
    keys, numbers, rows = _kept(index, live)
    chunk = max(1, COMPACT_BYTES // (2 * encoder.width + KEY_BYTES))
    as_is = live is None or _is_compact(shards, keys, numbers, chunk)
    if not dry_run:
        for path in rubbish:
            path.unlink(missing_ok=True)
    if as_is:
        return Collected(folder, len(rubbish), freed, vectors, 0, len(shards), len(shards))
    freed += sum(shard.size for shard in shards)
    if dry_run:
        freed -= len(keys) * (2 * encoder.width + KEY_BYTES)
    else:
        freed -= _rewrite(folder, encoder, shards, keys, numbers, rows, chunk)
    dropped, after = vectors - len(keys), -(-len(keys) // chunk)
    return Collected(folder, len(rubbish), freed, len(keys), dropped, len(shards), after)


def _kept(index: KeyIndex, live: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different keys uint8 [R, 16] in ascending order, those of `live` only, with shard number [R] and row [R]."""
    order = np.lexsort((index.low, index.high))
    high, low = index.high[order], index.low[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    order = order[first]
    keys = np.stack([index.high[order], index.low[order]], axis=1).astype(">u8").view(np.uint8).reshape(-1, KEY_BYTES)
    if live is not None:
        wanted = KeyIndex.empty().extended([(0, live)]).find(keys)[0] >= 0
        keys, order = keys[wanted], order[wanted]
    return keys, index.shards[order], index.rows[order]


def _is_compact(shards: list[Shard], keys: np.ndarray, numbers: np.ndarray, chunk: int) -> bool:
    """Whether `_rewrite` would write the very shards that are there."""
    if sum(shard.rows for shard in shards) != len(keys) or len({shard.cosine_loss for shard in shards}) > 1:
        return False
    parts = [numbers[start : start + chunk] for start in range(0, len(keys), chunk)]
    return len(parts) == len(shards) and all((part == part[0]).all() for part in parts)


def _rewrite(
    folder: Path,
    encoder: StoredEncoder,
    shards: list[Shard],
    keys: np.ndarray,
    numbers: np.ndarray,
    rows: np.ndarray,
    chunk: int,
) -> int:
    """Write the kept vectors anew, then remove the old shards, or the whole folder where nothing is kept.

    Returns: bytes written.
    """
    if not len(keys):
        shutil.rmtree(folder)
        return 0
    maps, written = ShardMaps(), set()
    loss = max(shard.cosine_loss for shard in shards)
    for start in range(0, len(keys), chunk):
        part = slice(start, start + chunk)
        vectors = np.empty((len(keys[part]), encoder.width), np.float16)
        for number, positions in by_shard(numbers[part], rows[part]):
            vectors[positions] = maps.of(shards[number])[rows[part][positions]]
        written.add(write_shard(folder, encoder, keys[part], vectors, loss))
    size = sum(path.stat().st_size for path in written)
    for shard in shards:
        if shard.path not in written:
            shard.path.unlink(missing_ok=True)
    sync(folder)
    return size


def _read_shards(
    folder: Path, encoder: StoredEncoder, *, checksum: bool, progress: Progress | None = None
) -> tuple[list[Shard], dict[Path, str]]:
    """The whole shards of a folder, and what is wrong with the others."""
    shards, faults = [], {}
    names = sorted(shard_names(folder))
    for done, name in enumerate(names, 1):
        path = folder / name
        try:
            shards.append(read_shard(path, encoder, checksum=checksum))
        except FileNotFoundError:
            pass  # compacted away since it was listed
        except ShardError as error:
            faults[path] = str(error)
        if progress:
            progress(folder.name, done, len(names))
    return shards, faults
