"""What there is to encode: every item's content with its key in the content store, and the batches that are missing.

The key is a hash of the content itself, so a renamed file, a second item with the same picture, or the same picture in
another dataset has the key that the store already knows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from data.content_key import content_hash, hashed_key
from data.enrichment import enriched_text
from data.known_hashes import KnownHashes, stamp_of
from data.media import MediaError, media_path, read_media
from towers.encoder_card import EncoderCard

TEXT_WINDOW = 1024
"""Texts handed to an encoder at once, so that it can sort them by length and pad little."""

HASH_WINDOW, HASH_TRIAL = 1024, 32
"""Files between two words of progress; and of them, those that tell whether the others are worth threads."""
QUICK_FILE = 1e-3
"""Seconds."""

TEXT_VERSION = 1
"""Of `item_text`; together with the characters kept it is the preprocessing of text."""


@dataclasses.dataclass(frozen=True)
class Content:
    """One thing to encode.

    Attributes:
        kind: how it is decoded: text, image, audio, video, or sound (the sound track of a video).
        value: the text itself, or a path under `media/`.
    """

    kind: str
    value: str


@dataclasses.dataclass(frozen=True)
class Batch:
    """What goes through an encoder in one call. Both engines get the same batches, hence the same bits.

    Attributes:
        spec, card: the encoder.
        keys: B keys in the content store. contents: B things to decode.
        preprocessing: by kind, what entered the keys beside the content and the encoder.
    """

    spec: str
    card: EncoderCard
    keys: tuple[bytes, ...]
    contents: tuple[Content, ...]
    preprocessing: Mapping[str, str]


@dataclasses.dataclass
class Plan:
    """One modality's work.

    Attributes:
        spec, card: the encoder.
        contents: by item row. keys: by item row, where the content could be read.
        refused: by item row, why it could not.
    """

    spec: str
    card: EncoderCard
    contents: dict[int, Content]
    keys: dict[int, bytes]
    refused: dict[int, str]

    def batches(self, known: Iterable[bytes], batch_size: int) -> Iterator[Batch]:
        """The contents whose key is not known, each once, in item order; texts in windows of `TEXT_WINDOW`."""
        seen = set(known)
        missing: list[tuple[bytes, Content]] = []
        for row, key in self.keys.items():
            if key not in seen:
                seen.add(key)
                missing.append((key, self.contents[row]))
        versions, length = preprocessing(self.card), batch_length(self.card, batch_size)
        for start in range(0, len(missing), length):
            keys, contents = zip(*missing[start : start + length], strict=True)
            yield Batch(self.spec, self.card, keys, contents, versions)


def batch_length(card: EncoderCard, batch_size: int) -> int:
    """Contents of one encoder call: a window of texts, `batch_size` pictures or clips, or as many frames of videos."""
    if card.modality == "text":
        return max(batch_size, TEXT_WINDOW)
    return max(1, batch_size // max(card.frames, 1))


def make_plan(items: pd.DataFrame, modality: str, spec: str, card: EncoderCard, files: FileHashes) -> Plan:
    """Find the content of every item and work out its key.

    Args:
        items: the catalogue, one line an item row, row 0 included.
        modality, spec, card: the encoder. files: hashes the media, and remembers them for the next modality.
    """
    contents, versions = find_content(items, modality), preprocessing(card)
    files.read(content.value for content in contents.values() if content.kind != "text")
    keys, refused = {}, {}
    for row, content in contents.items():
        found = content_hash(content.value[: card.size]) if content.kind == "text" else files.found[content.value]
        if isinstance(found, bytes):
            keys[row] = hashed_key(found, card.fingerprint, versions[content.kind])
        else:
            refused[row] = found
    return Plan(spec, card, contents, keys, refused)


class FileHashes:
    """Content hashes of media files; each path once, however many items and modalities name it.

    Small files of a disk near by are read by one thread, since several would wait for each other's turn at the interpreter
    (2,762 covers and clips: .8 s, by four threads 2.8 s); where the first of a window take longer, for they are large or come
    over a network, several threads read the others.

    Args:
        media: the folder that paths are relative to.
        threads: where files take longer than `QUICK_FILE`.
        progress: called with files hashed and files asked for.
        known: hashes of earlier runs, which spare the reading of files that have not changed since.

    Attributes:
        found: by path, its `content_hash`, or why it cannot be read.
    """

    def __init__(
        self,
        media: Path,
        threads: int = 4,
        progress: Callable[[int, int], None] = lambda done, total: None,
        known: KnownHashes | None = None,
    ) -> None:
        self.media, self.threads, self.progress, self.known = media, threads, progress, known
        self.found: dict[str, bytes | str] = {}

    def read(self, names: Iterable[str]) -> None:
        """Hash what was not hashed before."""
        fresh = [name for name in dict.fromkeys(names) if name not in self.found]
        with ThreadPoolExecutor(self.threads, thread_name_prefix="hash") as pool:
            for start in range(0, len(fresh), HASH_WINDOW):
                first, rest = fresh[start : start + HASH_TRIAL], fresh[start + HASH_TRIAL : start + HASH_WINDOW]
                begun = time.perf_counter()
                self._hash_all(first)
                threads = 1 if time.perf_counter() - begun < QUICK_FILE * len(first) else self.threads
                list(pool.map(self._hash_all, [rest[share::threads] for share in range(threads)]))
                self.progress(min(start + HASH_WINDOW, len(fresh)), len(fresh))

    def _hash_all(self, names: Sequence[str]) -> None:
        """One task of a thread: a file a task costs as much again as the file."""
        self.found.update({name: self._hash(name) for name in names})

    def _hash(self, name: str) -> bytes | str:
        try:
            if self.known is None:
                return content_hash(read_media(self.media, name))
            stamp = stamp_of(media_path(self.media, name))
            if (found := self.known.find(name, stamp)) is None:
                found = content_hash(read_media(self.media, name))
                self.known.remember(name, stamp, found)
            return found
        except MediaError as error:
            return str(error)
        except OSError as error:  # it has gone since it was looked for
            return f"unreadable: {error.strerror}"


def preprocessing(card: EncoderCard) -> dict[str, str]:
    """By kind of content, what is done to it before the encoder: the decoder's version and what it is asked for.

    Example:
        >>> preprocessing(EncoderCard("signal:", "0" * 16, "text", 256, 2000))
        {'text': 'text/1/2000'}
    """
    if card.modality == "text":
        return {"text": f"text/{TEXT_VERSION}/{card.size}"}
    if card.modality == "image":
        from data.image_decoder import PREPROCESSING_VERSION as IMAGE

        return {"image": f"image/{IMAGE}/{card.size}"}
    from data.video_decoder import PREPROCESSING_VERSION as VIDEO

    if card.modality == "video":
        return {"video": f"video/{VIDEO}/{card.frames}x{card.size}"}
    from data.audio_decoder import PREPROCESSING_VERSION as AUDIO

    return {"audio": f"audio/{AUDIO}/{card.size}", "sound": f"sound/{VIDEO}.{AUDIO}/{card.size}"}


def find_content(items: pd.DataFrame, modality: str) -> dict[int, Content]:
    """Item row -> content, for the items that have one. A video's sound track stands in for a missing sound file."""
    if modality == "text":
        columns = [items.get(name, [""] * len(items)) for name in ("title", "description", "categories")]
        generated = items.get("generated", [None] * len(items))  # what a language model wrote, where that is in use
        texts = [enriched_text(item_text(*cells), more) for *cells, more in zip(*columns, generated, strict=True)]
        return {row: Content("text", text) for row, text in enumerate(texts) if row and text}
    found = _paths(items, modality)
    if modality == "audio":
        sounds = {row: Content("sound", content.value) for row, content in _paths(items, "video").items()}
        found = dict(sorted({**sounds, **found}.items()))
    return found


def _paths(items: pd.DataFrame, modality: str) -> dict[int, Content]:
    values = items.get(modality, [""] * len(items))
    return {row: Content(modality, value) for row, value in enumerate(values) if row and isinstance(value, str) and value}


def item_text(title: str, description: str, categories: str) -> str:
    """What a text encoder reads of an item: title and description, or title and categories where that is empty.

    Categories alone are no text: they are attributes, which the towers read anyway.

    Example:
        >>> item_text("Blue Hour", "Slow piano.", "jazz|piano")
        'Blue Hour. Slow piano.'
        >>> item_text("Blue Hour", "", "jazz|piano")
        'Blue Hour. jazz, piano'
        >>> item_text("", "", "jazz|piano")
        ''
    """
    body = description
    if title and not body:
        body = ", ".join(part.strip() for part in categories.split("|") if part.strip())
    return ". ".join(part for part in (title, body) if part)
