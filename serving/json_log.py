"""Logs as lines of JSON in which nobody can be recognised: user ids are hashed, and no text of a user appears."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
import time
import traceback
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from serving.trace_context import CURRENT

SHORTEST_SALT = 16
FIELDS = "fields"
"""Name of the record attribute whose entries become fields of the line."""

NOTES: ContextVar[dict[str, Any] | None] = ContextVar("notes", default=None)
"""What routes tell about the request that is being answered, for its line in the log."""


class UserHash:
    """Keyed BLAKE2b of user ids: the same id gives the same hash, and without the salt no list of ids can be tried.

    Args:
        salt: file of 16 bytes or more; None = drawn now.

    Raises:
        ValueError: the file is too short or cannot be read.

    Example:
        >>> first = UserHash()
        >>> first("ann") == first("ann") != first("bob"), len(first("ann")), first("ann") == UserHash()("ann")
        (True, 16, False)
    """

    def __init__(self, salt: Path | None = None) -> None:
        try:
            content = secrets.token_bytes(32) if salt is None else salt.read_bytes().strip()
        except OSError as error:
            raise ValueError(f"log_salt: must be a file, received {str(salt)!r} ({error.strerror})") from None
        if len(content) < SHORTEST_SALT:
            raise ValueError(f"log_salt: must hold at least {SHORTEST_SALT} bytes, received {len(content)} in {salt}")
        self._key = hashlib.blake2b(content, digest_size=64, person=b"triptych-log").digest()

    def __call__(self, user_id: str) -> str:
        given = user_id.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(given, key=self._key, digest_size=8).hexdigest()


def note(**facts: Any) -> None:
    """Adds facts to the log line of the request that is being answered; nothing outside one."""
    notes = NOTES.get()
    if notes is not None:
        notes.update(facts)


class JsonLines(logging.Formatter):
    """One line of JSON a record: time, level, logger, message, the trace, and the fields given with it.

    Of an exception the line has its type and where it went through, never its message, which may quote what a user
    sent. For the same reason a record's arguments are put into its message only for the loggers of this project and of
    the server that runs it, which log no content.

    Example:
        >>> record = logging.LogRecord("serving.x", logging.INFO, "x.py", 1, "request", (), None)
        >>> record.fields = {"status": 200}
        >>> json.loads(JsonLines().format(record))["status"]
        200
    """

    TRUSTED = ("serving", "uvicorn")

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        trusted = record.name.partition(".")[0] in self.TRUSTED
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": (record.getMessage() if trusted else str(record.msg)).partition("\n")[0],
        }
        trace = CURRENT.get()
        if trace is not None:
            line["trace_id"] = trace.trace_id
        line |= getattr(record, FIELDS, None) or {}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["stack"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=True, default=str)


def configure_logging() -> None:
    """Sends every record of this process to standard output as `JsonLines`; for a server's main function."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Its lines hold whole addresses, user ids among them; the gateway writes its own line for every request.
    logging.getLogger("uvicorn.access").disabled = True
