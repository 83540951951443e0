"""API keys: a file of salted hashes, what each key may do, and the check of a key that a caller presents."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import threading
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Scope = Literal["recommend", "feedback", "items", "admin"]
"""`admin` may everything, and alone sees other people's histories and the metrics."""

PREFIX = "tr"
MAX_KEY_LENGTH = 200
RELOAD_SECONDS = 1.0
SECRET_BYTES, SALT_BYTES = 32, 16


class ApiKey(BaseModel):
    """One line of the key file. The key itself is not in it and cannot be got from it.

    Attributes:
        id: the part of the key that is no secret. name: for people, and in logs.
        salt, hash: hex; BLAKE2b of the secret under that salt. A secret has 256 random bits, so a slow hash, which
            guards what people think up, would guard nothing more.
        scopes: what it may do. requests_per_second, burst: None = the gateway's settings.
        expires: UTC seconds after which it is refused; None = never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern="^[0-9a-f]{12}$")
    name: str = Field(min_length=1, max_length=100)
    salt: str = Field(pattern="^[0-9a-f]{32}$")
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    requests_per_second: float | None = Field(None, gt=0)
    burst: int | None = Field(None, ge=1)
    expires: int | None = Field(None, ge=0)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[ApiKey, ...] = ()


NOBODY = ApiKey(id="0" * 12, name="nobody", salt="0" * 32, hash="0" * 64, scopes=("recommend",))
"""Stands in for an id that is not in the file, so that its refusal takes as long as any other."""


def make_key(name: str, scopes: tuple[Scope, ...], **limits: float | int | None) -> tuple[str, ApiKey]:
    """A new key, to be shown once, and its line for the file.

    Example:
        >>> key, line = make_key("shop", ("recommend", "feedback"))
        >>> key.split("_")[:2] == ["tr", line.id], line.may("recommend"), line.may("items")
        (True, True, False)
        >>> key.split("_")[2] in line.model_dump_json()
        False
    """
    secret, salt = secrets.token_hex(SECRET_BYTES), secrets.token_bytes(SALT_BYTES)
    values = {"id": secrets.token_hex(6), "name": name, "salt": salt.hex(), "hash": _hash(secret, salt).hex()}
    line = ApiKey.model_validate({**values, "scopes": scopes, **limits})
    return f"{PREFIX}_{line.id}_{secret}", line


def add_key(path: Path, line: ApiKey) -> None:
    """Adds a line to a key file, whole or not at all. Where there is none it is made, readable by its owner alone; one that
    is there keeps its owner and mode, or a gateway that runs as somebody else could no longer read it.

    Raises:
        ValueError: see `read_keys`; or the file is somebody else's, to whom only root may give the new one.
    """
    before = path.stat() if path.is_file() else None
    keys = read_keys(path).keys if before is not None else ()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            if before is not None:
                _take_after(file.fileno(), before, path)
            content = {"keys": [key.model_dump(mode="json", exclude_none=True) for key in (*keys, line)]}
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _take_after(file: int, before: os.stat_result, path: Path) -> None:
    mine = os.fstat(file)
    if (mine.st_uid, mine.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(file, before.st_uid, before.st_gid)
        except PermissionError:
            raise ValueError(
                f"keys: {path} is of user {before.st_uid} and group {before.st_gid}, and would become yours; run it as that "
                "user, or with sudo"
            ) from None
    os.fchmod(file, stat.S_IMODE(before.st_mode))


def read_keys(path: Path) -> KeyFile:
    """The lines of a key file.

    Raises:
        ValueError: it cannot be read, or a line breaks a rule. Nothing of the file's content is in the message.
    """
    try:
        keys = KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"keys: must be a file of API keys, received {str(path)!r} ({error.strerror})") from None
    except ValidationError as error:
        where = ", ".join(sorted({".".join(map(str, problem["loc"])) or "the file" for problem in error.errors()}))
        raise ValueError(f"keys: {path} breaks the form of a key file at {where}; write it with --add-key") from None
    if len({key.id for key in keys.keys}) != len(keys.keys):
        raise ValueError(f"keys: {path} has an id twice; remove one of the lines")
    return keys


class KeyRing:
    """The keys of a file, read again when it changes, so that a key can be withdrawn while the gateway runs.

    A file that has become unreadable refuses everybody rather than go on with keys that may have been withdrawn.

    Raises:
        ValueError: at construction, see `read_keys`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()
        self._keys = {key.id: key for key in read_keys(path).keys}
        self._checked = time.monotonic()

    def find(self, presented: str, now: float | None = None) -> ApiKey | None:
        """The key that a caller presents; None when it is none of the file's, or has expired."""
        self._reload()
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id, NOBODY)
        right = hmac.compare_digest(_hash(secret[:MAX_KEY_LENGTH], bytes.fromhex(key.salt)), bytes.fromhex(key.hash))
        expired = key.expires is not None and (time.time() if now is None else now) > key.expires
        return key if right and prefix == PREFIX and not expired and key is not NOBODY else None

    def _read_stamp(self) -> tuple[int, ...]:
        """Other when the content, the owner or the mode is: a file that could not be read may be given back."""
        status = self._path.stat() if self._path.exists() else None
        return () if status is None else (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def _reload(self) -> None:
        with self._lock:
            if time.monotonic() - self._checked < RELOAD_SECONDS:
                return
            self._checked = time.monotonic()
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._keys = {key.id: key for key in read_keys(self._path).keys}
                except ValueError:
                    self._keys = {}


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=32, salt=salt, person=b"triptych-key").digest()
