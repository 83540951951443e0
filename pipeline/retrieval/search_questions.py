"""Questions made of a catalogue: its titles, categories and sentences, each asking for the item that it is from."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd

SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
TITLE, CATEGORIES, SENTENCE = 0, 1, 2
SHORTEST = 3
"""Characters of a question; anything shorter says too little."""

MOST_ITEMS = 5
"""A text that more items share than this asks for none of them."""


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions with their answers.

    Attributes:
        texts: the different texts.
        text: int [Q], which of them a question is.
        rows: int32 [Q], the item row that it asks for.
        kinds: int8 [Q], TITLE, CATEGORIES or SENTENCE.
        shared: int [Q], how many items have this text.
    """

    texts: list[str]
    text: np.ndarray
    rows: np.ndarray
    kinds: np.ndarray
    shared: np.ndarray

    def take(self, chosen: np.ndarray) -> Questions:
        """Some of the questions, with only their texts."""
        used, text = np.unique(self.text[chosen], return_inverse=True)
        texts = [self.texts[number] for number in used]
        return Questions(texts, text, self.rows[chosen], self.kinds[chosen], self.shared[chosen])


def make_questions(items: pd.DataFrame) -> Questions:
    """Every title, list of categories and sentence of the descriptions that at most `MOST_ITEMS` items share.

    Args:
        items: the ingested catalogue, row 0 included; title, description and categories are optional.

    Example:
        >>> items = pd.DataFrame({"title": ["", "Blue Hour"], "description": ["", "Slow piano. For the night."]})
        >>> questions = make_questions(items)
        >>> questions.texts, questions.rows.tolist(), questions.kinds.tolist()
        (['Blue Hour', 'For the night.', 'Slow piano.'], [1, 1, 1], [0, 2, 2])
    """
    found: list[tuple[int, int, str]] = []
    columns = [items[name] if name in items else [""] * len(items) for name in ("title", "categories", "description")]
    for row, cells in enumerate(zip(*columns, strict=True)):
        title, categories, description = (cell if isinstance(cell, str) else "" for cell in cells)
        spoken = ", ".join(part.strip() for part in categories.split("|") if part.strip())
        parts = [(TITLE, title), (CATEGORIES, spoken)]
        parts += [(SENTENCE, sentence) for sentence in dict.fromkeys(SENTENCES.split(description))]
        found += [(row, kind, text.strip()) for kind, text in parts if row and len(text.strip()) >= SHORTEST]
    # As objects: an array of characters would give every text the room of the longest.
    texts, text = np.unique(np.array([text for _, _, text in found], object), return_inverse=True)
    rows, kinds = np.array([row for row, _, _ in found], np.int32), np.array([kind for _, kind, _ in found], np.int8)
    pairs = np.unique(np.stack([text, rows]), axis=1) if len(rows) else np.zeros((2, 0), np.int64)
    shared = np.bincount(pairs[0], minlength=len(texts))[text]
    questions = Questions(texts.tolist(), text, rows, kinds, shared)
    order = np.lexsort((text, kinds, rows))
    return questions.take(order[shared[order] <= MOST_ITEMS])


def sample(questions: Questions, most: int, seed: int) -> Questions:
    """At most `most` different texts: whole items at a time, so that a chosen item keeps its questions."""
    if len(questions.texts) <= most:
        return questions
    items = np.random.default_rng(seed).permutation(np.unique(questions.rows))
    place = np.zeros(items.max() + 1, np.int64)
    place[items] = np.arange(len(items))
    order = np.argsort(place[questions.rows], kind="stable")
    _, first = np.unique(questions.text[order], return_index=True)
    new = np.zeros(len(order), np.int64)
    new[first] = 1
    return questions.take(np.sort(order[np.cumsum(new) <= most]))


def split(questions: Questions, share: float, seed: int) -> tuple[Questions, Questions]:
    """Training questions, and one held-out question for each held-out item: a sentence where it has one that no other
    item shares, else its title.

    Items and not questions are held out: of a held-out item nobody has learned any text. Where none of them has words that
    are its alone, nothing could be judged, and all questions are learned from.
    """
    items = np.unique(questions.rows)
    held = np.random.default_rng(seed).permutation(items)[: round(share * len(items))]
    out = np.isin(questions.rows, held)
    chosen = np.flatnonzero(out & (questions.shared == 1) & (questions.kinds != CATEGORIES))
    # A sentence before a title; among several the longest, which says most.
    lengths = np.array([len(questions.texts[number]) for number in questions.text])
    order = chosen[np.lexsort((-lengths[chosen], -questions.kinds[chosen], questions.rows[chosen]))]
    _, first = np.unique(questions.rows[order], return_index=True)
    if not len(first):
        return questions, questions.take(first)
    return questions.take(np.flatnonzero(~out)), questions.take(order[first])
