"""What the ranker looks at: content of the user's recent items against the candidate's, sides, and context."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ranking.config import RankerSpec, RankingConfig
from ranking.tables import ITEM_NUMBERS, ContentTable, SideTables

MASKED_LOGIT = -1e9


def principal_projection(table: np.ndarray, present: np.ndarray, width: int, seed: int, sample: int = 20_000):
    """Mean and whitening projection [F, width] of a content table: where a learned projection sensibly starts.

    Raw vectors of one modality often share a large common direction, which makes every cosine nearly 1; in the whitened
    space of the leading principal components cosines tell items apart from the first step on.

    Args:
        table: [N + 1, F]. present: bool [N + 1]. width: D. seed: of the sample. sample: rows looked at.

    Returns:
        mean [F], projection [F, D] f32; components beyond F are zero.
    """
    rows = np.flatnonzero(present)
    if len(rows) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    values = np.asarray(table[rows], np.float32).astype(np.float64)
    projection = np.zeros((table.shape[1], width), np.float32)
    if len(rows) < 2:
        return np.zeros(table.shape[1], np.float32), projection
    mean = values.mean(axis=0)
    spread, directions = np.linalg.eigh(np.cov(values - mean, rowvar=False).reshape(table.shape[1], -1))
    kept = min(width, table.shape[1])
    spread, directions = spread[::-1][:kept], directions[:, ::-1][:, :kept]
    # Half whitening: leading components keep some of their weight, and noise in the last ones is not blown up.
    projection[:, :kept] = directions / np.sqrt(np.sqrt(np.maximum(spread, 1e-12) * max(spread[0], 1e-12)))
    return mean.astype(np.float32), projection


class ContentProjection(keras.layers.Layer):
    """Projects the raw vectors of some items to unit tokens, one per modality.

        token_m = normalise((x_m - mean_m) W_m), zeros where modality m is absent

    Args:
        spec, config: which modalities, and D.

    Shapes: `call(items [U]) -> tokens [U, M, D], present [U, M]` (float 0 or 1).
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        rows, width = spec.schema.item_rows, config.token_width
        self.modalities = tuple(spec.modalities)
        self.tables = [
            ContentTable(rows, size, "float32" if name == "behaviour" else "float16", name=f"{name}_table")
            for name, size in spec.modalities.items()
        ]
        self.present = ContentTable(rows, len(self.modalities), name="present_table")
        self.means, self.kernels = [], []
        for name, size in spec.modalities.items():
            self.means.append(self.add_weight(shape=(size,), initializer="zeros", trainable=False, name=f"{name}_mean"))
            self.kernels.append(self.add_weight(shape=(size, width), initializer="zeros", name=f"{name}_kernel"))
        self.seed, self.width = config.seed, width
        self.built = True

    def assign(self, tables: dict[str, np.ndarray], present: np.ndarray) -> None:
        """Fills the raw tables ({modality: [N + 1, F_m]}, present bool [N + 1, M]) and starts the projections from
        them."""
        for axis, (name, layer) in enumerate(zip(self.modalities, self.tables, strict=True)):
            layer.table.assign(np.asarray(tables[name]).astype(layer.table.dtype))
            mean, projection = principal_projection(tables[name], present[:, axis], self.width, self.seed)
            self.means[axis].assign(mean)
            self.kernels[axis].assign(projection)
        self.present.table.assign(np.asarray(present).astype(self.present.table.dtype))

    def call(self, items):
        present = self.present(items)
        tokens = []
        for axis, layer in enumerate(self.tables):
            projected = ops.matmul(layer(items) - self.means[axis], self.kernels[axis])
            length = ops.sqrt(ops.sum(ops.square(projected), axis=-1, keepdims=True) + 1e-8)
            tokens.append(projected / length * present[:, axis : axis + 1])
        return ops.stack(tokens, axis=1), present


