"""The search stage: a tower from typed questions to items, learned from the catalogue's own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from data.content_key import content_key, write_content_keys
from data.content_store import ContentStore
from data.features import FeatureStore
from pipeline.retrieval.search_questions import Questions, make_questions, sample, split
from pipeline.settings.search import SearchSection
from pipeline.training.checkpoint import put_back, snapshot
from pipeline.training.fused_optimizers import FusedAdamW
from towers.encoders import Encoder
from towers.search import SearchConfig, SearchTask, SearchTower

BALANCES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
UNJUDGED_BALANCE = 1.0
"""Where no held-out question can tell: both parts alike."""

FEWEST = 20
"""Items with questions below which nothing can be held out and learned."""

BLOCK = 256
PREPROCESSING = "question-2"
"""Part of the keys of questions in the content store: under the first number lie tuned encoders' vectors of passages."""

Progress = Callable[[str, int, int], None]


def train_search(
    items: pd.DataFrame,
    store: FeatureStore,
    embeddings: np.ndarray,
    encoder: Encoder,
    out: Path,
    config: SearchSection,
    *,
    content_store: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a search tower against frozen item embeddings and write it to `out`.

    Args:
        items: the ingested catalogue, row 0 included. store: its features; text must be stored.
        embeddings: [N + 1, D] of the item tower.
        encoder: the text encoder that filled the store.
        out: folder to fill; the caller renames it.
        content_store: folder in which questions' vectors are kept, so that training again encodes none twice.
        progress: called with (what, done, total).

    Returns:
        `trained`; if not, `reason`; if so, questions, held_out, best_epoch, balance, and recall@10 of a held-out item by
        a sentence of its own: `recall@10`, and `recall@10_behaviour` and `recall@10_content` of each part alone. Where no
        held-out item has words of its own there is nothing to choose by: all epochs are run and the parts weigh the same,
        `held_out` is 0, and `reason` takes the place of the recalls.
    """
    vectors = np.asarray(store.table("text"), np.float32)
    present = store.present_of("text")
    questions = make_questions(items)
    reachable = present[questions.rows] & (np.linalg.norm(embeddings, axis=1)[questions.rows] > 0)
    questions = sample(questions.take(np.flatnonzero(reachable)), config.max_questions, config.seed)
    if len(np.unique(questions.rows)) < FEWEST:
        write_content_keys(out, {})
        reason = f"{len(np.unique(questions.rows))} items with words of their own, {FEWEST} are needed"
        return {"trained": False, "reason": reason}
    asked, keys = encode_questions(questions.texts, encoder, content_store, progress)
    write_content_keys(out, {"text": keys})
    of_text = dict(zip(questions.texts, asked, strict=True))
    learned, held = split(questions, config.held_out, config.seed)

    def vectors_of(some: Questions) -> np.ndarray:
        return np.array([of_text[text] for text in some.texts], np.float32).reshape(-1, vectors.shape[1])[some.text]

    keras.utils.set_random_seed(config.seed)
    settings = config.model_dump(include={"content_width", "hidden", "dropout", "seed"})
    tower = SearchTower(SearchConfig(vectors.shape[1], embeddings.shape[1], **settings))
    # Images of a joint encoder lie where its texts lie, and ask for their items as well as words do.
    pictures, shown = joint_pictures(store, ~np.isin(np.arange(len(items)), held.rows))
    query = np.concatenate([vectors_of(learned), pictures])
    tower.adapt(vectors_of(learned), vectors[present])
    rows = np.concatenate([learned.rows, shown]).astype(np.int32)
    batch = {"query": query, "item": embeddings[rows].astype(np.float32), "row": rows}
    judge = Judge(tower, embeddings, vectors, present, vectors_of(held), held.rows)
    best_epoch = fit(SearchTask(tower), batch, judge, config, progress)
    told = {"trained": True, "questions": len(rows), "held_out": len(held.rows), "best_epoch": best_epoch}
    if not len(held.rows):
        tower.balance.assign(UNJUDGED_BALANCE)
        tower.save_to(out)
        return {**told, "balance": UNJUDGED_BALANCE, "reason": "no held-out item has a title or sentence of its own"}
    recalls = {balance: judge.recall(balance) for balance in BALANCES}
    enough = max(recalls.values()) - config.tolerance
    balance = min(value for value, recall in recalls.items() if recall >= enough)
    tower.balance.assign(balance)
    tower.save_to(out)
    return {
        **told,
        "balance": balance,
        "recall@10": recalls[balance],
        "recall@10_behaviour": recalls[0.0],
        "recall@10_content": judge.recall(CONTENT_ALONE),
    }


CONTENT_ALONE = 1e6


class Judge:
    """How well a tower finds held-out items, each by a sentence of its own among all items."""

    def __init__(self, tower: SearchTower, embeddings, vectors, present, asked: np.ndarray, rows: np.ndarray):
        self.tower, self.embeddings, self.vectors, self.present = tower, embeddings, vectors, present
        self.asked, self.rows = asked, rows

    def ranks(self, balance: float) -> np.ndarray:
        """Place of each item in the answer to its question, 0 the first; items that score alike count as before it."""
        self.tower.balance.assign(balance)
        table = keras.ops.convert_to_numpy(self.tower.items(self.embeddings, self.vectors, self.present))
        ranks = []
        for start in range(0, len(self.rows), BLOCK):
            rows = self.rows[start : start + BLOCK]
            scores = keras.ops.convert_to_numpy(self.tower(self.asked[start : start + BLOCK])) @ table.T
            scores[:, 0] = -np.inf
            own = scores[np.arange(len(rows)), rows]
            ranks.append((scores >= own[:, None]).sum(axis=1) - 1)
        return np.concatenate([np.zeros(0, np.int64), *ranks])

    def recall(self, balance: float, k: int = 10) -> float:
        return float(np.mean(self.ranks(balance) < k)) if len(self.rows) else 0.0

    def reciprocal_rank(self) -> float:
        """Of the trained part alone, which is what epochs differ in."""
        return float(np.mean(1 / (1 + self.ranks(0.0)))) if len(self.rows) else 0.0


def fit(task: SearchTask, batch: dict, judge: Judge, config: SearchSection, progress: Progress | None) -> int:
    """Epochs until the held-out mean reciprocal rank stalls; the best one's weights stay. Returns which that was. Without
    anything held out, all epochs and the last."""
    optimizer = FusedAdamW(config.learning_rate, weight_decay=config.weight_decay, global_clipnorm=1.0)
    task.compile(optimizer=optimizer, jit_compile=False)
    best, best_epoch, weights = -1.0, 0, snapshot(task.trainable_variables)
    for epoch in range(config.epochs):
        task.fit(batch, batch_size=config.batch_size, epochs=1, verbose=0)
        if progress:
            progress("training", epoch + 1, config.epochs)
        quality = judge.reciprocal_rank()
        if quality > best or not len(judge.rows):
            best, best_epoch, weights = quality, epoch, snapshot(task.trainable_variables)
        elif epoch - best_epoch >= config.patience:
            break
    put_back(task.trainable_variables, weights)
    return best_epoch


def encode_questions(
    texts: list[str], encoder: Any, content_store: Path | None, progress: Progress | None
) -> tuple[np.ndarray, list[bytes]]:
    """Vectors of questions, from the content store where it has them, with their keys there."""
    encode = getattr(encoder, "encode_queries", encoder.encode)
    keys = [content_key(text, encoder.fingerprint, PREPROCESSING) for text in texts]
    if content_store is None:
        return _encoded(encode, texts, progress), keys
    with ContentStore.open(content_store, "text", encoder.name, encoder.fingerprint, encoder.width) as kept:
        found, vectors = kept.lookup(keys)
        vectors, missing = vectors.astype(np.float32), np.flatnonzero(~found)
        if len(missing):
            vectors[missing] = _encoded(encode, [texts[place] for place in missing], progress)
            kept.append([keys[place] for place in missing], vectors[missing])
            kept.flush()
    # Half precision, stored or new: a run that finds everything in the store must train the same tower.
    return vectors.astype(np.float16).astype(np.float32), keys


def _encoded(encode: Callable[[list[str]], np.ndarray], texts: list[str], progress: Progress | None) -> np.ndarray:
    parts = []
    for start in range(0, len(texts), BLOCK):
        parts.append(encode(texts[start : start + BLOCK]))
        if progress:
            progress("questions", min(start + BLOCK, len(texts)), len(texts))
    return np.concatenate(parts)


def joint_pictures(store: FeatureStore, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture vectors [P, F] and item rows [P] where pictures and texts share a joint encoder; none otherwise."""
    width, info = store.widths["text"], store.info.get("modalities", {})
    names = [info.get(name, {}).get("encoder", "") for name in ("text", "image")]
    joint = names[0].startswith("keras_hub:") and names[0] == names[1] and store.widths.get("image") == width
    if not joint:
        return np.zeros((0, width), np.float32), np.zeros(0, np.int32)
    rows = np.flatnonzero(allowed & store.present_of("image"))
    return np.asarray(store.table("image"))[rows].astype(np.float32), rows
