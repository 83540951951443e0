"""Answers of the language model, kept by the hash of everything that went in, so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

PART = 64
"""Answers of one file; a kill loses fewer than this many."""


def answer_key(*parts: Any) -> str:
    """32 hex digits over what decides an answer: prompt, item, picture, model and decoding.

    Example:
        >>> answer_key("caption", {"title": "x"}) != answer_key("caption", {"title": "y"})
        True
    """
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class AnswerCache:
    """A folder of small JSONL files, each written whole: beside, flushed to the disk, then renamed.

    Runs may share it, also at once: names hold the writer's process, and a file is never changed after it appeared.

    Args:
        folder: created if missing.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with AnswerCache(folder) as cache:
        ...     cache.put("k", "slow piano")
        >>> AnswerCache(folder).get("k")
        'slow piano'
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._answers: dict[str, str] = {}
        self._unsaved: dict[str, str] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self._answers[record["key"]] = record["answer"]

    def get(self, key: str) -> str | None:
        """The answer, or None if it was never given."""
        return self._answers.get(key)

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; every `PART` of them are written to the disk."""
        self._answers[key] = self._unsaved[key] = answer
        if len(self._unsaved) >= PART:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on the disk."""
        if not self._unsaved:
            return
        # A lone surrogate is no UTF-8, so ASCII escapes.
        lines = [json.dumps({"key": key, "answer": answer}) for key, answer in self._unsaved.items()]
        name = f"{answer_key(sorted(self._unsaved))}-{os.getpid()}"
        beside = self.folder / f".{name}.tmp"
        with beside.open("w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.folder / f"{name}.jsonl")
        self._unsaved.clear()

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
