"""Boosted trees that tell clicks beside the network: fitted, weighed against it, and made part of the served ranker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from pipeline.ranker.boosted_trees import no_lightgbm
from pipeline.ranker.lists import RankingFold
from pipeline.ranker.rank_requests import answer_fold
from pipeline.ranker.request_quality import wanted_items
from pipeline.ranker.tree_examples import BLOCK_LISTS, TreeExamples
from pipeline.stage import read_json
from ranking.config import RankingConfig
from ranking.requests import Requests
from ranking.serving_form import RankingServingForm
from ranking.trees import DEPTH, BoostedTrees, TreeTables, complete_trees

SETTINGS: dict[str, Any] = {
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.1,
    "max_depth": DEPTH,
    "num_leaves": 2**DEPTH,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.3,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
"""Chosen by NDCG@10 of the demo's held-out requests together with the network, three seeds: .178, against .175 with LambdaRank
for a loss, .172 to .176 with depth 3, 31 leaves or twice the rate, and .170 for the network alone."""
PATIENCE = 20
LEAST_SLOPE = 0.1
"""The network's part never shrinks below this, so that the trees' factor stays bounded."""
REPORT = "click_trees.json"


class ClickTrees(NamedTuple):
    """Trees ready to join the network's click logit, and what it takes to fit them again.

    Attributes:
        tables: their leaves carry the factor. rounds: T. factor: of the trees' sum beside the network's logit.
    """

    tables: TreeTables
    rounds: int
    factor: float

    @classmethod
    def load(cls, ranking: Path) -> ClickTrees | None:
        """Those of an earlier ranking stage; None where it has none."""
        told = read_json(ranking / REPORT, {})
        form = RankingServingForm.load(ranking / "serving_form") if told.get("rounds") else None
        if form is None or form.trees is None:
            return None
        return cls(form.trees.tables(), told["rounds"], told["factor"])


def fit_click_trees(
    form: RankingServingForm,
    training: TreeExamples,
    held_out: TreeExamples,
    asked: RankingFold,
    config: RankingConfig,
) -> tuple[ClickTrees | None, dict[str, Any]]:
    """Fit trees to training lists, stop them on held-out ones, and weigh them against the network.

    They are weighed on all that the index has for the held-out requests, as that is what they will order: on sampled lists,
    half of whose negatives nobody would be shown, the trees' factor comes out ten times too large.

    Args:
        form: the network, uncalibrated, with popularity as of the past. asked: see `pipeline.ranker.choose_score`.

    Returns: the trees, None where they add nothing, the config wants none or LightGBM cannot be loaded; and
        {rounds, factor} or {skipped: why}.
    """
    if not config.trees or not len(asked.requests):
        return None, {"skipped": "ranking.trees is 0" if not config.trees else "no held-out request chose anything"}
    try:
        import lightgbm
    except OSError as error:
        return None, {"skipped": no_lightgbm(error)}
    base = base_logit(training)
    train = training.dataset(start=started(training, base))
    booster = lightgbm.train(
        {**SETTINGS, "seed": config.seed},
        train,
        config.trees,
        valid_sets=[held_out.dataset(train, started(held_out, base))],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    rounds = booster.best_iteration
    tables = with_base(tables_of(booster.dump_model(num_iteration=rounds), form.network.features.numbers), base)
    factor = weigh(form, tables, asked)
    if factor == 0.0:
        return None, {"skipped": "they tell nothing of the held-out clicks that the network does not"}
    report = {"rounds": rounds, "factor": factor}
    return ClickTrees(tables.scaled(factor), rounds, factor), report


def fit_again(trees: ClickTrees, form: RankingServingForm, examples: TreeExamples, config: RankingConfig) -> ClickTrees:
    """As many trees for lists that are known by now, of the same weight.

    Args:
        form: the network once it has learned from these lists; its features are those that the trees will be asked with.
    """
    import lightgbm

    base = base_logit(examples)
    train = examples.dataset(start=started(examples, base))
    booster = lightgbm.train({**SETTINGS, "seed": config.seed}, train, trees.rounds)
    tables = with_base(tables_of(booster.dump_model(), form.network.features.numbers), base)
    # A served graph is of as many trees as it was traced with, so trees that could not be grown stand there as nothing.
    return trees._replace(tables=tables.padded(trees.rounds).scaled(trees.factor))


def base_logit(examples: TreeExamples) -> float | None:
    """The logit of the rate of clicks that trees begin from where places are known; else None, and LightGBM finds it itself.

    LightGBM takes no mean where it is told scores to begin from, and trees would spend rounds on learning it.
    """
    if examples.offsets is None:
        return None
    rate = np.clip(np.average(examples.clicks, weights=examples.weights), 1e-6, 1 - 1e-6) if len(examples.clicks) else 0.5
    return float(np.log(rate / (1 - rate)))


def started(examples: TreeExamples, base: float | None) -> np.ndarray | None:
    """The scores that trees are added to: what every place adds to a click, which trees so need not explain by features."""
    if base is None:
        return None
    return base + (np.zeros(len(examples.clicks)) if examples.offsets is None else examples.offsets)


def with_base(tables: TreeTables, base: float | None) -> TreeTables:
    """The tables with a base in the first tree's leaves, where LightGBM puts its own mean."""
    if not base or not tables.count:
        return tables
    leaves = tables.leaves.copy()
    leaves[:, 0] += base
    return dataclasses.replace(tables, leaves=leaves.astype(np.float32))


