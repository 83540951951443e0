"""The gateway's search by a picture or by a clip: decoded here, within bounds, before any model sees it."""

from __future__ import annotations

import base64
import io
import threading
import time

import grpc
from fastapi import FastAPI, HTTPException
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.image_decoder import decode_image
from data.media import MediaError
from serving.catalogue.live_items_content import read_clip
from serving.client.new_items import NewItem
from serving.gateway.errors import shown
from serving.gateway.guard import MEDIA_SEARCH_PATH
from serving.gateway.messages import ErrorReply
from serving.gateway.parts import GatewayParts
from serving.gateway.search import FoundItemsReply, found_items, popular_items
from serving.request_fields import MAX_EXCLUDED, MAX_K, Base64, ItemId
from serving.status import ServingError

PIXELS = 512
"""A side of the picture that the encoder is sent: twice what it looks at, so that squeezing it twice changes nothing."""
DECODERS, WAIT_SECONDS = 4, 10.0
"""Files decoded at the same time: one picture of forty million pixels takes a quarter of a gigabyte."""
EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR42mPUj01iIAUwMZAIRjWMahg6GgALDgEO088rVgAAAABJRU5ErkJggg=="


class MediaSearchRequest(BaseModel):
    """A picture or a clip whose like is wanted; one of them."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"image_base64": EXAMPLE, "k": 5}]}
    )

    image_base64: Base64 = Field("", description="A JPEG, PNG, WebP or GIF file, of at most 40 million pixels.")
    audio_base64: Base64 = Field(
        "", description="A WAV, FLAC, MP3, OGG, M4A or MIDI file of at most an hour, of which the middle is heard."
    )
    k: int = Field(10, ge=1, le=MAX_K)
    exclude_item_ids: list[ItemId] = Field([], max_length=MAX_EXCLUDED)

    @model_validator(mode="after")
    def _one_of_both(self) -> MediaSearchRequest:
        if bool(self.image_base64) == bool(self.audio_base64):
            received = "both" if self.image_base64 else "neither"
            raise ValueError(f"image_base64, audio_base64: give a picture or a clip, one of them, received {received}")
        return self


def add_media_search_route(app: FastAPI, parts: GatewayParts) -> None:
    """POST `/v1/search/media`."""
    decoding = threading.BoundedSemaphore(DECODERS)
    failed: dict[int | str, dict[str, object]] = {status: {"model": ErrorReply} for status in (409, 503)}

    @app.post(MEDIA_SEARCH_PATH, summary="Items that look like a picture or sound like a clip", responses=failed)
    def search_by_media(request: MediaSearchRequest) -> FoundItemsReply:
        """Compares content alone, whatever people did with an item. Items added since the release are found too."""
        started = time.perf_counter()
        item = _decoded(request, decoding)
        try:
            found = parts.recommender.search_media(
                item,
                request.k,
                exclude_item_ids=request.exclude_item_ids,
                encoder_model=parts.settings.encoder_model,
                added=parts.live.snapshot(),
                deadline=parts.settings.encode_seconds,
            )
        except ServingError as error:
            if error.code == grpc.StatusCode.FAILED_PRECONDITION:
                raise HTTPException(409, f"the release is not searched this way: {shown(error.message)}") from None
            return popular_items(parts, "search_media", error, request.k, request.exclude_item_ids, started)
        return found_items(parts, "search_media", [(one.item_id, one.score) for one in found], started)


def _decoded(request: MediaSearchRequest, decoding: threading.BoundedSemaphore) -> NewItem:
    """The picture as a small PNG, or the clip as samples: what a model is sent is never the file of a stranger."""
    if not decoding.acquire(timeout=WAIT_SECONDS):
        raise HTTPException(503, "too many files are being read just now; send it again", {"Retry-After": "1"})
    try:
        if request.image_base64:
            buffer = io.BytesIO()
            Image.fromarray(decode_image(base64.b64decode(request.image_base64), PIXELS)).save(buffer, "PNG", compress_level=1)
            return NewItem(image=buffer.getvalue())
        clip = read_clip(base64.b64decode(request.audio_base64))
    except MediaError as error:
        raise HTTPException(422, f"{'image' if request.image_base64 else 'audio'}_base64: {error}") from None
    finally:
        decoding.release()
    if not len(clip):
        raise HTTPException(422, "audio_base64: must be heard, received silence; send a clip with sound")
    return NewItem(audio=clip)
