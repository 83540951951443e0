"""What the ranker looks at: content of the user's recent items against the candidate's, sides, and context."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.stored_rows import take_rows
from ranking.tables import ITEM_NUMBERS, SideTables

MASKED_LOGIT = -1e9
GROUPS = ("ids", "profile", "attributes", "retrieval", "popularity", "price", "recency", "context")
"""Groups of features beside the modalities, in their one order."""
SIMILARITIES, MOMENT = 6, 5
"""Columns that a modality begins with, and those of hour, weekday and length of the history that the context begins with."""


class PairFeatures(keras.layers.Layer):
    """One vector per user and candidate; nothing in it depends on the other candidates.

    Per modality, between the candidate's token c and the history's tokens h_l (absent ones masked):
        cos_l = <c, h_l>;  a = softmax_l(tau cos_l + p_l);  u = sum_l a_l h_l
        features: max_l cos_l, <c, u>, mean_l cos_l, cos_1, present, share of the history present, c, u, c * u
    with tau and the recency bias p_l learned per modality (target attention as in DIN, Zhou et al., KDD 2018), and h_1
    what was chosen last. Beside them: id, profile, attribute and context embeddings; for each attribute the share of the
    history with the candidate's value, and whether the latest item has it; retrieval score and log rank; `ITEM_NUMBERS`
    and decayed popularity as of the request (`ranking.popularity`); popularity and price against the history's; age of
    the candidate; hour and weekday; how much history there is.

    Attributes:
        groups: group -> ranges of columns, in the order of the columns: one group per modality, then those of
            `GROUPS` that the data has; every column is in exactly one.
        width: X. score_column: where the standardised retrieval score stands.
        numbers: columns that mean something each alone, similarities, shares, counts, ages and the clock, as opposed to the
            coordinates of vectors: what trees ask about.

    Shapes: see `call`.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config = spec, config
        schema, count, length = spec.schema, len(spec.modalities), config.history_length
        self.side = SideTables(spec, len(config.popularity_half_lives), name="side")
        self.temperature = self.add_weight(
            shape=(count,), initializer=keras.initializers.Constant(4.0), name="temperature"
        )
        self.recency = self.add_weight(shape=(length, count), initializer="zeros", name="recency")
        rows = {"user_id": (schema.user_rows, config.id_width), "item_id": (schema.item_rows, config.id_width)}
        columns = (("profile", schema.profile), ("attribute", schema.attributes), ("context", spec.context))
        for kind, sizes in columns:
            rows |= {f"{kind}_{name}": (size, config.side_width) for name, size in sizes.items()}
        # Ids start at zero and profile codes small: what training never touches then says nothing.
        self.embeddings = {
            name: self.add_weight(
                shape=shape,
                initializer=keras.initializers.RandomNormal(stddev=0.01, seed=config.seed + place),
                name=name,
            )
            for place, (name, shape) in enumerate(rows.items())
        }
        side = config.side_width
        widths = {name: SIMILARITIES + 3 * config.token_width for name in spec.modalities} | {
            "ids": 2 * config.id_width,
            "profile": side * len(schema.profile),
            "attributes": (side + 2) * len(schema.attributes),
            "retrieval": 2,
            "popularity": 3 + len(config.popularity_half_lives),
            "price": 3,
            "recency": 2,
            "context": MOMENT + side * len(spec.context),
        }
        widths = {name: width for name, width in widths.items() if width}
        ends = np.cumsum(list(widths.values()))
        self.groups = {
            name: [(int(end) - width, int(end))] for (name, width), end in zip(widths.items(), ends, strict=True)
        }
        self.width = int(ends[-1])
        self.score_column = self.groups["retrieval"][0][0]
        vectors = {**dict.fromkeys(spec.modalities, slice(SIMILARITIES, None)), "ids": slice(None), "profile": slice(None)}
        vectors |= {"attributes": slice(0, side * len(schema.attributes)), "context": slice(MOMENT, None)}
        kept = np.ones(self.width, bool)
        for name, ranges in self.groups.items():
            for first, end in ranges:
                kept[first:end][vectors.get(name, slice(0))] = False
        self.numbers = np.flatnonzero(kept)
        self.group_of_column = np.repeat(np.arange(len(widths)), list(widths.values())).astype(np.int32)
        self.built = True

    def call(self, tokens, present, items, inputs, id_kept=None, group_mask=None, as_of=None):
        """Features of every candidate.

        Args:
            tokens [U, M, D], present [U, M]: of the items that the positions below point to.
            items [U]: rows of those items, or None when positions are rows.
            inputs: `user` [B] rows; `history` [B, L], `candidates` [B, K] positions; `retrieval_scores`,
                `retrieval_ranks` [B, K]; `timestamp` [B] UTC seconds, 0 = unknown; `context` [B, C] codes, if C > 0;
                `profile` [B, P] codes, not 0 where they stand for the user's own, or None, or left out.
            id_kept: {"user": [B], "item": [B, K]} of 0 and 1 in training; a dropped id uses row 0.
            group_mask: [G] or [B, G] in the order of `groups`: 1 = as it is, 0 = what a user and an item have of whom
                nothing is known.
            as_of: [B] UTC seconds, up to when popularity is known; None = until the request.

        Returns:
            [B, K, X] f32.
        """
        history, candidates = inputs["history"], inputs["candidates"]
        history_rows = history if items is None else ops.take(items, history, axis=0)
        rows = candidates if items is None else ops.take(items, candidates, axis=0)
        exists = ops.cast(history_rows > 0, "float32")
        shape = ops.shape(rows)
        across = lambda x: ops.broadcast_to(ops.expand_dims(x, 1), (shape[0], shape[1], x.shape[-1]))  # noqa: E731
        parts = self._content(tokens, present, history, candidates, exists)
        parts |= self._identities(inputs, rows, history_rows, exists, across, id_kept)
        parts |= self._numbers(inputs, rows, history_rows, exists, inputs["timestamp"] if as_of is None else as_of)
        parts["context"] = self._context(inputs, exists, across)
        x0 = ops.concatenate([column for group in self.groups for column in parts[group]], axis=-1)
        if group_mask is None:
            return x0
        neutral = self.neutral()
        kept = ops.take(ops.cast(group_mask, "float32"), self.group_of_column, axis=-1)
        kept = kept if len(kept.shape) == 1 else kept[:, None]
        return x0 * kept + neutral * (1.0 - kept)

    def neutral(self):
        """Features of a user and an item of whom nothing is known, without a time. [1, 1, X]"""
        count, scores = len(self.spec.modalities), np.full((1, 1), self.spec.score_center, np.float32)
        nothing = np.zeros((1, 1), np.int32)
        inputs = {
            "user": nothing[0],
            "history": np.zeros((1, 2), np.int32),
            "candidates": nothing,
            "retrieval_scores": scores,
            "retrieval_ranks": np.full((1, 1), (self.config.retrieved + 1) / 2, np.float32),
            "timestamp": nothing[0],
            "context": np.zeros((1, len(self.spec.context)), np.int32),
        }
        inputs = {name: ops.convert_to_tensor(values) for name, values in inputs.items()}
        return self.call(ops.zeros((1, count, self.config.token_width)), ops.zeros((1, count)), None, inputs)

    def _content(self, tokens, present, history, candidates, exists):
        if not self.spec.modalities:
            return {}
        length = history.shape[1]
        theirs, ours = take_rows(tokens, candidates), take_rows(tokens, history)  # [B, K, M, D], [B, L, M, D]
        there = take_rows(present, candidates)
        usable = take_rows(present, history) * exists[..., None]  # [B, L, M]
        cosine = ops.einsum("bkmd,blmd->bklm", theirs, ours)
        logits = cosine * self.temperature + self.recency[:length]
        logits = ops.where(usable[:, None] > 0, logits, MASKED_LOGIT)
        attention = ops.softmax(logits, axis=2) * usable[:, None]  # all masked: softmax is uniform, the product 0
        attended = ops.einsum("bklm,blmd->bkmd", attention, ours)
        highest = ops.max(ops.where(usable[:, None] > 0, cosine, -1.0), axis=2)
        any_usable = ops.max(usable, axis=1)[:, None]
        known = ops.sum(usable, axis=1)[:, None]
        share = known / ops.maximum(ops.sum(exists, axis=1)[:, None, None], 1.0)
        similar = ops.stack(
            [
                highest * any_usable * there,
                ops.sum(theirs * attended, axis=-1),
                ops.sum(cosine * usable[:, None], axis=2) / ops.maximum(known, 1.0),
                cosine[:, :, 0] * usable[:, None, 0],
                there,
                ops.broadcast_to(share, ops.shape(there)),
            ],
            axis=-1,
        )  # [B, K, M, 6]
        # Unit vectors have entries of about 1 / sqrt(D); scaled, they weigh as much as the other features.
        scale = float(self.config.token_width) ** 0.5
        joined = ops.concatenate([similar, theirs * scale, attended * scale, theirs * attended * scale**2], axis=-1)
        return {name: [joined[:, :, place]] for place, name in enumerate(self.spec.modalities)}

    def _identities(self, inputs, rows, history_rows, exists, across, id_kept):
        schema, user, said = self.spec.schema, inputs["user"], inputs.get("profile")
        user_id = user * ops.cast(self.side.take("user_known", user), user.dtype)
        item_id = rows * ops.cast(self.side.take("item_known", rows), rows.dtype)
        if id_kept is not None:
            user_id = user_id * ops.cast(id_kept["user"], user.dtype)
            item_id = item_id * ops.cast(id_kept["item"], rows.dtype)
        ids = [across(take_rows(self.embeddings["user_id"], user_id))]
        ids.append(take_rows(self.embeddings["item_id"], item_id))
        stored, attributes = self.side.take("profile", user), self.side.take("attributes", rows)
        profile = stored if said is None else ops.where(said > 0, ops.cast(said, stored.dtype), stored)
        sides = [
            across(ops.take(self.embeddings[f"profile_{name}"], profile[..., place], axis=0))
            for place, name in enumerate(schema.profile)
        ]
        described = [
            take_rows(self.embeddings[f"attribute_{name}"], attributes[..., place])
            for place, name in enumerate(schema.attributes)
        ]
        if schema.attributes:
            mine, others = attributes[:, :, None], self.side.take("attributes", history_rows)[:, None]
            same = ops.cast(ops.logical_and(mine == others, mine > 0), "float32") * exists[:, None, :, None]
            described += [
                ops.sum(same, axis=2) / ops.maximum(ops.sum(exists, axis=1), 1.0)[:, None, None],
                same[:, :, 0],
            ]
        return {"ids": ids, "profile": sides, "attributes": described}

    def _numbers(self, inputs, rows, history_rows, exists, as_of):
        score = (inputs["retrieval_scores"] - self.spec.score_center) / self.spec.score_scale
        rank = ops.log(inputs["retrieval_ranks"]) / 4.0 - 1.0
        numbers, past = self.side.take("numbers", rows), self.side.take("numbers", history_rows)
        column = lambda name, of=numbers: of[..., ITEM_NUMBERS.index(name)]  # noqa: E731
        usual_popularity = ops.sum(column("log popularity", past) * exists, axis=1) / ops.maximum(
            ops.sum(exists, axis=1), 1.0
        )
        popularity = column("log popularity")
        priced = exists * column("price known", past)
        usual = ops.sum(column("log price", past) * priced, axis=1) / ops.maximum(ops.sum(priced, axis=1), 1.0)
        dearer = (column("log price") - usual[:, None]) * column("price known")
        timestamp = inputs["timestamp"]
        now = ops.cast(timestamp - self.spec.reference_time, "float32") / 86_400.0
        timed = ops.cast(timestamp > 0, "float32")[:, None] * column("release known")
        age = ops.maximum(now[:, None] - self.side.take("released", rows), 0.0) * timed
        return {
            "retrieval": [ops.stack([ops.clip(score, -6.0, 6.0), rank], axis=-1)],
            "popularity": [
                ops.stack([popularity, column("never in training"), popularity - usual_popularity[:, None]], axis=-1),
                self.side.popularity(as_of, rows),
            ],
            "price": [ops.stack([column("log price"), column("price known"), dearer], axis=-1)],
            "recency": [ops.stack([column("release known"), ops.log1p(age) / 2.0], axis=-1)],
        }

    def _context(self, inputs, exists, across):
        timestamp = inputs["timestamp"]
        timed = ops.cast(timestamp > 0, "float32")
        turn = lambda period: ops.cast(timestamp % period, "float32") * (2.0 * np.pi / period)  # noqa: E731
        angles = [turn(86_400), turn(7 * 86_400)]
        clock = ops.stack([wave(angle) * timed for angle in angles for wave in (ops.sin, ops.cos)], axis=-1)
        filled = ops.log1p(ops.sum(exists, axis=1, keepdims=True)) / 2.0
        parts = [clock, filled]
        for place, name in enumerate(self.spec.context):
            parts.append(ops.take(self.embeddings[f"context_{name}"], inputs["context"][:, place], axis=0))
        return [across(ops.concatenate(parts, axis=-1))]
