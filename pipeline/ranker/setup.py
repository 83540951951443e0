"""A ranker ready to train: its tables on the device, its requests held out, its lists cut into batches of one shape."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.features import FeatureStore
from data.item_labels import item_labels
from data.schema import SPLIT_CODES, TRAIN
from pipeline.ranker.lists import RankingFold
from pipeline.training.epoch_steps import NonFiniteLossError
from ranking.config import HEADS, RankerSpec, RankingConfig
from ranking.content_heads import ItemLabels
from ranking.lists import RankingLists
from ranking.model import Ranker, batch_inputs
from ranking.popularity import PopularityTable, popularity_table
from ranking.requests import Requests
from ranking.tables import collect_side_information

MINIMUM_LABELS = 20
"""A head with fewer positive labels on either side is left out: there is nothing to learn or to calibrate on."""


def hold_out_users(users: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Whether each user belongs to the held-out share: a hash of (user, seed), the same in every process. [R] -> bool
    [R]

    Example:
        >>> float(hold_out_users(np.arange(100_000), 0.2, 7).mean().round(2))
        0.2
    """
    mixed = (users.astype(np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed / 2.0**64 < share


def hold_out_requests(requests: Requests, config: RankingConfig) -> np.ndarray:
    """Which requests stop, calibrate and weigh the ranker, and so do not train it. -> bool [R]

    The last of them, as a ranker is asked about days that come after those it learned from: a hold-out of users would
    praise whatever it learned of the days it is judged on. Where a log has no times, a hashed share of the users.
    """
    if len(requests) and (requests.timestamp > 0).all():
        return requests.timestamp >= np.quantile(requests.timestamp, 1.0 - config.calibration_share)
    return hold_out_users(requests.user, config.calibration_share, config.seed)


def learnable_heads(training: RankingLists, held_out: RankingLists, config: RankingConfig) -> tuple[str, ...]:
    """`click`, and every other head with a weight and with enough positive labels to learn from and to calibrate on."""
    labelled = [head for head in HEADS if head in training.labels and config.weight_of(head) > 0]
    enough = {
        head: min(part.labels[head][part.known[head]].sum() for part in (training, held_out)) for head in labelled
    }
    return tuple(head for head in labelled if head == "click" or enough[head] >= MINIMUM_LABELS)


def build_ranker(
    dataset: Dataset,
    store: FeatureStore,
    item_embeddings: np.ndarray,
    training: RankingFold,
    lists: RankingLists,
    heads: tuple[str, ...],
    config: RankingConfig,
    *,
    known_splits: tuple[str, ...],
    first_request: int,
    also: Requests | None = None,
    learned: Collection[str] = (),
) -> Ranker:
    """A fresh ranker with every table it reads.

    Args:
        training: the fold it will learn from; only ids that occur there get an embedding of their own.
        lists: one draw of that fold's lists, which fixes the scale of the retrieval score and where each head starts.
        known_splits: whose events make items popular, each from its own time on.
        first_request: UTC seconds of the earliest request that the ranker will be asked about.
        also: requests of another source that it learns from too.
        learned: modalities whose projections somebody else fills.
    """
    tables = {name: np.asarray(store.pooled(name)) for name in store.modalities}
    schema = dataset.schema.with_modalities({name: table.shape[1] for name, table in tables.items()})
    dated = dataset.events["timestamp"]
    reference = int(dated.min()) if dataset.schema.has_timestamps else 0
    scores = lists.retrieval_scores[lists.mask]
    width = item_embeddings.shape[1] if config.item_embeddings else 0
    popularity = popularity_of(dataset, known_splits, first_request, config)
    labels = item_labels(dataset.items, dataset.events) if config.category_weight or config.sentiment_weight else None
    spec = RankerSpec(
        schema,
        width,
        reference,
        float(scores.mean()),
        float(scores.std()) + 1e-6,
        heads,
        popularity_moments=len(popularity.values),
        popularity_start=popularity.start,
        popularity_step=popularity.step,
        categories=0 if labels is None else len(labels.names),
    )
    ranker = Ranker(spec, config)
    ranker.network.heads.start_from({head: base_rate(lists, head) for head in heads})
    known_items, known_users = np.zeros(schema.item_rows, bool), np.zeros(schema.user_rows, bool)
    for requests in (training.requests, *([] if also is None else [also])):
        known_items[requests.item] = True
        known_users[requests.user] = True
    side = collect_side_information(
        counts=dataset.counts,
        price=dataset.items["price"].to_numpy(float),
        created_at=dataset.items["created_at"].to_numpy(np.int64),
        attributes=dataset.attributes,
        item_known=known_items,
        profile=dataset.profile,
        user_known=known_users,
        reference_time=reference,
        popularity=popularity,
    )
    present = store.present_of(store.modalities)
    if config.item_embeddings:
        tables["behaviour"] = item_embeddings
        present = np.concatenate([present, np.abs(item_embeddings).sum(axis=1, keepdims=True) > 0], axis=1)
    weak = None if labels is None else ItemLabels(labels.categories, labels.sentiment, labels.known)
    ranker.assign(side, tables, present, weak, learned)
    return ranker


def base_rate(lists: RankingLists, head: str) -> float:
    """Mean label of a head over the entries where it is known."""
    known = lists.known[head]
    return float(lists.labels[head][known].mean()) if known.any() else 0.5


def popularity_of(
    dataset: Dataset, known_splits: tuple[str, ...], first_request: int, config: RankingConfig
) -> PopularityTable:
    """Popularity as of every day from that of the first request on. A log without times has one popularity, that of the
    train split: of anything later nobody could tell whether it is from before a request."""
    codes = [SPLIT_CODES[name] for name in known_splits]
    dated = dataset.schema.has_timestamps
    split, time = (dataset.events[name].to_numpy() for name in ("split", "timestamp"))
    known = dataset.positive & np.isin(split, codes if dated else [TRAIN])
    start = first_request if dated else 0
    item = dataset.events["item"].to_numpy()
    return popularity_table(item[known], time[known], start, config.popularity_half_lives, dataset.schema.item_rows)


def unique_size(dataset: Dataset, config: RankingConfig) -> int:
    """U: the most distinct items a batch of lists can name, row 0 included."""
    return min(dataset.schema.item_rows, 1 + config.batch_lists * (config.list_size + config.history_length))


def batches(
    lists: RankingLists, config: RankingConfig, unique_items: int, order: np.ndarray
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any], int]]:
    """Batches of one shape: inputs, labels and how many lists are real; the last one is filled with masked lists."""
    placed = bool(config.position_bias and lists.position.any())
    for number in range(math.ceil(len(order) / config.batch_lists)):
        part = order[number * config.batch_lists : (number + 1) * config.batch_lists]
        rows = np.pad(part, (0, config.batch_lists - len(part)))
        mask = lists.mask[rows].copy()
        mask[len(part) :] = False
        inputs = batch_inputs(
            lists.user[rows],
            lists.history[rows],
            lists.candidates[rows],
            lists.retrieval_scores[rows],
            lists.retrieval_ranks[rows],
            lists.timestamp[rows],
            unique_items,
            context=lists.context[rows],
            position=lists.position[rows] if placed else None,
        )
        labels: dict[str, Any] = {head: values[rows] for head, values in lists.labels.items()}
        labels["known"] = {head: values[rows] & mask for head, values in lists.known.items()}
        yield inputs, labels | {"mask": mask, "weight": lists.weight[rows]}, len(part)


def train_step(
    ranker: Ranker, inputs: dict[str, np.ndarray], labels: dict[str, Any], *, where: str, advice: str
) -> float:
    """One step of training; the batch's loss.

    Args:
        where: "in epoch 3, step 7", and advice: "Lower the rate.", for the error.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    loss = float(ranker.train_on_batch(inputs, labels, return_dict=True)["loss"])
    # Keras reports a running mean; without the reset a late NaN would hide in it.
    ranker.reset_metrics()
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"ranking: the loss is {loss} {where}. {advice}")
    return loss