def tables_of(dump: Mapping[str, Any], columns: np.ndarray) -> TreeTables:
    """LightGBM's own description of trees (`Booster.dump_model`) as tables over the columns of x_0.

    Args:
        columns: [X'], the column of x_0 of each of the booster's features.

    Raises:
        ValueError: a node asks something else than whether a number is at most a threshold.
    """

    def node_of(node: Mapping[str, Any]) -> dict[str, Any]:
        if "split_feature" not in node:
            return {"leaf": node["leaf_value"]}
        if node["decision_type"] != "<=" or node["missing_type"] != "None":
            raise ValueError(
                f"dump: nodes must ask '<=' of numbers that are never missing, received {node['decision_type']!r} with missing "
                f"values {node['missing_type']!r}; are all features finite?"
            )
        return {
            "feature": int(columns[node["split_feature"]]),
            "threshold": node["threshold"],
            "left": node_of(node["left_child"]),
            "right": node_of(node["right_child"]),
        }

    return complete_trees([node_of(tree["tree_structure"]) for tree in dump["tree_info"]])


def weigh(form: RankingServingForm, tables: TreeTables, asked: RankingFold) -> float:
    """The `stacking_factor` over all candidates of the requests that the index has something for."""
    told = answer_fold(form, asked)["click"].astype(np.float64).clip(1e-9, 1 - 1e-7)
    requests, wanted, exists = asked.requests, wanted_items(asked.requests, asked.released), asked.rows > 0
    trees, margins = BoostedTrees(tables.count), np.zeros(asked.rows.shape, np.float32)
    trees.assign(tables)
    for start in range(0, len(margins), BLOCK_LISTS):
        at = slice(start, start + BLOCK_LISTS)
        inputs = form.request_inputs(
            requests.user[at], requests.history[at], asked.rows[at], asked.scores[at], requests.timestamp[at], None,
            requests.context[at],
        )  # fmt: skip
        margins[at] = np.asarray(trees(form.network.features(form.tokens, form.present, None, inputs)))
    labels = np.stack([np.isin(rows, wanted[line]) for line, rows in enumerate(asked.rows)])
    weights = None if (requests.weight == 1).all() else candidate_weights(requests, asked.rows)[exists]
    return stacking_factor(np.log(told / (1 - told))[exists], margins[exists], labels[exists], weights)


def candidate_weights(requests: Requests, rows: np.ndarray) -> np.ndarray:
    """How much each candidate [R, T] counts: as its impression in the request does, 1 where it was not shown. [R, T]"""
    weights = np.ones(rows.shape)
    for line in range(len(rows)):
        part = slice(requests.start[line], requests.start[line + 1])
        same = rows[line][:, None] == requests.item[part][None, :]
        weights[line] = np.where(same.any(axis=1), same @ requests.weight[part], 1.0)
    return weights


def stacking_factor(
    logits: np.ndarray, margins: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """How much the trees' sum weighs beside the network's logit, b / a of the most likely

        p = sigmoid(a logit + b margin + c),  a >= `LEAST_SLOPE`, b >= 0

    Paper: Wolpert, "Stacked Generalization", Neural Networks 1992.

    Args:
        logits, margins, labels: [E]; labels in [0, 1]. weights: [E], how much each counts; None = all alike.

    Example: margins that are all there is to know, and logits of noise.
        >>> rng = np.random.default_rng(0)
        >>> margins, noise = rng.normal(size=(2, 4000))
        >>> stacking_factor(noise, margins, rng.random(4000) < 1 / (1 + np.exp(-margins))) > 5
        True
    """
    columns = np.stack([logits, margins, np.ones(len(labels))], axis=1).astype(np.float64)
    truth = np.asarray(labels, np.float64)

    def loss(asked: np.ndarray) -> tuple[float, np.ndarray]:
        scores = columns @ asked
        probability, losses = 0.5 * (1 + np.tanh(scores / 2)), np.logaddexp(0, scores) - truth * scores
        if weights is None:
            return float(losses.mean()), columns.T @ (probability - truth) / len(truth)
        return float(np.average(losses, weights=weights)), columns.T @ (weights * (probability - truth)) / weights.sum()

    bounds = [(LEAST_SLOPE, None), (0, None), (None, None)]
    found = scipy.optimize.minimize(loss, np.array([1.0, 0.0, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B").x
    return float(f"{found[1] / found[0]:.3g}")
