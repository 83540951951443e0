"""One protocol for all models: the same questions, the same number of trials on validation, the test split once."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset, train_counts
from data.features import FeatureStore
from pipeline.metrics.bootstrap import bootstrap_interval
from pipeline.metrics.examples import interactions, make_requests
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k, recall_at_k
from pipeline.metrics.positive_ranks import as_ranked, rank_positives
from pipeline.metrics.significance import compare_paired
from pipeline.metrics.top_k import ScoreBlock, dot_product_scores
from pipeline.peers.peers import Answer, Peer, Problem, Question, Settings

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
DEPTH = 20
HISTORY = 200
"""Recent items in a question; a model that reads fewer takes the first of them."""


@dataclasses.dataclass(frozen=True)
class Contest:
    """The problem and the question of each phase; cold contests withhold other items for choosing than for testing."""

    choosing: tuple[Problem, Question]
    testing: tuple[Problem, Question]


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one model did.

    Attributes:
        settings: the chosen ones. trials: how many were tried. valid: the chosen one's value on validation.
        users: {metric: float [seeds, Q]}, values a test user, NaN where undefined.
        seconds_fit, seconds_answer: of the chosen setting, mean over seeds; None for what was fitted elsewhere.
    """

    name: str
    settings: Settings
    trials: int
    valid: float
    users: dict[str, np.ndarray]
    seconds_fit: float | None
    seconds_answer: float

    def values(self, metric: str) -> np.ndarray:
        """[Q], the mean over seeds of each user's value."""
        return self.users[metric].mean(axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One setting on validation: what came of it, and the fitted model with the seconds it took."""

    settings: Settings
    value: float
    answer: Answer
    seconds: float


def warm_contest(dataset: Dataset, store: FeatureStore | None, known_splits: tuple[str, ...], seed: int) -> Contest:
    """The whole catalogue: chosen on the validation split, tested on the test split with `known_splits` known and masked.

    Models learn from the train split in both phases.
    """
    problem = Problem(dataset, store, interactions(dataset, ("train",)))
    return Contest(
        (problem, ask(dataset, "valid", ("train",), seed)), (problem, ask(dataset, "test", known_splits, seed))
    )


def cold_contest(
    dataset: Dataset, store: FeatureStore | None, known_splits: tuple[str, ...], seed: int, share: float = 0.1
) -> Contest:
    """Items that nobody has taken: `share` of the catalogue is withheld from training and makes up the candidates.

    Every event of a withheld item leaves the train split and the histories, and only its events in the judged split are
    asked for. What is withheld while settings are chosen (judged on validation) and what is withheld for the test are
    two disjoint seeded draws, each among all items with an event.
    """
    with_events = np.unique(dataset.events["item"].to_numpy())
    size = round(share * len(with_events))
    if size < 1 or 2 * size > len(with_events):
        raise ValueError(f"share: must withhold 1 to half of {len(with_events)} items, received {share} ({size} items)")
    drawn = np.random.default_rng([seed, 1]).permutation(with_events)
    phases = []
    for rows, split, known in ((drawn[:size], "valid", ("train",)), (drawn[size : 2 * size], "test", known_splits)):
        cold = np.zeros(dataset.schema.item_rows, bool)
        cold[rows] = True
        reduced = withhold(dataset, cold, keep_split=split)
        warm = dataclasses.replace(reduced, events=reduced.events[~cold[reduced.events["item"].to_numpy()]])
        problem = Problem(warm, store, interactions(warm, ("train",)))
        question = ask(reduced, split, known, seed)
        requests = question.requests
        relevant = requests.relevant.restrict(cold)
        requests = dataclasses.replace(requests, relevant=relevant).take(np.flatnonzero(relevant.counts))
        phases.append((problem, dataclasses.replace(question, requests=requests, allowed=cold)))
    return Contest(*phases)


def withhold(dataset: Dataset, cold: np.ndarray, *, keep_split: str) -> Dataset:
    """The dataset without the events of `cold` items (bool [N + 1]) outside the split `keep_split`."""
    from data.schema import SPLIT_CODES

    events = dataset.events
    kept = ~cold[events["item"].to_numpy()] | (events["split"].to_numpy() == SPLIT_CODES[keep_split])
    events = events[kept].reset_index(drop=True)
    return dataclasses.replace(dataset, events=events, counts=train_counts(events, dataset.schema.item_rows))


def ask(
    dataset: Dataset, split: str, known_splits: tuple[str, ...], seed: int, history_length: int = HISTORY
) -> Question:
    """Every user with a positive event in `split`; a user's history and mask come from `known_splits`."""
    requests = make_requests(dataset, split, known_splits=known_splits, history_length=history_length, seed=seed)
    if not len(requests.users):
        raise ValueError(f"split: {split} must hold a positive event that is new to its user, received none")
    return Question(requests, interactions(dataset, known_splits))


def judge(scores: ScoreBlock, question: Question) -> dict[str, np.ndarray]:
    """Values of `METRICS` a user, over the full catalogue or the allowed part of it."""
    requests = question.requests
    positions = np.arange(len(requests.users))
    places = rank_positives(scores, positions, requests.seen, requests.relevant, allowed=question.allowed)
    ranked = as_ranked(places, requests.relevant, DEPTH)
    metrics = {"recall": recall_at_k, "ndcg": ndcg_at_k}
    names = [name.split("@") for name in METRICS]
    return {f"{name}@{k}": metrics[name](ranked, requests.relevant, int(k)) for name, k in names}


def compete(
    peer: Peer,
    contest: Contest,
    *,
    trials: int,
    seeds: tuple[int, ...],
    metric: str = "ndcg@20",
    say: Callable[[str], None] = print,
) -> Entry:
    """Tune one model on validation with `trials` trials, then answer the test question with every seed, once.

    Args:
        seeds: the first tunes, and where both phases learn from the same, the chosen trial is also its model for the
            test; a model without chance in it uses only that one.

    Raises:
        ValueError: metric is not in `METRICS`, or no trial or seed is asked for.
    """
    if metric not in METRICS or trials < 1 or not seeds:
        raise ValueError(
            f"metric, trials, seeds: must be in {METRICS}, >= 1 and not empty, received {metric!r}, {trials} and {seeds}"
        )
    problem, question = contest.choosing
    # From the first seed and the name, so that leaving a model out changes no other model's draws.
    rng = np.random.default_rng([seeds[0], *peer.name.encode()])
    best: Trial | None = None
    wanted = peer.trials(problem, trials, rng)
    for number, settings in enumerate(wanted):
        begun = time.perf_counter()
        answer = peer.fit(problem, settings, seeds[0])
        seconds = time.perf_counter() - begun
        value = mean_over_users(judge(answer(question), question)[metric])
        if best is None or value > best.value:
            best = Trial(settings, value, answer, seconds)
        spent = time.perf_counter() - begun
        say(f"{peer.name} trial {number + 1}: {metric} {value:.4f} in {spent:.1f} s {dict(settings)}")
    assert best is not None  # there is at least one trial
    users, fitting, answering = [], [], []
    for seed in seeds if peer.seeded else seeds[:1]:
        begun = time.perf_counter()
        if seed == seeds[0] and contest.testing[0] is problem:  # the chosen trial, which learned the same from the same
            answer, seconds = best.answer, best.seconds
        else:
            answer = peer.fit(contest.testing[0], best.settings, seed)
            seconds = time.perf_counter() - begun
        fitting.append(seconds)
        begun = time.perf_counter()
        users.append(judge(answer(contest.testing[1]), contest.testing[1]))
        answering.append(time.perf_counter() - begun)
    stacked = {name: np.stack([values[name] for values in users]) for name in METRICS}
    return Entry(
        peer.name, best.settings, len(wanted), best.value, stacked, float(np.mean(fitting)), float(np.mean(answering))
    )


def enter_runs(
    name: str, runs: list[tuple[Path, str]], dataset: Dataset, known_splits: tuple[str, ...], metric: str, seed: int
) -> Entry:
    """What finished runs serve, as one more model: its queries and items, tuned by its own stages; a run is a seed.

    A run that was fitted again once all was chosen (`linear.refit`) answers validation as it was before: afterwards it knows
    the answers. What it was fitted on again stands in the entry's settings, since peers learn from the train split alone.

    Args:
        runs: (run folder, variant), such as `full` or `ids_only`. dataset: the one everybody else is judged on.

    Raises:
        ValueError: a run was made from other events, items or splits, or has learned from a split that is not known at test.
    """
    from pipeline.retrieval.served import UNSEEN, load_served, served_folder

    users, valid, answering = [], [], []
    learned: set[str] = set()
    for folder, variant in runs:
        own = Dataset.load(folder / "ingest")
        if not (own.events.equals(dataset.events) and list(own.item_ids) == list(dataset.item_ids)):
            raise ValueError(f"--run: {folder} must be made from the same dataset and split as the others; it is not")
        again = (served_folder(folder, variant) / UNSEEN).is_dir()
        if again:
            learned |= set(json.loads((folder / "linear" / variant / "info.json").read_text())["refitted_on"])
        if not learned <= {"train", *known_splits}:
            raise ValueError(
                f"--run: {folder} must have learned from {known_splits} at most, was fitted again on {sorted(learned)}; set "
                "evaluation.mask_splits or linear.refit=false, and run it again"
            )
        for split, known in (("valid", ("train",)), ("test", known_splits)):
            served = load_served(folder, f"{variant}/{UNSEEN}" if again and split == "valid" else variant)
            question = ask(dataset, split, known, seed, served.history_length)
            begun = time.perf_counter()
            queries = served.queries(dataset.profile, question.requests.users, question.requests.history)
            values = judge(dot_product_scores(queries, served.items), question)
            if split == "valid":
                valid.append(mean_over_users(values[metric]))
            else:
                users.append(values)
                answering.append(time.perf_counter() - begun)
    stacked = {metric: np.stack([values[metric] for values in users]) for metric in METRICS}
    settings: dict[str, Any] = {"runs": [f"{folder.name}:{variant}" for folder, variant in runs]}
    if learned - {"train"}:
        settings["refitted_on"] = sorted(learned)
    return Entry(name, settings, 0, float(np.mean(valid)), stacked, None, float(np.mean(answering)))


def summarise(entry: Entry, seed: int) -> dict[str, Any]:
    """Means with their 95 % intervals over users (of the mean over seeds) and their spread over seeds."""
    result: dict[str, Any] = {
        "settings": dict(entry.settings),
        "trials": entry.trials,
        "valid": round(entry.valid, 5),
        "seconds_fit": None if entry.seconds_fit is None else round(entry.seconds_fit, 2),
        "seconds_answer": round(entry.seconds_answer, 2),
        "seeds": len(entry.users[METRICS[0]]),
        "users": int(np.count_nonzero(~np.isnan(entry.values(METRICS[0])))),
    }
    for name in METRICS:
        low, high = bootstrap_interval(entry.values(name), np.random.default_rng(seed))
        by_seed = [mean_over_users(line) for line in entry.users[name]]
        result[name] = {
            "mean": round(float(np.mean(by_seed)), 5),
            "low": round(low, 5),
            "high": round(high, 5),
            "std_over_seeds": round(float(np.std(by_seed, ddof=1)), 5) if len(by_seed) > 1 else None,
        }
    return result


def compare(entries: list[Entry], reference: str, metric: str, seed: int) -> dict[str, dict[str, float]]:
    """Every other model against `reference`: paired difference a user, its interval, and a p-value by randomisation."""
    base = next(entry for entry in entries if entry.name == reference)
    return {
        entry.name: compare_paired(
            entry.values(metric), base.values(metric), np.random.default_rng(seed)
        )._asdict()
        for entry in entries
        if entry is not base
    }
