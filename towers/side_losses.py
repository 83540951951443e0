"""Terms beside the main loss, each with a weight of its own; a weight of 0 costs nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from data.schema import Schema
from towers.adversarial import adversarial_loss
from towers.alignment import info_nce_loss, inner_product_loss, masked_mean, reconstruction_loss
from towers.constant_table import constant_table
from towers.distillation import Teacher, distillation_loss
from towers.fusion import unit_length
from towers.item_heads import category_loss, sentiment_loss
from towers.losses import in_batch_softmax_loss
from towers.ranker_distillation import RankedLists, list_distillation_loss
from towers.side_weights import SideWeights


class SideLosses(keras.layers.Layer):
    """The terms that are on, and the weights and tables that they need.

    A term that the data has nothing for (alignment with a single modality, categories of items without any) is left out.

    Args:
        weights: see `SideWeights`.
        schema: of the towers. width: D.
        projected: components R of each modality, as its projection standardises it.
        categories: [N + 1, K] int32 codes, 0 = none. sentiment, known: [N + 1]. teacher: vectors to learn from.
        ranked: what a ranker says of some candidates of every user.

    Attributes:
        terms: {name: weight} of the terms computed. tables: variables that are not trained.
        trackers: their means over an epoch, logged as `side/<name>`. reads_items: whether a term looks at more than the
            vectors of the main loss.

    Raises:
        ValueError: distillation without a teacher, or one of another catalogue; likewise lists of a ranker.
    """

    def __init__(
        self,
        weights: SideWeights,
        schema: Schema,
        width: int,
        projected: Mapping[str, int],
        *,
        categories: np.ndarray | None = None,
        sentiment: np.ndarray | None = None,
        known: np.ndarray | None = None,
        teacher: Teacher | None = None,
        ranked: RankedLists | None = None,
    ):
        super().__init__(name="side_losses")
        self.settings, self.modalities = weights, tuple(schema.modalities)
        self.pairs = tuple(itertools.combinations(self.modalities, 2))
        self.terms, self.tables = dict(weights.terms), dict[str, keras.Variable]()
        classes = 0 if categories is None else int(categories.max(initial=0))
        possible = {
            "alignment": bool(self.pairs),
            "inner_product": bool(self.pairs),
            "reconstruction": bool(self.modalities),
            "per_modality": bool(self.modalities),
            "category": classes > 0,
            "sentiment": known is not None and bool(known.any()),
        }
        self.terms = {name: weight for name, weight in self.terms.items() if possible.get(name, True)}
        if "reconstruction" in self.terms:
            self.decoders = {name: self._head(projected[name], width, f"decode_{name}") for name in self.modalities}
        if "category" in self.terms and categories is not None:
            self._table("categories", categories, "int32")
            held = np.stack([(categories == code).any(axis=1)[1:].mean() for code in range(1, classes + 1)])
            self.category_head = self._head(classes, width, "category")
            self.category_head.bias.assign(np.log(np.clip(held, 1e-6, 1 - 1e-6) / np.clip(1 - held, 1e-6, 1)))
        if "sentiment" in self.terms:
            self._table("sentiment", sentiment, "float32")
            self._table("known", known, "bool")
            self.sentiment_head = self._head(1, width, "sentiment")
        if "distillation" in self.terms:
            self._add_teacher(teacher, schema)
        if "ranker" in self.terms:
            if ranked is None or len(ranked.rows) != schema.user_rows:
                received = None if ranked is None else len(ranked.rows)
                raise ValueError(
                    f"ranked: the ranker's term needs lists of {schema.user_rows} user rows, received {received}; name a "
                    "finished run in retrieval.distill_ranker"
                )
            self._table("ranked_rows", ranked.rows, "int32")
            self._table("ranked_scores", ranked.scores, "float32")
        self.reads_items = not set(self.terms) <= {"adversarial", "distillation", "ranker"}
        self.trackers = {name: keras.metrics.Mean(name=f"side/{name}") for name in self.terms}
        self.built = True

    def _head(self, units: int, width: int, name: str) -> keras.layers.Dense:
        head = keras.layers.Dense(units, name=name)
        head.build((None, width))
        return head

    def _table(self, name: str, values: Any, dtype: str) -> None:
        self.tables[name] = constant_table(self, values, dtype, name)

    def _add_teacher(self, teacher: Teacher | None, schema: Schema) -> None:
        sizes = None if teacher is None else (len(teacher.items), len(teacher.users))
        if teacher is None or sizes != (schema.item_rows, schema.user_rows):
            raise ValueError(
                f"teacher: distillation needs vectors of {schema.item_rows} item rows and {schema.user_rows} user rows, "
                f"received {sizes}; name towers of this dataset in retrieval.side.teachers"
            )
        self._table("teacher_items", teacher.items, "float32")
        self._table("teacher_users", teacher.users, "float32")

    def call(self, item: dict, batch: dict, user_vectors=None):
        """Every term that is on.

        Args:
            item: of the batch's targets: `fused` [S, D], `tokens` [S, 1 + M, D], `shown` [S, 1 + M] bool (after
                dropout), `present` [S, M] bool, `features` {m: [S, R_m]}, standardised.
            batch: `queries` [S, D], `candidates` [S, D] (as in the main loss), `rows` [S], `user` [S], `log_q` [S],
                `weights` [S], `scale`; for the ranker's term `ranked` [R, K, D], items of the first R users' lists.
            user_vectors: [S, D] id vectors of the users, for `l2`; None = there are none.

        Returns: {name: scalar}, not yet weighted.
        """
        forms = {
            "alignment": lambda: self._over_pairs(item, batch, contrast=True),
            "inner_product": lambda: self._over_pairs(item, batch, contrast=False),
            "reconstruction": lambda: self._reconstruction(item),
            "per_modality": lambda: self._per_modality(item, batch),
            "category": lambda: category_loss(
                self.category_head(item["fused"]), ops.take(self.tables["categories"], batch["rows"], axis=0)
            ),
            "sentiment": lambda: sentiment_loss(
                self.sentiment_head(item["fused"])[:, 0],
                ops.take(self.tables["sentiment"], batch["rows"]),
                known=ops.logical_and(ops.take(self.tables["known"], batch["rows"]), batch["weights"] > 0),
            ),
            "adversarial": lambda: adversarial_loss(
                batch["queries"],
                batch["candidates"],
                epsilon=self.settings.adversarial_epsilon,
                masked=_padding(batch["weights"]),
                **_softmax_inputs(batch),
            ),
            "l2": lambda: self._l2(item, batch, user_vectors),
            "distillation": lambda: self._distillation(batch),
            "ranker": lambda: self._ranker(batch),
        }
        return {name: forms[name]() for name in self.terms}

    def _over_pairs(self, item, batch, contrast: bool):
        real, losses = batch["weights"] > 0, []
        for left, right in self.pairs:
            first, second = self.modalities.index(left) + 1, self.modalities.index(right) + 1
            both = ops.logical_and(item["shown"][:, first], item["shown"][:, second])
            both = ops.logical_and(both, real)
            tokens = item["tokens"][:, first], item["tokens"][:, second]
            if contrast:
                temperature = self.settings.alignment_temperature
                losses.append(info_nce_loss(*tokens, rows=batch["rows"], both=both, temperature=temperature))
            else:
                losses.append(inner_product_loss(*tokens, both=both))
        return sum(losses) / len(losses)

    def _reconstruction(self, item):
        # A modality that dropout has hidden is to be told from the others: its real presence counts here.
        losses = [
            reconstruction_loss(
                self.decoders[name](item["fused"]),
                ops.stop_gradient(item["features"][name]),
                present=item["present"][:, place],
            )
            for place, name in enumerate(self.modalities)
        ]
        return sum(losses) / len(losses)

    def _per_modality(self, item, batch):
        losses = []
        for place in range(1, 1 + len(self.modalities)):
            shown = ops.logical_and(item["shown"][:, place], batch["weights"] > 0)
            inputs = _softmax_inputs(batch)
            inputs["weights"] = inputs["weights"] * ops.cast(shown, inputs["weights"].dtype)
            vectors = unit_length(item["tokens"][:, place])
            masked = ops.logical_and(ops.logical_not(shown)[None, :], ops.ones_like(shown)[:, None])
            losses.append(in_batch_softmax_loss(batch["queries"], vectors, masked=masked, **inputs))
        return sum(losses) / len(losses)

    def _l2(self, item, batch, user_vectors):
        total = masked_mean(ops.sum(ops.square(item["fused"]), axis=-1), batch["weights"])
        if user_vectors is not None:
            total = total + masked_mean(ops.sum(ops.square(user_vectors), axis=-1), batch["weights"])
        return total

    def _distillation(self, batch):
        users = ops.take(self.tables["teacher_users"], batch["user"], axis=0)
        items = ops.take(self.tables["teacher_items"], batch["rows"], axis=0)
        return distillation_loss(
            batch["scale"] * ops.matmul(batch["queries"], ops.transpose(batch["candidates"])),
            ops.matmul(users, ops.transpose(items)),
            rows=batch["rows"],
            weights=batch["weights"],
            temperature=self.settings.teacher_temperature,
        )

    def ranked_rows(self, user):
        """The lists of some of a batch's users, few enough that their items are no more than `rows`. [S] -> [R, K]"""
        lists = max(1, user.shape[0] // self.tables["ranked_rows"].shape[1])
        return ops.take(self.tables["ranked_rows"], user[:lists], axis=0)

    def _ranker(self, batch):
        lists = batch["ranked"].shape[0]
        return list_distillation_loss(
            batch["scale"] * ops.einsum("rd,rkd->rk", batch["queries"][:lists], batch["ranked"]),
            ops.take(self.tables["ranked_scores"], batch["user"][:lists], axis=0),
            mask=ops.take(self.tables["ranked_rows"], batch["user"][:lists], axis=0) > 0,
            weights=batch["weights"][:lists],
            temperature=self.settings.ranker_temperature,
        )


def _softmax_inputs(batch: dict) -> dict:
    names = {"candidate_rows": "rows", "log_q": "log_q", "scale": "scale", "weights": "weights"}
    return {argument: batch[name] for argument, name in names.items()}


def _padding(weights):
    """Columns of the last batch's padding. [S] -> [S, S] bool"""
    return ops.logical_and((weights == 0)[None, :], ops.ones_like(weights[:, None], dtype="bool"))
