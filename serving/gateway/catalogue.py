"""The gateway's routes that need no model: items, domains, profiles, users, histories and media."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse

from serving.catalogue.catalogue import MEDIA_TYPES
from serving.catalogue.live_catalogue import LiveCatalogue
from serving.gateway.errors import shown
from serving.gateway.messages import (
    DomainReply,
    DomainsReply,
    ErrorReply,
    HistoryEntry,
    HistoryReply,
    ItemReply,
    ProfileReply,
    UserReply,
    UsersReply,
)


def add_catalogue_routes(app: FastAPI, catalogue: LiveCatalogue) -> None:
    """`/v1/items/{item_id}`, `/v1/domains`, `/v1/profile`, `/v1/users`, `/v1/history/{user_id}` and `/media/{path}`."""

    @app.get("/v1/items/{item_id:path}", summary="One item", responses={404: {"model": ErrorReply}})
    def item(item_id: str) -> ItemReply:
        if catalogue.item(item_id) is None:
            raise HTTPException(404, f"item_id: must be in the catalogue, received {shown(item_id)}")
        return item_reply(catalogue, item_id)

    @app.get("/v1/domains", summary="Domains of the catalogue")
    def domains() -> DomainsReply:
        return DomainsReply(
            domains=[DomainReply(domain=name, items=len(ids)) for name, ids in catalogue.domains.items()]
        )

    @app.get("/v1/profile", summary="What a visitor may say of themselves")
    def profile() -> ProfileReply:
        return ProfileReply(columns=catalogue.profile_choices())

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


def item_reply(catalogue: LiveCatalogue, item_id: str) -> ItemReply:
    """The item's metadata; only its id when the catalogue is older than the model that named it."""
    item = catalogue.item(item_id)
    return ItemReply(item_id=item_id) if item is None else ItemReply(**item.as_json())
