"""The client's search by a picture or by a sound."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np

from serving.added_items import AddedItems
from serving.model_client import ModelClient
from serving.new_items import NewItem, item_inputs
from serving.recommendation import FoundItem
from serving.status import ServingError
from serving.tensors import string_line


def search_media(
    client: ModelClient,
    item: NewItem,
    k: int,
    *,
    exclude_item_ids: Sequence[str] = (),
    added: AddedItems | None = None,
    encoder_model: str = "item_encoder",
    content_model: str = "content_search",
    label: str | None = None,
    deadline: float | None = None,
) -> list[FoundItem]:
    """The k items that look like a picture, or sound like a clip, best first.

    Args:
        item: with a picture or a clip, one of them; its words are not looked at.
        exclude_item_ids: never answered.
        added: what was changed since the release: items that it hides are not answered. Added ones have no place here before
            the next release.
        encoder_model, content_model: names of the models, both asked in one version.

    Returns:
        Items with cosines. None where nothing can be seen or heard.

    Raises:
        ValueError: neither a picture nor a clip, or both.
        ServingError: what the server answered; FAILED_PRECONDITION where its release is not searched by such content.
    """
    modalities = [name for name, there in (("image", item.image), ("audio", len(item.audio))) if there]
    if len(modalities) != 1:
        raise ValueError(
            f"item: must have a picture or a clip, one of them, received {' and '.join(modalities) or 'neither'}"
        )
    (modality,) = modalities
    vector = f"{modality}_vector"
    try:
        encoded, version = client.predict_version(encoder_model, item_inputs([item]), label=label, deadline=deadline)
        if vector not in encoded:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"{encoder_model} reads no {modality}")
        inputs = {
            "vector": encoded[vector],
            "exclude_item_ids": string_line([*exclude_item_ids, *(added.hidden if added else ())]),
            "k": np.array(k, np.int32),
        }
        answer = client.predict(content_model, inputs, version=version, deadline=deadline, signature_name=modality)
    except ServingError as error:
        missing = error.code == grpc.StatusCode.NOT_FOUND or (
            modality in error.message and "not found" in error.message
        )
        if not missing:
            raise
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{content_model}: the release is not searched by {modality}; export one whose items have it, encoded by "
            "operations",
        ) from None
    found = answer["item_ids"][0] != b""
    ids, scores = answer["item_ids"][0][found], answer["scores"][0][found]
    return [FoundItem(name.decode(), float(score)) for name, score in zip(ids, scores, strict=True)]
