"""The `explain` signature of the `ranking` model: why a few candidates score as they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from ranking.explain import explain, group_names
from ranking.serving_form import RankingServingForm
from serving.graphs.keras_weights import KerasWeights
from serving.graphs.request_history import choose_history
from serving.graphs.request_words import Vocabulary, no_words, word_codes
from serving.graphs.vocabulary_tables import VocabularyTables

EXPLAIN = "explain"
SHOWN = (1, 10)
"""Items a warm-up request asks the reasons of: one card, and a page of them."""


class Ranking(Protocol):
    """What the signature shares with the module it belongs to."""

    users: VocabularyTables
    items: VocabularyTables
    history: tf.Variable
    ranker: KerasWeights


def ranking_specs(*more: tf.TensorSpec) -> list[tf.TensorSpec]:
    """What a signature of `ranking` takes, with `more` behind the retrieval scores."""
    return [
        tf.TensorSpec((None,), tf.string, "user_id"),
        tf.TensorSpec((None, None), tf.string, "recent_item_ids"),
        tf.TensorSpec((None, None), tf.string, "candidate_ids"),
        tf.TensorSpec((None, None), tf.float32, "retrieval_scores"),
        *more,
        tf.TensorSpec((None,), tf.int64, "timestamp"),
        tf.TensorSpec((None, None), tf.string, "context"),
        tf.TensorSpec((None, None), tf.string, "profile"),
    ]


def explain_signature(module: Ranking, form: RankingServingForm, moment: Vocabulary, person: Vocabulary) -> Callable:
    """The signature as a function that shares the module's vocabulary, histories and weights.

    Shapes: user_id string [B]; recent_item_ids string [B, H], most recent first, "" = none; candidate_ids string [B, K];
    retrieval_scores and retrieval_ranks f32 [B, K], the rank among all that was retrieved, from 1, 0 = unknown; timestamp
    int64 [B], UTC seconds; context and profile string [B, W], may be left out -> score f32 [B, K]; contributions and shares f32
    [B, K, G]; nearest_item_ids string and cosines f32 [B, K, M], "" and 0 where there is none; group_names string [B, G]
    and modality_names string [B, M], equal in every line. A candidate that is empty or unknown has score -1 and nothing
    else. For what they mean see `ranking.explain`.

    Args:
        moment, person: words of the context and of profiles, see `RankingModule`.
    """
    groups, modalities = list(group_names(form)), list(form.spec.modalities)

    @tf.function(
        autograph=False,
        input_signature=ranking_specs(tf.TensorSpec((None, None), tf.float32, "retrieval_ranks")),
    )
    def explain_ranking(
        user_id,
        recent_item_ids,
        candidate_ids,
        retrieval_scores,
        retrieval_ranks,
        timestamp,
        context=no_words(),  # noqa: B008
        profile=no_words(),  # noqa: B008
    ):
        user, candidates = module.users.rows(user_id), module.items.rows(candidate_ids)
        history = choose_history(module.items.rows(recent_item_ids), tf.gather(module.history, user))
        batch = tf.shape(user_id)[0]
        given = [user, history, candidates, retrieval_scores, retrieval_ranks, timestamp]
        given += [word_codes(context, moment, batch), word_codes(profile, person, batch)]
        found = module.ranker.run(explain, *given)
        return {
            "score": found["score"],
            "contributions": found["contributions"],
            "shares": found["shares"],
            "nearest_item_ids": module.items.ids(found["nearest_rows"]),
            "cosines": found["cosines"],
            "group_names": tf.tile(tf.constant([groups]), [batch, 1]),
            "modality_names": tf.tile(tf.constant([modalities], tf.string, (1, len(modalities))), [batch, 1]),
        }

    return explain_ranking


def explain_requests(user_id: bytes, item_ids: list[bytes], words: list[bytes]) -> list[dict[str, np.ndarray]]:
    """Warm-up requests at real shapes, for a known user and for an unknown one.

    Args:
        user_id: of a known user. item_ids: at least as many as the most that is shown. words: a profile, "column=word",
            that the unknown user brings.
    """
    requests = []
    for count in SHOWN:
        for user, said in ((user_id, []), (b"", words)):
            candidates = np.empty((1, count), object)
            candidates[0, :] = item_ids[:count]
            requests.append(
                {
                    "user_id": np.array([user], object),
                    "recent_item_ids": np.empty((1, 0), object),
                    "candidate_ids": candidates,
                    "retrieval_scores": np.linspace(1, 0, count, dtype=np.float32)[None, :],
                    "retrieval_ranks": np.arange(1, count + 1, dtype=np.float32)[None, :],
                    "timestamp": np.full(1, 1_700_000_000, np.int64),
                    "context": np.empty((1, 0), object),
                    "profile": np.array(said, object).reshape(1, len(said)),
                }
            )
    return requests
