"""The deletion test: whether the group of features that an explanation names first matters more than another one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ranking.attribution import METHODS, attribute, attribution_plan
from ranking.explain import METHOD, group_names, masked_scores, pair_features, reference
from ranking.serving_form import RankingServingForm

SHOWN = 10
"""A case is one of the first items of a ranked list: what somebody would ask the reason of."""
REMOVALS = ("permuted", "unknown")
BLOCK = 200
"""Cases answered at a time."""


@dataclasses.dataclass(frozen=True)
class ShownItems:
    """Requests with what was retrieved for them and how it was ranked; one candidate of each is explained.

    Shapes: `user`, `timestamp` [R], `history` [R, L], `context` [R, C]; `rows`, `retrieval_scores`, `ranked` (the ranking
    scores) [R, T], in retrieval order, padded with row 0.
    """

    user: np.ndarray
    history: np.ndarray
    timestamp: np.ndarray
    context: np.ndarray
    rows: np.ndarray
    retrieval_scores: np.ndarray
    ranked: np.ndarray

    def inputs(self, form: RankingServingForm, request: np.ndarray, place: np.ndarray) -> dict[str, Any]:
        """The ranker's inputs for one candidate of each request; `place` is its column in retrieval order."""
        return form.request_inputs(
            self.user[request],
            self.history[request],
            self.rows[request, place][:, None],
            self.retrieval_scores[request, place][:, None].astype(np.float32),
            self.timestamp[request],
            (place[:, None] + 1).astype(np.float32),
            self.context[request],
        )


def deletion_test(form: RankingServingForm, shown: ShownItems, *, cases: int = 1000, seed: int = 0) -> dict[str, Any]:
    """How often removing the group named first lowers the score more than removing a random other group.

        share = mean over cases of [f(x) - f(x without g) > f(x) - f(x without h)],
        g = argmax of the contributions, h uniform over the other groups

    A case is a request and one of its first ten items. For an explanation by leaving one group out, g has by construction
    the largest drop under the removal that the explanation itself uses, so that this removal tests nothing: it is left
    out here. Judged is by two removals that the explanation never made:

    - `permuted`: the group's features are those of a random candidate of another request, the same one for g and h. They
      are real values, in a combination that is not. This is the headline, `share`.
    - `unknown`: the group's features are those of a user and an item of whom nothing is known (`PairFeatures.neutral`).

    Beside it stand the groups that integrated gradients name (another explanation, same removals), and how often both
    name the same. A random explanation reaches 0.5; `always`, the group that does best when it is named in every case,
    reaches more where one group decides most scores. So the test is made once more without that group, among all others
    (`besides`): there an explanation has to tell cases apart.

    Args:
        cases: how many at most; requests are drawn without repetition as long as there are enough, and not more than
            ten times each.
        seed: of the choice of requests, items, other groups and donors.

    Returns:
        {"share", "cases", "method", "removal", "shares": {method: {removal: share}}, "agreement", "always": {"group",
        "share"}, "besides": {"shares": as above, "always"}, "named": {group: cases}}.

    Raises:
        ValueError: for fewer than two requests, or a ranker of fewer than three groups: there would be nothing to choose.
    """
    names = group_names(form)
    usable = np.flatnonzero((shown.rows > 0).any(axis=1))
    if len(usable) < 2 or len(names) < 3:
        raise ValueError(
            f"shown: need at least two requests with candidates and three groups of features, received {len(usable)} and "
            f"{len(names)}"
        )
    rng = np.random.default_rng(seed)
    cases = min(cases, SHOWN * len(usable))
    rounds = [rng.permutation(len(usable)) for _ in range(-(-cases // len(usable)))]
    chosen = np.concatenate(rounds)[:cases]
    donor = (chosen + rng.integers(1, len(usable), cases)) % len(usable)
    request, donor = usable[chosen], usable[donor]
    order = np.argsort(-np.where(shown.rows > 0, shown.ranked, -np.inf), axis=1, kind="stable")
    count = (shown.rows > 0).sum(axis=1)
    place = order[request, rng.integers(0, np.minimum(count[request], SHOWN))]
    given = order[donor, rng.integers(0, count[donor])]
    draws = rng.random(cases)

    found: dict[str, list[np.ndarray]] = {name: [] for name in (*METHODS, *REMOVALS)}
    removal = attribution_plan("leave_one_out", len(names))
    for start in range(0, cases, BLOCK):
        part = slice(start, start + BLOCK)
        inputs = shown.inputs(form, request[part], place[part])
        x = pair_features(form, inputs)
        donated = pair_features(form, shown.inputs(form, donor[part], given[part]))
        typical, unknown = reference(form, inputs), form.network.features.neutral()
        for name, instead, plan in (
            *((method, typical, attribution_plan(method, len(names))) for method in METHODS),
            ("permuted", donated, removal),
            ("unknown", unknown, removal),
        ):
            scores = masked_scores(form, x, inputs, instead, plan.masks)
            found[name].append(np.asarray(attribute(scores, plan))[:, 0])
    by = {name: np.concatenate(parts) for name, parts in found.items()}
    first = {method: by[method].argmax(axis=1) for method in METHODS}
    shares, always = _judge(by, draws)
    best = names.index(max(names, key=lambda name: always[names.index(name)]))
    rest = {name: np.delete(values, best, axis=1) for name, values in by.items()}
    rest_shares, rest_always = _judge(rest, draws)
    others = [name for name in names if name != names[best]]
    return {
        "share": shares[METHOD]["permuted"],
        "cases": cases,
        "method": METHOD,
        "removal": "permuted",
        "shares": shares,
        "agreement": float(np.mean(first[METHODS[0]] == first[METHODS[1]])),
        "always": {"group": names[best], "share": always[best]},
        "besides": {
            "shares": rest_shares,
            "always": {"group": others[int(np.argmax(rest_always))], "share": max(rest_always)},
        },
        "named": {name: int((first[METHOD] == place).sum()) for place, name in enumerate(names)},
    }


def _judge(by: dict[str, np.ndarray], draws: np.ndarray) -> tuple[dict[str, dict[str, float]], list[float]]:
    """Shares by method and removal, and that of each group named in every case, permuted.

    Shapes: `by` contributions by method and drops by removal, [C, G]; `draws` [C] in [0, 1), which of the other groups.
    """
    cases, groups = by[METHOD].shape
    further = 1 + (draws * (groups - 1)).astype(int)

    def share(removal: str, group: np.ndarray) -> float:
        every, drop = np.arange(cases), by[removal]
        return float(np.mean(drop[every, group] > drop[every, (group + further) % groups]))

    shares = {method: {removal: share(removal, by[method].argmax(axis=1)) for removal in REMOVALS} for method in METHODS}
    return shares, [share("permuted", np.full(cases, group)) for group in range(groups)]
