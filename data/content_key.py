"""What a stored vector is filed under: its content, its encoder and its preprocessing, never a file name.

The same picture under two names, or in two datasets, has one key, so that it is encoded once; an encoder whose weights
changed has another key for every picture, so that old and new vectors never mix.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

KEY_BYTES = 16
HASH_BYTES = 32
KEYS_FILE = "content_keys.npz"
"""In a run's `encode` folder: which vectors of the content store that run uses."""


def content_hash(content: bytes | str) -> bytes:
    """BLAKE2b-256 of media bytes or of cleaned text; text and bytes never share a hash.

    Worth keeping where several encoders read the same file: `hashed_key` goes on from here.

    Example:
        >>> len(content_hash(b"abc")), content_hash(b"abc") == content_hash("abc")
        (32, False)
    """
    if isinstance(content, str):
        content, person = content.encode("utf-8", "surrogatepass"), b"triptych-text"
    else:
        person = b"triptych-media"
    return hashlib.blake2b(content, digest_size=HASH_BYTES, person=person).digest()


def hashed_key(hash_: bytes, fingerprint: str, preprocessing: str) -> bytes:
    """The key of content whose `content_hash` is known.

    Args:
        hash_: 32 bytes. fingerprint: of the encoder, its weights included.
        preprocessing: version of the decoder or cleaner that stands between content and encoder.

    Returns: 16 bytes, BLAKE2b-128.
    """
    if len(hash_) != HASH_BYTES:
        raise ValueError(f"hash_: must be {HASH_BYTES} bytes from content_hash, received {len(hash_)}")
    rest = json.dumps([str(fingerprint), str(preprocessing)]).encode()
    return hashlib.blake2b(hash_ + rest, digest_size=KEY_BYTES, person=b"triptych-key").digest()


def content_key(content: bytes | str, fingerprint: str, preprocessing: str) -> bytes:
    """The 16 bytes under which the vector of some content by some encoder is stored.

    Example:
        >>> key = content_key(b"...", "00ff", "image-1")
        >>> len(key), key == content_key(b"...", "00fe", "image-1"), key == content_key(b"...", "00ff", "image-2")
        (16, False, False)
    """
    return hashed_key(content_hash(content), fingerprint, preprocessing)


def key_array(keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """uint8 [B, 16] of B keys, which may be such an array already.

    Raises:
        ValueError: a key that is not 16 bytes long.
    """
    if isinstance(keys, np.ndarray):
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
            raise ValueError(f"keys: must be uint8 [B, {KEY_BYTES}], received {keys.dtype} {keys.shape}")
        return np.ascontiguousarray(keys)
    lengths = set(map(len, keys)) - {KEY_BYTES}
    if lengths:
        raise ValueError(f"keys: must be {KEY_BYTES} bytes each, from content_key, received lengths {sorted(lengths)}")
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def key_halves(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint64 [B] twice: first and last eight bytes of keys uint8 [B, 16], ordered as the bytes are."""
    halves = keys.view(">u8").astype(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def write_content_keys(folder: str | Path, keys: Mapping[str, Sequence[bytes] | np.ndarray]) -> None:
    """Note which vectors a run uses, {modality: keys}, so that `features gc --run` keeps them."""
    arrays = {modality: key_array(values) for modality, values in keys.items()}
    np.savez(Path(folder) / KEYS_FILE, **arrays)  # type: ignore[arg-type]


def read_content_keys(runs: Iterable[str | Path]) -> np.ndarray:
    """uint8 [K, 16]: every key that some run folders (or folders of runs) use, without repetition.

    Raises:
        FileNotFoundError: a folder without any noted keys, which must not read as "uses nothing".
    """
    found = []
    for run in runs:
        files = sorted(Path(run).rglob(KEYS_FILE))
        if not files:
            raise FileNotFoundError(f"run: {run} must hold {KEYS_FILE}, which `encode` writes; encode it first")
        for file in files:
            with np.load(file) as content:
                found += [key_array(content[modality]) for modality in content.files]
    return np.unique(np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *found]), axis=0)
