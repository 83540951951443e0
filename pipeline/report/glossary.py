"""The words of the report that are not everybody's, and what each means; told at its end, those that it uses."""

from __future__ import annotations

import re

MEANINGS = {
    "recall": "the share of what users went on to choose that is among the first k of a list (recall@k).",
    "NDCG": "like recall, but a hit counts 1 / log2(1 + place): 1 = everything chosen stands first, 0 = nothing is found.",
    "MRR": "mean reciprocal rank: 1 / place of the first hit, averaged.",
    "coverage": "the share of the catalogue that is in anybody's list.",
    "popularity bias": "how much more popular, in logarithms, shown items are than chosen ones; 0 = neither way.",
    "oracle": "the true taste that made a synthetic dataset; nothing can be better but by luck.",
    "AUC": "how often a chosen item gets a higher probability than one that was not; 0.5 = chance.",
    "log loss": "mean surprise by what came of the probabilities; lower is better, 0 = always sure and right.",
    "calibration error": "mean gap between what is predicted and what comes true (expected calibration error).",
    "RMSE": "root of the mean squared error of a predicted number.",
    "head": "an output of the ranking model, one for each kind of event; of items: those with the most events.",
    "long tail": "items that are neither new nor among those with the most events.",
    "Gini": "how unequally items are shown: 0 = all alike, 1 = one item has everything.",
    "IPS": "inverse propensity scoring: what the log saw, weighted by how much oftener the policy would show it.",
    "SNIPS": "IPS divided by the mean weight, which steadies it.",
    "DR": "doubly robust: a model's prediction, corrected by IPS of where it was wrong.",
    "disparity": "exposure of a group of items, divided by its share of what people choose.",
    "LightGBM": "a library that fits boosted trees.",
    "ScaNN": "an approximate index that searches some of its leaves instead of every item.",
    "p50": "median time of a query; p99: the time that one query in a hundred takes longer than.",
    "FGSM": "fast gradient sign method: an attack by one step that deceives the model most.",
    "PGD": "projected gradient descent: an attack by many small steps within the same limit.",
    "shilling": "fake users whose events push an item.",
    "PSI": "population stability index: how far a distribution has moved; 0 = not at all.",
}


def words_used(page: str) -> list[tuple[str, str]]:
    """(word, what it means) of those that a page has as words of their own, in the order of their kind.

    Example:
        >>> [word for word, _ in words_used("<td>NDCG@10</td><p>SNIPS of the long  tail</p>")]
        ['NDCG', 'long tail', 'SNIPS']
    """
    # What is in a tag or a style is not for people.
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return [
        (word, meaning)
        for word, meaning in MEANINGS.items()
        if re.search(r"(?<![A-Za-z])" + r"\s+".join(word.split()) + r"(?![A-Za-z])", text)
    ]
