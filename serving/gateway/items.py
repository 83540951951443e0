"""The gateway's routes that change the catalogue while it runs: add, change and delete items."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Literal

import grpc
from fastapi import FastAPI, HTTPException, Path
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.cleaning import clean_text
from data.durable_file import WriteError
from data.media import MediaError
from serving.catalogue.live_items import TooManyItemsError
from serving.catalogue.live_items_content import media_suffix
from serving.catalogue.live_items_log import LiveItem
from serving.gateway.errors import shown
from serving.gateway.messages import ErrorReply
from serving.gateway.parts import GatewayParts
from serving.json_log import note
from serving.request_fields import Base64, KeptId
from serving.status import ServingError

MODALITIES = ("image", "audio", "video")
LATEST = 253_402_300_799
"""The last second of the year 9999, the last that a calendar shows."""
TITLE_LENGTH, TEXT_LENGTH = 1_000, 10_000
Category = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^|]+$")]
MediaPath = Annotated[str, Field(max_length=1_000)]
ItemPath = Annotated[KeptId, Path()]


class ItemContent(BaseModel):
    """What an item is. A picture, a sound or a video is a file under the dataset folder's `media/`, or comes along."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        str_strip_whitespace=True,
        json_schema_extra={
            "examples": [
                {"title": "Night Ferry", "description": "Slow piano by the sea.", "categories": ["ambient", "piano"]},
                {"title": "Low Tide", "price": 9.5, "image": "covers/r00007.png"},
            ]
        },
    )

    title: str = Field("", max_length=TITLE_LENGTH)
    description: str = Field("", max_length=TEXT_LENGTH)
    categories: list[Category] = Field([], max_length=20)
    price: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False)
    created_at: int | None = Field(None, ge=0, le=LATEST, description="UTC seconds; null = now.")
    domain: str = Field("", max_length=100)
    image: MediaPath = Field("", description="JPEG, PNG, GIF or WebP under `media/`.")
    audio: MediaPath = Field("", description="WAV, FLAC, MP3, OGG, M4A or MIDI under `media/`.")
    video: MediaPath = Field("", description="MP4 or WebM under `media/`.")
    image_base64: Base64 = Field("", description="The file itself.")
    audio_base64: Base64 = Field("", description="The file itself.")
    video_base64: Base64 = Field("", description="The file itself.")

    @model_validator(mode="after")
    def _one_of_both(self) -> ItemContent:
        for name in MODALITIES:
            if getattr(self, name) and getattr(self, f"{name}_base64"):
                raise ValueError(f"{name}, {name}_base64: give the path or the file, received both")
        return self


class NewItemRequest(ItemContent):
    """An item to add."""

    item_id: KeptId = Field(description="Its id, not in the catalogue yet.")


class ItemChangeReply(BaseModel):
    """What has become of an item. An added or changed one is found from now on, by recommendation, search,
    similarity, and by its picture and its sound."""

    item_id: str
    change: Literal["added", "changed", "deleted"]
    encoded: bool = Field(description="False where the release holds this very content, so that its own place is right.")
    release: int | None = Field(None, description="Version of the release that encoded it.")
    seconds: float


def add_item_routes(app: FastAPI, parts: GatewayParts) -> None:
    """POST `/v1/items`, PUT and DELETE `/v1/items/{item_id}`; 503 when the encoder or the disk does not answer."""
    failed: dict[int | str, dict[str, object]] = {status: {"model": ErrorReply} for status in (404, 409, 503)}

    @app.post("/v1/items", summary="Add an item", status_code=201, responses={409: failed[409], 503: failed[503]})
    def add(request: NewItemRequest) -> ItemChangeReply:
        if parts.catalogue.item(request.item_id) is not None:
            raise HTTPException(409, f"item_id: must be new, received {shown(request.item_id)}; PUT changes an item")
        return _put(parts, request.item_id, request, "added")

    @app.put("/v1/items/{item_id:path}", summary="Add or change an item", responses={409: failed[409], 503: failed[503]})
    def put(item_id: ItemPath, request: ItemContent) -> ItemChangeReply:
        known = parts.catalogue.item(item_id) is not None
        return _put(parts, item_id, request, "changed" if known else "added")

    @app.delete(
        "/v1/items/{item_id:path}", summary="Delete an item", responses={404: failed[404], 503: failed[503]}
    )
    def delete(item_id: ItemPath) -> ItemChangeReply:
        """No answer that is made from now on has the item. What people did with it stays in the log."""
        started = time.perf_counter()
        if parts.catalogue.item(item_id) is None:
            raise HTTPException(404, f"item_id: must be in the catalogue, received {shown(item_id)}")
        try:
            parts.live.delete(item_id)
        except OSError as error:
            raise _refused_by_disk(error) from None
        return _reply(parts, item_id, "deleted", False, None, started)


def _put(
    parts: GatewayParts, item_id: str, request: ItemContent, change: Literal["added", "changed"]
) -> ItemChangeReply:
    started = time.perf_counter()
    try:
        media = {name: content for name in MODALITIES if (content := _read(parts, request, name))}
        item = _item(parts, item_id, request, media)
        with parts.metrics.stage("encode"):
            vector = parts.live.put(item, media)
    except MediaError as error:
        raise HTTPException(422, str(error)) from None
    except TooManyItemsError as error:
        raise HTTPException(409, str(error)) from None
    except ServingError as error:
        if error.code == grpc.StatusCode.INVALID_ARGUMENT:
            raise HTTPException(422, "the release's item encoder does not take items of raw content alone") from None
        raise HTTPException(503, f"the item encoder did not answer ({error.code.name}); send the item again") from None
    except (OSError, WriteError) as error:
        raise _refused_by_disk(error) from None
    return _reply(parts, item_id, change, vector.embedding is not None, vector.version, started)


def _read(parts: GatewayParts, request: ItemContent, name: str) -> bytes:
    """The content of one modality, b"" for none; MediaError for a path that leads elsewhere."""
    path, given = getattr(request, name), getattr(request, f"{name}_base64")
    if given:
        return base64.b64decode(given)
    try:
        return parts.catalogue.read_media(path) if path else b""
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from None


def _item(parts: GatewayParts, item_id: str, request: ItemContent, media: dict[str, bytes]) -> LiveItem:
    """The item with its texts cleaned as training cleans them, and its media kept."""
    paths = {name: getattr(request, name) for name in MODALITIES}
    for name, content in media.items():
        if getattr(request, f"{name}_base64"):
            paths[name] = parts.live.log.keep_media(content, media_suffix(name, content))
    return LiveItem(
        item_id=item_id,
        title=clean_text(request.title, TITLE_LENGTH),
        description=clean_text(request.description, TEXT_LENGTH),
        categories="|".join(clean_text(category, 100) for category in request.categories),
        price=request.price,
        created_at=int(time.time()) if request.created_at is None else request.created_at,
        domain=clean_text(request.domain, 100),
        **paths,
    )


def _reply(
    parts: GatewayParts, item_id: str, change: Literal["added", "changed", "deleted"], encoded: bool,
    release: int | None, started: float,
) -> ItemChangeReply:  # fmt: skip
    parts.metrics.item_changes.labels(change).inc()
    note(change=change)
    seconds = round(time.perf_counter() - started, 6)
    return ItemChangeReply(item_id=item_id, change=change, encoded=encoded, release=release, seconds=seconds)


def _refused_by_disk(error: Exception) -> HTTPException:
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = getattr(cause, "strerror", None) or type(error).__name__
    return HTTPException(503, f"the change could not be put on disk ({reason}); send it again")
