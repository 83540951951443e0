"""The client's call for the reasons of some recommended items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.client.explanation import Explanation, read_explanations
from serving.client.model_client import ModelClient
from serving.client.page_request import PageRequest
from serving.tensors import string_line

SIGNATURE = "explain"


def explain(
    client: ModelClient,
    request: PageRequest,
    item_ids: Sequence[str],
    *,
    retrieval_scores: Sequence[float] | None = None,
    retrieval_ranks: Sequence[int] | None = None,
    label: str | None = None,
    deadline: float | None = None,
) -> list[Explanation]:
    """Why items score as they do for a user; see `serving.client.recommender.Recommender.explain`."""
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
    version: int | None = None
    if scores is None or ranks is None:
        retrieved, version = client.predict_version(
            request.retrieval_model, request.retrieval_inputs(), label=label, deadline=deadline
        )
        some = retrieved["item_ids"][0] != b""
        values = retrieved["scores"][0][some]
        places = {item.decode(): place for place, item in enumerate(retrieved["item_ids"][0][some])}
        last = float(values.min()) if len(values) else 0.0
        scores = [float(values[places[item]]) if item in places else last for item in item_ids]
        ranks = [places[item] + 1 if item in places else 0 for item in item_ids]
    answer = client.predict(
        request.ranking_model,
        {
            **request.ranking_inputs(string_line(item_ids), np.array(scores)),
            "retrieval_ranks": np.array([ranks], np.float32),
        },
        version=version,
        label=None if version is not None else label,
        deadline=deadline,
        signature_name=SIGNATURE,
    )
    return read_explanations(answer, list(item_ids), [rank > 0 for rank in ranks])
