"""Why an item scores as it does: the share of every feature group in its score, and what it is most like in the history."""

from __future__ import annotations

import numpy as np
from keras import ops

from ranking.attribution import attribute, attribution_plan, normalised_shares
from ranking.nearest_history import nearest_history
from ranking.serving_form import RankingServingForm

METHOD = "leave_one_out"
"""What passes the deletion test best (`pipeline.evaluation.deletion_test`), and the cheapest."""


def explain(
    form: RankingServingForm,
    user_row,
    history_rows,
    candidate_rows,
    retrieval_scores,
    retrieval_ranks,
    timestamp,
    context=None,
    profile=None,
    *,
    method: str = METHOD,
):
    """The share of every feature group in the score of a few candidates, and the nearest items of the history.

        contribution_g = score(x) - score(x with the columns of group g taken from r)         (leave one group out)
        share_g = contribution_g / sum_h |contribution_h|

    r is the reference: the mean features of a typical candidate for the same user at the same time (`reference`). A group
    that is missing altogether is no reference: where every item of a log has a date, "without a date" is a state in which
    the ranker was never trained, and taking the age of a new item away would seem to help it. All masks are answered by
    one batched call, with the features worked out once; the same request gives the same numbers.

    A positive contribution speaks for the item, a negative one against it. Where the score is additive over groups, the
    contributions are each group's own term and sum to score(x) - score(r); elsewhere they need not, since of two groups
    that say the same, neither alone is missed.

    Paper: Covert, Lundberg and Lee, "Explaining by Removing: A Unified Framework for Model Explanation", JMLR 2021. Of what
    was tried beside it on the demo, integrated gradients (Sundararajan, Taly and Yan, ICML 2017), Shapley values over
    balanced permutations and the mean of a group's first and last place passed the deletion test no better and need 2 to 10
    times the masks; a reference of which nothing is known passed worse; the mean over what was retrieved in training
    passed better by a few hundredths, but would have to be kept in every release.

    Args:
        form: the ranker as it is served.
        user_row [B], history_rows [B, L], candidate_rows [B, K], retrieval_scores [B, K], timestamp [B], context [B, C]
            or None, profile [B, P] or None: as the form takes them.
        retrieval_ranks: [B, K], since the candidates shown are not all that was retrieved; 0 = unknown, beyond them all.
        method: see `ranking.attribution`.

    Returns:
        {"score" [B, K], "contributions" [B, K, G] and "shares" [B, K, G] in the order of `group_names`, "nearest_rows"
        int [B, K, M] and "cosines" [B, K, M] in the order of `form.spec.modalities`}. Padding has score -1 and nothing
        else but zeros.
    """
    exists = candidate_rows > 0
    beyond = ops.zeros_like(retrieval_ranks) + (form.config.retrieved + 1.0)
    ranks = ops.where(ops.logical_and(exists, retrieval_ranks > 0), retrieval_ranks, beyond)
    given = (user_row, history_rows, candidate_rows, retrieval_scores, timestamp, ranks, context, profile)
    inputs = form.request_inputs(*given)
    plan = attribution_plan(method, len(group_names(form)))
    x = pair_features(form, inputs)
    contributions = attribute(masked_scores(form, x, inputs, reference(form, inputs), plan.masks), plan)
    rows, cosines = nearest_history(form.tokens, form.present, inputs["history"], candidate_rows)
    return {
        "score": form.answer(x, candidate_rows, inputs["retrieval_scores"])["score"],
        "contributions": contributions,
        "shares": normalised_shares(contributions),
        "nearest_rows": rows,
        "cosines": cosines,
    }


def pair_features(form: RankingServingForm, inputs):
    """Features of the candidates of `RankingServingForm.request_inputs`. [B, K, X]"""
    return form.network.features(form.tokens, form.present, None, inputs)


def group_names(form: RankingServingForm) -> tuple[str, ...]:
    """Names of the feature groups in the order of axis G."""
    return tuple(form.network.features.groups)


def reference(form: RankingServingForm, inputs):
    """Mean features of a typical candidate for the same users at the same times. [B, 1, X]

    Its content, ids, attributes, popularity, price and age are the means over `typical_rows`; its retrieval score is the
    mean of training and its rank the middle one.
    """
    rows = form.fitted.typical
    like = ops.zeros_like(ops.cast(inputs["user"], "float32"))[:, None] + np.zeros((1, rows.shape[0]), np.float32)
    asked = {
        **inputs,
        "candidates": ops.cast(like, inputs["candidates"].dtype) + ops.cast(rows, inputs["candidates"].dtype),
        "retrieval_scores": like,
        "retrieval_ranks": like + (form.config.retrieved + 1.0) / 2.0,
    }
    return ops.mean(pair_features(form, asked), axis=1, keepdims=True)


def masked_scores(form: RankingServingForm, x, inputs, replacement, masks: np.ndarray):
    """Scores where some groups of features are taken from elsewhere.

        x_0 = m x + (1 - m) replacement, column by column, m of the column's group

    Args:
        x: [B, K, X] features of the candidates of `inputs`. replacement: [B or 1, K or 1, X].
        masks: [S, G] in the order of `group_names`.

    Returns: [B, S, K].
    """
    features = form.network.features
    masks = np.asarray(masks, np.float32)
    kept = masks[:, features.group_of_column][None, :, None, :]  # [1, S, 1, X]
    mixed = x[:, None] * kept + replacement[:, None] * (1.0 - kept)
    # The retrieval score counts beside the features too, as far as the form blends it in.
    kept = masks[:, group_names(form).index("retrieval")][None, :, None]
    standardised = inputs["retrieval_scores"][:, None] * kept
    standardised = standardised + replacement[:, None, :, features.score_column] * (1.0 - kept)
    # Candidates are answered one by one, so every mask's copies can stand in one long list.
    batch, shown, count = ops.shape(x)[0], ops.shape(x)[1], len(masks)
    mixed = ops.reshape(mixed, (batch, count * shown, features.width))
    standardised = ops.reshape(standardised, (batch, count * shown))
    rows = ops.tile(inputs["candidates"], (1, count))
    return ops.reshape(form.answer(mixed, rows, standardised)["score"], (batch, count, shown))
