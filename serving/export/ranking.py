"""The `ranking` model of a release: a user and candidate ids in, calibrated probabilities and a score out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from ranking.config import HEADS
from ranking.serving_form import RankingServingForm
from ranking.stored_rows import Precision
from serving.export.explain import EXPLAIN, explain_signature, ranking_specs
from serving.graphs.keras_weights import KerasWeights
from serving.graphs.request_history import ServingTables, choose_history, table_variable
from serving.graphs.request_words import Vocabulary, frozen, no_words, word_codes
from serving.graphs.vocabulary_tables import VocabularyTables
from serving.saved_model import write_saved_model

SIGNATURE = "serving_default"


class RankingModule(tf.Module):
    """Vocabulary, stored histories and a ranker as one function from candidates to probabilities.

    Args:
        tables: see `ServingTables`.
        ranker: built Keras model; `ranker(user_row [B], history_rows [B, L], candidate_rows [B, K], retrieval_scores
            [B, K], timestamp [B]) -> {"click", "purchase", "score"}`, each [B, K].
        precision: how its tables and weights are kept, see `serving.graphs.keras_weights`.
        context: column -> its words, index 0 is "", in the order of the ranker's context columns; where there are any, the
            ranker also takes `retrieval_ranks` (None) and codes [B, C]. A `RankingServingForm` takes what a request says of
            a profile beside them.

    Attributes:
        rank: the signature `serving_default`.
        explain: the signature of `serving.export.explain`; None for a ranker that is no `RankingServingForm`, of whose
            features nothing is known.

    Raises:
        ValueError: the vocabulary and the user tables are of different sizes.
    """

    def __init__(
        self,
        tables: ServingTables,
        ranker: Any,
        precision: Precision = "float32",
        context: Mapping[str, Sequence[str]] | None = None,
    ):
        super().__init__(name="ranking")
        self.users = VocabularyTables(tables.user_ids, "users")
        self.items = VocabularyTables(tables.item_ids, "items")
        if self.users.size != len(tables.history):
            raise ValueError(
                f"tables: user_ids has {self.users.size} rows, history {len(tables.history)}; take both from one run"
            )
        self.history = table_variable(tables.history, tf.int32, "user_history")
        self.ranker = KerasWeights(ranker, "ranker", precision)
        form = ranker if isinstance(ranker, RankingServingForm) else None
        moment, person = frozen(context or {}), frozen(tables.profile_words if form else {})
        self.rank = self._rank_signature(moment, person)
        self.explain = None if form is None else explain_signature(self, form, moment, person)
        basis = None if form is None else {"ranker": form.graph_basis(), "context": moment, "words": person}
        self._basis = lambda: basis  # held by a function, since a module would track it

    def graph_basis(self) -> dict[str, Any] | None:
        """See `serving.export.graphs_again.Reusable`."""
        return self._basis()

    def _rank_signature(self, moment: Vocabulary, person: Vocabulary) -> Callable:
        """`serving_default`.

        Shapes: user_id string [B]; recent_item_ids string [B, H], most recent first, "" = none; candidate_ids string
        [B, K]; retrieval_scores f32 [B, K]; timestamp int64 [B], UTC seconds; context and profile string [B, W], each
        "column=word", may be left out -> {every head of `HEADS` that the ranker answers, "score"}, f32 [B, K]. A candidate
        that is empty or unknown has probability 0 and score -1, and counts for nothing in the others' answers.
        """

        @tf.function(
            autograph=False,
            input_signature=ranking_specs(),
        )
        def rank(
            user_id,
            recent_item_ids,
            candidate_ids,
            retrieval_scores,
            timestamp,
            context=no_words(),  # noqa: B008
            profile=no_words(),  # noqa: B008
        ):
            user, candidates = self.users.rows(user_id), self.items.rows(candidate_ids)
            history = choose_history(self.items.rows(recent_item_ids), tf.gather(self.history, user))
            known = candidates > 0
            # Padding carries the lowest float, which must not meet arithmetic.
            inputs = [user, history, candidates, tf.where(known, retrieval_scores, 0.0), timestamp]
            if moment or person:
                inputs += [None, word_codes(context, moment, tf.size(user))]
            if person:
                inputs.append(word_codes(profile, person, tf.size(user)))
            answer = self.ranker(*inputs)
            probabilities = {head: tf.where(known, answer[head], 0.0) for head in HEADS if head in answer}
            return {**probabilities, "score": tf.where(known, answer["score"], -1.0)}

        return rank

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `ranking/<version>`."""
        explain = {} if self.explain is None else {EXPLAIN: self.explain}
        write_saved_model(self, folder, {SIGNATURE: self.rank, **explain})
