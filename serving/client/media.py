"""The client's search by a picture or by a sound, and where it compares items that a release does not hold."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np

from serving.client.added_items import AddedItems, found_items
from serving.client.model_client import ModelClient
from serving.client.new_items import EncodedItems, NewItem, item_inputs
from serving.client.recommendation import FoundItem
from serving.status import ServingError
from serving.tensors import string_line

MODALITIES = ("image", "audio")
CONTENT = "content_search"


def search_media(
    client: ModelClient,
    item: NewItem,
    k: int,
    *,
    exclude_item_ids: Sequence[str] = (),
    added: AddedItems | None = None,
    encoder_model: str = "item_encoder",
    content_model: str = CONTENT,
    label: str | None = None,
    deadline: float | None = None,
) -> list[FoundItem]:
    """The k items that look like a picture, or sound like a clip, best first.

    Args:
        item: with a picture or a clip, one of them; its words are not looked at.
        exclude_item_ids: never answered.
        added: items younger than the release, which are found beside its own by what they look or sound like.
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
        if not _absent(error, modality):
            raise
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{content_model}: the release is not searched by {modality}; export one whose items have it, encoded by "
            "operations",
        ) from None
    ids, scores = found_items(answer, k, version, added, excluded=set(exclude_item_ids), space=modality)
    return [FoundItem(name.decode(), float(score)) for name, score in zip(ids, scores, strict=True)]


def place_in_content(
    client: ModelClient, encoded: EncodedItems, *, content_model: str = CONTENT, deadline: float | None = None
) -> dict[str, np.ndarray]:
    """Where encoded items lie beside the items of the same release in its search by content.

    Returns:
        f32 [B, E] of each modality that one of the items has and the release is searched by; zeros for an item without it.

    Raises:
        ServingError: what the server answered, but that there is no such model or signature.
    """
    placed: dict[str, np.ndarray] = {}
    for modality in MODALITIES:
        vectors = encoded.vectors.get(modality)
        if vectors is None or not vectors.any():
            continue
        # What the search compares is part of its answer, so that asking for one neighbour tells it.
        inputs = {"vector": vectors, "exclude_item_ids": np.empty((len(vectors), 0), object), "k": np.array(1, np.int32)}
        try:
            answer = client.predict(
                content_model, inputs, version=encoded.version, deadline=deadline, signature_name=modality
            )
        except ServingError as error:
            if not _absent(error, modality):
                raise
            continue
        if "query" in answer:  # a release from before it was told has no place for new items
            placed[modality] = answer["query"]
    return placed


def _absent(error: ServingError, modality: str) -> bool:
    """Whether there is no such model, or none that compares the modality."""
    return error.code == grpc.StatusCode.NOT_FOUND or (modality in error.message and "not found" in error.message)