class PairFeatures(keras.layers.Layer):
    """One vector per user and candidate; nothing in it depends on the other candidates.

    Per modality, between the candidate's token c and the history's tokens h_l (absent ones masked):
        cos_l = <c, h_l>;  a = softmax_l(tau cos_l + p_l);  u = sum_l a_l h_l
        features: max_l cos_l, <c, u>, mean_l cos_l, present, share of the history present, c, u, c * u
    with tau and the recency bias p_l learned per modality (target attention as in DIN, Zhou et al., KDD 2018).
    Beside them: id, profile and attribute embeddings; the share of the history with the candidate's value of each
    attribute;
    retrieval score and log rank; `ITEM_NUMBERS`; price against the history's; age of the candidate; hour of the day.

    Shapes: see `call`; X = `width`.
    """

    def __init__(self, spec: RankerSpec, config: RankingConfig, **kwargs):
        super().__init__(**kwargs)
        self.spec, self.config = spec, config
        schema, count, length = spec.schema, len(spec.modalities), config.history_length
        self.side = SideTables(spec, name="side")
        self.temperature = self.add_weight(
            shape=(count,), initializer=keras.initializers.Constant(4.0), name="temperature"
        )
        self.recency = self.add_weight(shape=(length, count), initializer="zeros", name="recency")
        rows = {"user_id": (schema.user_rows, config.id_width), "item_id": (schema.item_rows, config.id_width)}
        for kind, columns in (("profile", schema.profile), ("attribute", schema.attributes)):
            rows |= {f"{kind}_{name}": (size, config.side_width) for name, size in columns.items()}
        # Ids start at zero and profile codes small: what training never touches then says nothing.
        self.embeddings = {
            name: self.add_weight(
                shape=shape,
                initializer=keras.initializers.RandomNormal(stddev=0.01, seed=config.seed + place),
                name=name,
            )
            for place, (name, shape) in enumerate(rows.items())
        }
        self.width = count * (5 + 3 * config.token_width) + sum(width for _, width in rows.values())
        self.width += len(schema.attributes) + len(ITEM_NUMBERS) + 1
        self.score_column = self.width
        self.width += 2 + 1 + 2 + 1
        self.built = True

    def call(self, tokens, present, items, inputs, id_kept=None):
        """Features of every candidate.

        Args:
            tokens [U, M, D], present [U, M]: of the items that the positions below point to.
            items [U]: rows of those items, or None when positions are rows.
            inputs: `user` [B] rows; `history` [B, L], `candidates` [B, K] positions; `retrieval_scores`,
                `retrieval_ranks` [B, K]; `timestamp` [B] UTC seconds, 0 = unknown.
            id_kept: {"user": [B], "item": [B, K]} of 0 and 1 in training; a dropped id uses row 0.

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
        parts += self._identities(inputs["user"], rows, across, id_kept)
        parts += self._sides(rows, history_rows, exists)
        parts += self._context(inputs, rows, exists, across)
        return ops.concatenate(parts, axis=-1)

    def _content(self, tokens, present, history, candidates, exists):
        length = history.shape[1]
        theirs, ours = ops.take(tokens, candidates, axis=0), ops.take(tokens, history, axis=0)  # [B,K,M,D], [B,L,M,D]
        there = ops.take(present, candidates, axis=0)
        usable = ops.take(present, history, axis=0) * exists[..., None]  # [B, L, M]
        cosine = ops.einsum("bkmd,blmd->bklm", theirs, ours)
        logits = cosine * self.temperature + self.recency[:length]
        logits = ops.where(usable[:, None] > 0, logits, MASKED_LOGIT)
        attention = ops.softmax(logits, axis=2) * usable[:, None]  # all masked: softmax is uniform, the product 0
        attended = ops.einsum("bklm,blmd->bkmd", attention, ours)
        highest = ops.max(ops.where(usable[:, None] > 0, cosine, -1.0), axis=2)
        any_usable = ops.max(usable, axis=1)[:, None]
        known = ops.sum(usable, axis=1)[:, None]
        similar = [
            highest * any_usable * there,
            ops.sum(theirs * attended, axis=-1),
            ops.sum(cosine * usable[:, None], axis=2) / ops.maximum(known, 1.0),
            there,
            ops.broadcast_to(known / ops.maximum(ops.sum(exists, axis=1)[:, None, None], 1.0), ops.shape(there)),
        ]
        # Unit vectors have entries of about 1 / sqrt(D); scaled, they weigh as much as the other features.
        scale = float(self.config.token_width) ** 0.5
        flat = lambda x: ops.reshape(x, (*ops.shape(x)[:2], x.shape[-2] * x.shape[-1]))  # noqa: E731
        return [*similar, flat(theirs) * scale, flat(attended) * scale, flat(theirs * attended) * scale**2]

    def _identities(self, user, rows, across, id_kept):
        user_id = user * ops.cast(self.side.take("user_known", user), user.dtype)
        item_id = rows * ops.cast(self.side.take("item_known", rows), rows.dtype)
        if id_kept is not None:
            user_id = user_id * ops.cast(id_kept["user"], user.dtype)
            item_id = item_id * ops.cast(id_kept["item"], rows.dtype)
        parts = [across(ops.take(self.embeddings["user_id"], user_id, axis=0))]
        parts.append(ops.take(self.embeddings["item_id"], item_id, axis=0))
        profile, attributes = self.side.take("profile", user), self.side.take("attributes", rows)
        for place, name in enumerate(self.spec.schema.profile):
            parts.append(across(ops.take(self.embeddings[f"profile_{name}"], profile[..., place], axis=0)))
        for place, name in enumerate(self.spec.schema.attributes):
            parts.append(ops.take(self.embeddings[f"attribute_{name}"], attributes[..., place], axis=0))
        return parts

    def _sides(self, rows, history_rows, exists):
        numbers, past = self.side.take("numbers", rows), self.side.take("numbers", history_rows)
        parts = [numbers]
        price, known = ITEM_NUMBERS.index("log price"), ITEM_NUMBERS.index("price known")
        priced = exists * past[..., known]
        usual = ops.sum(past[..., price] * priced, axis=1) / ops.maximum(ops.sum(priced, axis=1), 1.0)
        parts.append(((numbers[..., price] - usual[:, None]) * numbers[..., known])[..., None])
        if self.spec.schema.attributes:
            mine, others = (
                self.side.take("attributes", rows)[:, :, None],
                self.side.take("attributes", history_rows)[:, None],
            )
            same = ops.cast(ops.logical_and(mine == others, mine > 0), "float32") * exists[:, None, :, None]
            parts.append(ops.sum(same, axis=2) / ops.maximum(ops.sum(exists, axis=1), 1.0)[:, None, None])
        return parts

    def _context(self, inputs, rows, exists, across):
        score = (inputs["retrieval_scores"] - self.spec.score_center) / self.spec.score_scale
        parts = [ops.clip(score, -6.0, 6.0)[..., None], ops.log(inputs["retrieval_ranks"])[..., None] / 4.0 - 1.0]
        timestamp = inputs["timestamp"]
        timed = ops.cast(timestamp > 0, "float32")
        now = ops.cast(timestamp - self.spec.reference_time, "float32") / 86_400.0
        dated = self.side.take("numbers", rows)[..., ITEM_NUMBERS.index("release known")]
        age = ops.maximum(now[:, None] - self.side.take("released", rows), 0.0) * dated * timed[:, None]
        parts.append(ops.log1p(age)[..., None] / 2.0)
        hour = ops.cast(timestamp % 86_400, "float32") * (2.0 * np.pi / 86_400.0)
        clock = ops.stack([ops.sin(hour) * timed, ops.cos(hour) * timed], axis=-1)
        filled = ops.log1p(ops.sum(exists, axis=1, keepdims=True)) / 2.0
        return [*parts, across(ops.concatenate([clock, filled], axis=-1))]
