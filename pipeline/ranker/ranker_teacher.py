"""A finished run's ranker as a teacher of retrieval: what it says of its own index's candidates for every user."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.dataset import Dataset
from data.schema import SPLIT_CODES, TRAIN
from pipeline.metrics.examples import interactions, positive_histories
from pipeline.ranker.earlier_fold import Correspondence
from pipeline.ranker.leak_checks import LeakError, event_words, split_by_time
from pipeline.ranker.retrieval_side import exact_search
from pipeline.retrieval.served import Served, load_served
from ranking.serving_form import RankingServingForm
from towers.ranker_distillation import RankedLists

SETTING = "retrieval.distill_ranker"
ADVICE = "Name a run made of an earlier log, or of this one with larger data.valid_fraction and data.test_fraction"
LEARNED_FROM = ("train", "valid")
"""The splits that a finished run's retrieval and ranker have seen."""
BLOCK = 256
"""Users asked about at a time; every call has this one shape."""


def ranker_lists(dataset: Dataset, run: Path, candidates: int) -> RankedLists:
    """The candidates of every user, as of the end of the train split, and the logarithm of their click probability.

    Softmax of the scores over a list is then each candidate's share of the clicks that the ranker expects.

    Args:
        dataset: the one that the towers learn from. run: the finished run's folder. candidates: K.

    Raises:
        LeakError: the run's models have seen events of this dataset's validation or test split.
        FileNotFoundError, DatasetError: no finished run there.
    """
    then = Dataset.load(run / "ingest")
    rows = Correspondence.of(dataset, then)
    refuse_later_knowledge(dataset, then, rows)
    served = load_served(run)
    form = RankingServingForm.load(run / "ranking" / "serving_form")
    users = np.arange(dataset.schema.user_rows, dtype=np.int32)
    histories = positive_histories(dataset, ("train",))
    if not dataset.schema.has_timestamps:
        histories = histories.shuffled(np.random.default_rng(0))
    history = histories.latest(users, max(served.history_length, form.config.history_length))
    seen = interactions(dataset, ("train",), positive_only=False)
    events = dataset.events["timestamp"][dataset.events["split"] == TRAIN]
    now = int(events.max()) if dataset.schema.has_timestamps and len(events) else 0
    asked = min(candidates, then.schema.item_rows - 1)
    found = np.zeros((len(users), asked), np.int32)
    scores = np.zeros((len(users), asked), np.float32)
    for start in range(0, len(users), BLOCK):
        part = np.minimum(np.arange(start, start + BLOCK), len(users) - 1)
        excluded = np.zeros((BLOCK, int(seen.counts[part].max(initial=0))), np.int32)
        for line, user in enumerate(part):
            excluded[line, : seen.counts[user]] = rows.item_then[seen[int(user)]]
        theirs = (rows.user_then[users[part]], rows.item_then[history[part]])
        listed, told = _ask(then, served, form, *theirs, excluded, asked, now)
        stop = min(start + BLOCK, len(users))
        found[start:stop], scores[start:stop] = rows.item_now[listed][: stop - start], told[: stop - start]
    return RankedLists(found, scores)


def _ask(
    then: Dataset,
    served: Served,
    form: RankingServingForm,
    users: np.ndarray,
    history: np.ndarray,
    excluded: np.ndarray,
    asked: int,
    now: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates [B, K] in the run's own rows, and the logarithm of their click probability."""
    queries = served.queries(then.profile, users, history[:, : served.history_length])
    listed, retrieved = exact_search(queries, served.items, asked, excluded)
    answer = form(users, history, listed.astype(np.int32), retrieved, np.full(len(users), now, np.int64))
    return listed, np.log(np.clip(np.asarray(answer["click"], np.float64), 1e-7, 1.0)).astype(np.float32)


def refuse_later_knowledge(dataset: Dataset, then: Dataset, rows: Correspondence) -> None:
    """A teacher must not know what its pupil is judged by: neither the same pairs nor, in a split by time, the same days.

    Raises:
        LeakError: names such an event.
    """
    part, time = dataset.events["split"].to_numpy(), dataset.events["timestamp"].to_numpy()
    asked = dataset.positive & (part > TRAIN)
    learned = then.events[then.positive & then.events["split"].isin([SPLIT_CODES[name] for name in LEARNED_FROM])]
    if split_by_time(dataset) and asked.any() and int(learned["timestamp"].max()) >= int(time[asked].min()):
        raise LeakError(
            SETTING,
            f"its ranker has learned from events until {int(learned['timestamp'].max())}, and this dataset's validation "
            f"begins at {int(time[asked].min())}",
            ADVICE,
        )
    leaked = rows.pairs_known(dataset, asked, learned)
    if len(leaked):
        raise LeakError(
            SETTING,
            f"its models have learned from {len(leaked)} of the pairs that the towers are judged by, such as "
            f"{event_words(dataset, leaked[0])}",
            ADVICE,
        )
