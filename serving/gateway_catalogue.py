"""The gateway's routes that need no model: items, users, histories, media, and the page itself."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse, HTMLResponse

from serving.catalogue import MEDIA_TYPES
from serving.gateway_errors import shown
from serving.gateway_messages import ErrorReply, HistoryEntry, HistoryReply, ItemReply, UserReply, UsersReply
from serving.live_catalogue import LiveCatalogue

PAGE = Path(__file__).with_name("page.html")


def add_catalogue_routes(app: FastAPI, catalogue: LiveCatalogue) -> None:
    """`/v1/items/{item_id}`, `/v1/users`, `/v1/history/{user_id}` and `/media/{path}`."""

    @app.get("/v1/items/{item_id:path}", summary="One item", responses={404: {"model": ErrorReply}})
    def item(item_id: str) -> ItemReply:
        if catalogue.item(item_id) is None:
            raise HTTPException(404, f"item_id: must be in the catalogue, received {shown(item_id)}")
        return item_reply(catalogue, item_id)

    @app.get("/v1/users", summary="A few users to look at")
    def users(count: Annotated[int, Query(ge=1, le=50)] = 8) -> UsersReply:
        return UsersReply(
            users=[
                UserReply(user_id=name, events=catalogue.event_count(name), profile=catalogue.profile(name))
                for name in catalogue.example_users(count)
            ]
        )

    @app.get("/v1/history/{user_id:path}", summary="What a user did, most recent first")
    def history(user_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> HistoryReply:
        return HistoryReply(
            user_id=user_id,
            known_user=catalogue.knows_user(user_id),
            events=[
                HistoryEntry(
                    item=item_reply(catalogue, event.item_id),
                    event=event.kind,
                    timestamp=event.timestamp or None,
                    positive=event.positive,
                )
                for event in catalogue.history(user_id, limit)
            ],
        )

    def media(path: str) -> FileResponse:
        file = catalogue.media_file(path)
        if file is None:
            raise HTTPException(404, "path: must be a media file of the catalogue")
        kind = MEDIA_TYPES[Path(path).suffix.lower()]
        return FileResponse(file, media_type=kind, headers={"Cache-Control": "public, max-age=3600"})

    refusal: dict[int | str, dict[str, object]] = {404: {"model": ErrorReply}}
    app.get("/media/{path:path}", summary="A cover or a clip", response_class=FileResponse, responses=refusal)(media)
    app.head("/media/{path:path}", include_in_schema=False, response_class=FileResponse)(media)


def add_page(app: FastAPI) -> None:
    """`/`, with a policy under which nothing but the page's own script and style runs."""
    page = PAGE.read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
        f"script-src {inline_hash(page, 'script')}; style-src {inline_hash(page, 'style')}; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )

    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


def item_reply(catalogue: LiveCatalogue, item_id: str) -> ItemReply:
    """The item's metadata; only its id when the catalogue is older than the model that named it."""
    item = catalogue.item(item_id)
    return ItemReply(item_id=item_id) if item is None else ItemReply(**item.as_json())


def inline_hash(page: str, tag: str) -> str:
    """The Content-Security-Policy source of the page's one inline element: only that very text may run.

    Example:
        >>> inline_hash("<style></style>", "style")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    if len(parts) != 1:
        raise ValueError(f"page: must have one <{tag}> element without attributes, received {len(parts)}")
    return f"'sha256-{base64.b64encode(hashlib.sha256(parts[0].encode()).digest()).decode()}'"
