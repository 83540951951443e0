"""The client's call for the reasons of some recommended items."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from serving.explanation import Explanation, read_explanations
from serving.model_client import ModelClient
from serving.tensors import string_line

SIGNATURE = "explain"


def explain(
    client: ModelClient,
    user_id: str,
    item_ids: Sequence[str],
    *,
    recent_item_ids: Sequence[str] = (),
    retrieval_scores: Sequence[float] | None = None,
    retrieval_ranks: Sequence[int] | None = None,
    candidates: int = 200,
    timestamp: int | None = None,
    context: Mapping[str, str] | None = None,
    retrieval_model: str = "retrieval",
    ranking_model: str = "ranking",
    label: str | None = None,
    deadline: float | None = None,
) -> list[Explanation]:
    """Why items score as they do for a user; see `serving.client.Recommender.explain`."""
    scores, ranks = retrieval_scores, retrieval_ranks
    if not item_ids:
        raise ValueError("item_ids: need at least one, got none")
    if (scores is None) != (ranks is None) or any(
        given is not None and len(given) != len(item_ids) for given in (scores, ranks)
    ):
        lengths = [None if given is None else len(given) for given in (scores, ranks)]
        raise ValueError(
            f"retrieval_scores, retrieval_ranks: give both, one an item, or neither; got {lengths[0]} and {lengths[1]} "
            f"for {len(item_ids)} items"
        )
    user, recent = np.array([user_id], object), string_line(recent_item_ids)
    version: int | None = None
    if scores is None or ranks is None:
        asked = {
            "user_id": user,
            "recent_item_ids": recent,
            "exclude_item_ids": string_line(()),
            "k": np.array(candidates, np.int32),
        }
        retrieved, version = client.predict_version(retrieval_model, asked, label=label, deadline=deadline)
        some = retrieved["item_ids"][0] != b""
        values = retrieved["scores"][0][some]
        places = {item.decode(): place for place, item in enumerate(retrieved["item_ids"][0][some])}
        last = float(values.min()) if len(values) else 0.0
        scores = [float(values[places[item]]) if item in places else last for item in item_ids]
        ranks = [places[item] + 1 if item in places else 0 for item in item_ids]
    answer = client.predict(
        ranking_model,
        {
            "user_id": user,
            "recent_item_ids": recent,
            "candidate_ids": string_line(item_ids),
            "retrieval_scores": np.array([scores], np.float32),
            "retrieval_ranks": np.array([ranks], np.float32),
            "timestamp": np.array([int(time.time()) if timestamp is None else timestamp], np.int64),
            # Only where there is one: a release from before it was asked for would refuse it.
            **({"context": string_line([f"{name}={word}" for name, word in context.items()])} if context else {}),
        },
        version=version,
        label=None if version is not None else label,
        deadline=deadline,
        signature_name=SIGNATURE,
    )
    return read_explanations(answer, list(item_ids), [rank > 0 for rank in ranks])
