"""The enrich stage: a language model writes a caption, a summary and attributes for items whose own text is weak.

Optional, off by default, before `encode`. What it writes lies in `generated.parquet`, marked with model and prompt, and
never replaces an item's own text. Its worth is a question for the figures: two runs on one dataset, `enrich.use = true`
and `enrich.use = false`, differ in nothing else, and their reports stand side by side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from data.enrichment import FIELDS, write_generated
from data.image_decoder import decode_image
from data.media import MediaError, read_media
from pipeline.content.encode_plan import item_text
from pipeline.content.enrich_cache import AnswerCache, answer_key
from pipeline.content.enrich_prompt import clean_answer, fit_prompt, make_prompt, quoted, wording
from pipeline.content.enrich_writer import ItemWriter
from pipeline.settings.enrich import EnrichSection

Progress = Callable[[str, int, int], None]


class Catalogue(Protocol):
    """The part of the ingested dataset that is read here."""

    @property
    def items(self) -> pd.DataFrame: ...


@dataclasses.dataclass(frozen=True)
class Request:
    """One answer that is wanted: an item's field, its texts, its picture's name ("" none), and the answer's key."""

    item_id: str
    field: str
    item: dict[str, str]
    picture: str
    key: str


def enrich(
    source: str | Path,
    dataset: Catalogue,
    out: str | Path,
    section: EnrichSection,
    cache: str | Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write about the items whose own text is shorter than `min_characters`.

    Args:
        source: the dataset folder, with `media/`.
        dataset: the ingested dataset.
        out: folder for `generated.parquet`.
        section: the settings.
        cache: folder of earlier answers, shared by runs; killed in the middle, fewer than 64 answers are written again.
        progress: called with the word, the answers done and the answers in all.

    Returns:
        Counts: `weak` items, `nothing_to_read` (weak, and without anything to write from), `pictures_unusable`,
        `written` and `cached` answers, `empty` ones (cleaning left nothing), rows of each field, `items_enriched`,
        `model`, `seconds`.

    Raises:
        ValueError: a preset that is no language model, or a question longer than `prompt_tokens`.
        FileNotFoundError, ConnectionError: see `towers.preset.preset_folder`.
    """
    started = time.perf_counter()
    writer, media, counts = ItemWriter(section), Path(source) / "media", Counter[str]()
    requests = list(_requests(dataset.items, media, writer, section, counts))
    rows: list[dict[str, str]] = []
    with AnswerCache(cache) as answers:
        missing = [request for request in requests if answers.get(request.key) is None]
        missing = list({request.key: request for request in missing}.values())  # equal items are asked about once
        done = 0
        for batch, prompts in _batches(missing, writer, section):
            for request, answer in zip(batch, _answers(batch, prompts, media, writer), strict=True):
                answers.put(request.key, answer)
            done += len(batch)
            if progress:
                progress("enrich", done, len(missing))
        for request in requests:
            raw = answers.get(request.key) or ""
            text = clean_answer(request.field, raw, section.attribute_keys, section.max_characters)
            if not text:
                counts["empty"] += 1
                continue
            counts[request.field] += 1
            rows.append(
                {
                    "item_id": request.item_id,
                    "field": request.field,
                    "text": text,
                    "model": writer.name,
                    "prompt": request.key,
                }
            )
    write_generated(out, rows)
    named = ("weak", "nothing_to_read", "pictures_unusable", "empty", *FIELDS)
    return {
        **{name: counts[name] for name in named},
        "items_enriched": len({row["item_id"] for row in rows}),
        "written": len(missing),
        "cached": len(requests) - len(missing),
        "model": writer.name,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _requests(
    items: pd.DataFrame, media: Path, writer: ItemWriter, section: EnrichSection, counts: Counter[str]
) -> Iterator[Request]:
    """The answers wanted for every weak item that has something to write from."""
    decoding = {
        name: getattr(section, name) for name in ("sampler", "seed", "dtype", "prompt_tokens", "max_new_tokens")
    }
    questions = {
        field: wording(field, writer.style, getattr(section.prompts, field), section.attribute_keys)
        for field in section.fields
    }
    names = ("item_id", "title", "description", "categories", "image")
    for item_id, title, description, categories, image in items.iloc[1:][list(names)].astype("str").itertuples(index=False):
        if len(item_text(title, description, categories)) >= section.min_characters:
            continue
        counts["weak"] += 1
        texts = {"title": title, "description": description, "categories": categories.replace("|", ", ")}
        item = {name: quoted(text, section.item_characters) for name, text in texts.items()}
        picture, digest = "", ""
        if image and section.images and writer.takes_pictures:
            try:
                content = read_media(media, image)
                decode_image(content, 16)  # a broken file is found before it holds up a batch
                picture, digest = image, hashlib.blake2b(content, digest_size=16).hexdigest()
            except MediaError:
                counts["pictures_unusable"] += 1
        if not picture and (writer.needs_pictures or not any(item.values())):
            counts["nothing_to_read"] += 1
            continue
        for field, question in questions.items():
            prompt = make_prompt(question, item, writer.style, picture=bool(picture))
            key = answer_key(writer.fingerprint, decoding, prompt, digest)
            yield Request(item_id, field, item, picture, key)


def _batches(
    requests: list[Request], writer: ItemWriter, section: EnrichSection
) -> Iterator[tuple[list[Request], list[str]]]:
    """Requests with their prompts, of like length together, those with a picture apart from those without."""
    if not requests:
        return
    commands = writer.commands

    def prompt(request: Request) -> str:
        question = wording(request.field, writer.style, getattr(section.prompts, request.field), section.attribute_keys)
        item = {name: quoted(text, section.item_characters, commands) for name, text in request.item.items()}

        def build(texts: dict[str, str]) -> str:
            return make_prompt(question, texts, writer.style, picture=bool(request.picture))

        return fit_prompt(build, item, writer.count, section.prompt_tokens)

    prompts = [prompt(request) for request in requests]
    order = sorted(range(len(requests)), key=lambda row: (bool(requests[row].picture), len(prompts[row])))
    groups = [[row for row in order if bool(requests[row].picture) is shown] for shown in (False, True)]
    for group in groups:
        for start in range(0, len(group), section.batch_size):
            rows = group[start : start + section.batch_size]
            yield [requests[row] for row in rows], [prompts[row] for row in rows]


def _answers(batch: list[Request], prompts: list[str], media: Path, writer: ItemWriter) -> list[str]:
    if not batch[0].picture:
        return writer.write(prompts)
    size = writer.picture_size
    return writer.write(prompts, np.stack([decode_image(read_media(media, one.picture), size) for one in batch]))
