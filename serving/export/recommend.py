"""The `recommend` model of a release: retrieve, filter, rank and re-rank in one graph, from a user id to a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from ranking.adjustments import bucket_shares
from ranking.config import HEADS
from ranking.diversity import content_tokens
from ranking.exploration import posterior_std
from ranking.policy import Policy
from ranking.rerank import Candidates, Page, rerank
from ranking.serving_form import RankingServingForm
from ranking.stored_rows import Precision
from serving.export.retrieval_parts import RetrievalParts
from serving.graphs.keras_weights import KerasWeights
from serving.graphs.policy_tables import ITEM_CODES, PolicyTables
from serving.graphs.request_history import ServingTables, table_variable
from serving.graphs.request_policy import chosen_weights, names_weight, uniforms
from serving.graphs.request_words import frozen, no_words, word_codes
from serving.index.allowed_items import search_allowed
from serving.index.index import CandidateIndex, checked_k
from serving.saved_model import write_saved_model

SIGNATURE = "serving_default"
STRINGS = tf.TensorSpec((None, None), tf.string)


def sorted_ranks(scores: tf.Tensor) -> tf.Tensor:
    """The rank of each score in a falling line, from 1, equals sharing the better one: f32 [B, K] -> f32 [B, K].

    Example:
        >>> sorted_ranks(tf.constant([[3.0, 2.0, 2.0, 1.0]])).numpy().tolist()
        [[1.0, 2.0, 2.0, 4.0]]
    """
    return 1.0 + tf.cast(tf.searchsorted(-scores, -scores), tf.float32)


@dataclasses.dataclass(frozen=True)
class RecommendSettings:
    """What a release's `recommend` does unless a request says otherwise.

    Attributes:
        facts: what policies look at. policy: its weights. candidates: how many items are ranked. k: of warm-up pages.
        now: UTC seconds of the requests that tell which scores are expected of the release; 0 = unknown.
    """

    facts: PolicyTables
    policy: Policy = dataclasses.field(default_factory=Policy)
    candidates: int = 200
    k: int = 10
    now: int = 0


class RecommendModule(RetrievalParts):
    """Retrieval and ranking with one copy of what they share, and the policy between them and the page.

    Args:
        tables, user_tower, index, linear_history: see `RetrievalParts`; the index must be of core operations where the
            stock TF Serving image is to load the model.
        ranker: see `RankingModule`; a `RankingServingForm` lends its content tokens to diversity, for any other model
            that is by the index's embeddings.
        settings: see `RecommendSettings`.
        precision: how tables and weights are kept, see `RetrievalParts` and `serving.graphs.keras_weights`.

    Raises:
        ValueError: tables, index or facts of different sizes.
    """

    def __init__(
        self,
        tables: ServingTables,
        user_tower: Any,
        index: CandidateIndex,
        ranker: Any,
        settings: RecommendSettings,
        linear_history: np.ndarray | None = None,
        precision: Precision = "float32",
    ):
        super().__init__(tables, user_tower, index, linear_history, name="recommend", precision=precision)
        facts = settings.facts
        if len(facts.counts) != index.item_rows:
            raise ValueError(
                f"settings.facts: need one line an item row, received {len(facts.counts)} for {index.item_rows}; take all "
                "from one run"
            )
        self.ranker = KerasWeights(ranker, "ranker", precision)
        self.takes_ranks = isinstance(ranker, RankingServingForm)
        modalities = list(ranker.spec.modalities) if hasattr(ranker, "spec") else []
        self.content = tuple(place for place, name in enumerate(modalities) if name != "behaviour")
        self.item_codes = table_variable(facts.item_codes(), tf.int32, "item_codes")
        self.released = table_variable(np.asarray(facts.released, np.int64), tf.int64, "item_released")
        self.user_group = None
        if facts.user_group is not None:
            self.user_group = table_variable(facts.user_group, tf.int32, "user_group")
            self.group_floors = tf.Variable(np.asarray(facts.group_floors, np.float32), trainable=False, name="group_floors")
        # What is learnt and counted is a variable: the graph is that of other nights too.
        weights = np.array(list(settings.policy.weights().values()), np.float32)
        self.policy = tf.Variable(weights, trainable=False, name="policy")
        self.bucket_prior = tf.Variable(facts.bucket_prior(), trainable=False, name="bucket_prior")
        context = frozen(facts.context)
        basis = ranker.graph_basis() if isinstance(ranker, RankingServingForm) else None
        # Held by functions, since a module would track them.
        self._constants, self._ranker_basis = lambda: (settings.candidates, context), lambda: basis
        self.recommend = self._recommend_signature()

    def graph_basis(self) -> dict[str, Any] | None:
        """See `serving.export.graphs_again.Reusable`."""
        retrieval, ranker = super().graph_basis(), self._ranker_basis()
        if retrieval is None or ranker is None:
            return None
        candidates, context = self._constants()
        return {**retrieval, "ranker": ranker, "candidates": candidates, "context": context}

    def _recommend_signature(self) -> Callable:
        """`serving_default`.

        Shapes: user_id string [B]; recent_item_ids string [B, H], most recent first, "" = none; context string [B, W], each
        "column=word", what is not said is unknown; k int32 scalar, the page; candidates int32 scalar, how
        many are ranked, 0 = the release's own number, at least k; exclude_item_ids string [B, E], "" = none;
        allow_item_ids string [B, A], the only items that may be answered, a line of "" = all; policy_names string [P] and
        policy_values f32 [P], weights of `ranking.policy.Policy` that differ from the release's; timestamp int64 [B], UTC
        seconds, 0 = unknown; seed int64 [B], what a line's exploration follows from; profile string [B, W], each
        "column=word", may be left out.

        Answer, each [B, k], in the order of the page: item_ids string, "" where fewer items are left; scores f32, of the
        ranker with the policy's adjustments, -1 there; every head of `HEADS` f32, 0 where it was not trained;
        propensities f32, see `ranking.page`; retrieval_scores f32 and retrieval_ranks int32 from 1, 0 there. Beside them
        query f32 [B, D].
        """

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec((None,), tf.string, "user_id"),
                tf.TensorSpec(STRINGS.shape, tf.string, "recent_item_ids"),
                tf.TensorSpec(STRINGS.shape, tf.string, "context"),
                tf.TensorSpec((), tf.int32, "k"),
                tf.TensorSpec((), tf.int32, "candidates"),
                tf.TensorSpec(STRINGS.shape, tf.string, "exclude_item_ids"),
                tf.TensorSpec(STRINGS.shape, tf.string, "allow_item_ids"),
                tf.TensorSpec((None,), tf.string, "policy_names"),
                tf.TensorSpec((None,), tf.float32, "policy_values"),
                tf.TensorSpec((None,), tf.int64, "timestamp"),
                tf.TensorSpec((None,), tf.int64, "seed"),
                tf.TensorSpec(STRINGS.shape, tf.string, "profile"),
            ],
        )
        def recommend(
            user_id,
            recent_item_ids,
            context,
            k,
            candidates,
            exclude_item_ids,
            allow_item_ids,
            policy_names,
            policy_values,
            timestamp,
            seed,
            profile=no_words(),  # noqa: B008
        ):
            usual, vocabulary = self._constants()
            # The names of these steps are what a trace tells them by.
            with tf.name_scope("request"):
                weights = chosen_weights(policy_names, policy_values, tf.convert_to_tensor(self.policy))
                user, recent = self.users.rows(user_id), self.items.rows(recent_item_ids)
                excluded = self.items.rows(exclude_item_ids)
                k = checked_k(k)
                count = tf.maximum(tf.where(candidates > 0, candidates, usual), k)
                history, said = self.chosen_history(user, recent), self.said_profile(user, profile)
            with tf.name_scope("query"):
                queries = self.queries(user, recent, said)
            with tf.name_scope("retrieve"):
                with tf.name_scope("filter"):
                    hidden = self.hidden_rows(user, recent, excluded)
                rows, scores = self._search(queries, count, hidden, allow_item_ids)
            with tf.name_scope("rank"):
                known = rows > 0
                inputs = [user, history, rows, tf.where(known, scores, 0.0), timestamp]
                words = word_codes(context, vocabulary, tf.size(user))
                if self.takes_ranks:
                    inputs += [sorted_ranks(scores), words, said]
                elif vocabulary:
                    inputs += [None, words]
                answer = self.ranker(*inputs)
            with tf.name_scope("policy"):
                if self.user_group is not None:
                    weights["group_share"] = self._floors(user, policy_names, weights["group_share"])
                given = self._candidates(rows, answer, known, history, timestamp, uniforms(seed, k))
                page = rerank(given, weights, k)
            with tf.name_scope("page"):
                return {**self._page(page, answer, scores), "query": queries}

        return recommend

    def _search(self, queries, count, hidden, allow_item_ids):
        """The best rows of the whole catalogue, or of a line's own list where it has one."""
        listed = tf.reduce_any(allow_item_ids != "", axis=1)

        def everything():
            return tuple(self.index.search(queries, count, hidden))

        def by_list():
            own = search_allowed(self.index, queries, count, hidden, self.items.rows(allow_item_ids))
            rest = tf.cond(tf.reduce_all(listed), lambda: own, everything)
            return tuple(tf.where(listed[:, None], a, b) for a, b in zip(own, rest, strict=True))

        return tf.cond(tf.reduce_any(listed), by_list, everything)

    def _floors(self, user, policy_names, share):
        floors = tf.gather(self.group_floors, tf.gather(self.user_group, user))
        return tf.where(names_weight(policy_names, "group_share"), share, tf.maximum(floors, share))

    def _candidates(self, rows, answer, known, history, timestamp, chance) -> Candidates:
        codes = dict(zip(ITEM_CODES, tf.unstack(tf.gather(self.item_codes, rows), axis=2), strict=True))
        released = tf.gather(self.released, rows)
        events = tf.cast(codes["events"], tf.float32)
        past = tf.gather(self.item_codes, history)[:, :, ITEM_CODES.index("bucket")]
        return Candidates(
            rows=rows,
            scores=tf.where(known, answer["score"], -1.0),
            age_days=tf.cast(timestamp[:, None] - released, tf.float32) / 86_400.0,
            dated=(released > 0) & (timestamp > 0)[:, None],
            log_popularity=tf.math.log1p(events),
            creator=codes["creator"],
            category=codes["category"],
            protected=codes["protected"] > 0,
            bucket=codes["bucket"],
            target=bucket_shares(past, history > 0, tf.convert_to_tensor(self.bucket_prior)),
            vectors=self._vectors(rows),
            deviation=posterior_std(answer["click"], events),
            uniforms=chance,
        )

    def _vectors(self, rows):
        if not self.content:
            vectors = self.index.embeddings(rows)
            return tf.math.l2_normalize(vectors, axis=2)[:, None]
        drawn = lambda form, rows: content_tokens(form.tokens, form.present, self.content, rows)  # noqa: E731
        return self.ranker.run(drawn, rows)

    def _page(self, page: Page, answer: Mapping[str, tf.Tensor], scores: tf.Tensor) -> dict[str, tf.Tensor]:
        found = page.places >= 0

        def shown(values, nothing):
            """Values of the candidates in the order of the page."""
            more = tf.pad(values, [[0, 0], [0, 1]], constant_values=nothing)
            return tf.gather(more, tf.where(found, page.places, tf.shape(values)[1]), batch_dims=1)

        return {
            "item_ids": self.items.ids(page.rows),
            "scores": page.scores,
            "propensities": page.propensities,
            "retrieval_scores": shown(scores, 0.0),
            "retrieval_ranks": page.places + 1,
            **{head: shown(answer.get(head, tf.zeros_like(scores)), 0.0) for head in HEADS},
        }

    def save(self, folder: str | Path) -> None:
        """Writes the SavedModel into a new folder, normally `recommend/<version>`."""
        write_saved_model(self, folder, {SIGNATURE: self.recommend})
