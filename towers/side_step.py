"""The terms beside the main loss in one training step: what they are shown of a batch, and their weighted sum."""

from __future__ import annotations

from typing import Any

from keras import ops

from towers.side_losses import SideLosses


def side_loss(side: SideLosses, task: Any, batch: dict, outputs: dict, training: bool):
    """The weighted sum of the terms for one step of a `RetrievalTask`, and their means for the log.

    The item tower runs once more, over the targets alone: what the terms look at does not tie the main path down.

    Args:
        task: its `two_tower`, `tables` and `features_of`. batch: its inputs. outputs: `queries` and `candidates` [B, D].
    """
    size = min(side.settings.rows, batch["target"].shape[0])
    rows, user = ops.take(batch["items"], batch["target"][:size]), batch["user"][:size]
    scale = task.two_tower.scale
    step = {
        "queries": outputs["queries"][:size],
        "candidates": outputs["candidates"][:size],
        "rows": rows,
        "user": user,
        "log_q": ops.take(task.tables["log_q"], rows),
        "weights": batch["weight"][:size],
        "scale": scale if task.retrieval_loss.options.learn_temperature else ops.stop_gradient(scale),
    }
    if "ranker" in side.terms:
        listed = side.ranked_rows(user)
        vectors = task.embed_items(ops.reshape(listed, (-1,)), training=training)
        step["ranked"] = ops.reshape(vectors, (*listed.shape, vectors.shape[-1]))
    item: dict = {}
    if side.reads_items:
        features, present = task.features_of(rows), ops.take(task.tables["present"], rows, axis=0)
        tower = task.two_tower.item_tower
        _, told = tower(rows, features, present, training=training)
        item = {"fused": told["fused"], "tokens": told["tokens"], "shown": told["present"], "present": present}
        if "reconstruction" in side.terms:
            item["features"] = {name: tower.projections[name].standardise(features[name]) for name in side.modalities}
    user_tower = task.two_tower.user_tower
    vectors = user_tower.id_embedding(user) if "l2" in side.terms and user_tower.use_id else None
    terms = side(item, step, vectors)
    for name, value in terms.items():
        side.trackers[name].update_state(value)
    return sum(side.terms[name] * value for name, value in terms.items())
