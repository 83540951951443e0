"""What the gateway takes and gives: request and reply bodies, every field bounded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ranking.policy import BOUNDS
from serving.request_fields import (
    MAX_ALLOWED,
    MAX_CANDIDATES,
    MAX_CONTEXT,
    MAX_EXCLUDED,
    MAX_K,
    MAX_PROFILE,
    MAX_RECENT,
    Id,
    ItemId,
    Pair,
    Weight,
)


class RecommendRequest(BaseModel):
    """A request for ranked items, as a JSON body (POST) or as query parameters (GET, lists by repeating a name).

    Example:
        >>> RecommendRequest(user_id="u1", k=5).candidates
        200
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        str_strip_whitespace=True,
        json_schema_extra={"examples": [{"user_id": "u00001", "k": 5}, {"recent_item_ids": ["r00007", "r00012"]}]},
    )

    user_id: Id = Field("", description="Whom the items are for; any string. One never seen gets cold-start items.")
    session_id: Id = Field("", description="Whose feedback just now counts too, for visitors without a user id.")
    recent_item_ids: list[ItemId] = Field(
        [],
        max_length=MAX_RECENT,
        description="Most recent first; empty = the stored history. Feedback of the last minutes goes before either.",
    )
    exclude_item_ids: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="Never answered.")
    exclude_seen: bool = Field(
        True,
        description="Also leave out what the user's log holds by now. False brings back popular stand-ins alone: a release "
        "never answers what a user had seen when it was made, nor recent items. To offer those again, as where people buy "
        "the same once more, ask without user_id, by recent_item_ids (those that may come again left out) and profile.",
    )
    allow_item_ids: list[ItemId] = Field(
        [], max_length=MAX_ALLOWED, description="The only items that may be answered; empty = all."
    )
    domain: Id = Field("", description="Only items of this domain, whose ids are sent along; empty = all.")
    policy: list[Weight] = Field(
        [], max_length=len(BOUNDS), description="Weights that differ from the release's, as in 'mmr_lambda=0.7'."
    )
    context: list[Pair] = Field(
        [], max_length=MAX_CONTEXT, description="What is known of the moment, as in 'device=phone'."
    )
    profile: list[Pair] = Field(
        [],
        max_length=MAX_PROFILE,
        description="Who asks, as in 'country=DE'; counts before what is stored of the user, column by column.",
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Length of the list.")
    candidates: int = Field(200, ge=1, le=MAX_CANDIDATES, description="How many items are retrieved and then ranked.")
    timestamp: int | None = Field(None, ge=0, lt=2**40, description="Time of the request in UTC seconds; null = now.")

    @model_validator(mode="after")
    def _list_fits_candidates(self) -> RecommendRequest:
        if self.k > self.candidates:
            raise ValueError(
                f"k: must be at most candidates, received k={self.k} and candidates={self.candidates}; "
                "ask for more candidates or a shorter list"
            )
        return self


class ItemReply(BaseModel):
    """An item as people see it; `image`, `audio` and `video` are addresses on this server, null when there is none."""

    item_id: str
    title: str = ""
    description: str = ""
    categories: str = ""
    price: float | None = None
    created: str | None = None
    domain: str = ""
    image: str | None = None
    audio: str | None = None
    video: str | None = None


class RankedReply(BaseModel):
    """One recommended item. The scores are null when popular items stand in for the model.

    `propensity` is the probability with which it was chosen for its place given the items above it, to be kept with what
    the user then did; `heads` has every head's probability, 0 of those that the release was not trained for.
    """

    rank: int
    item: ItemReply
    score: float | None = None
    click: float | None = None
    purchase: float | None = None
    heads: dict[str, float | None] = {}
    propensity: float | None = None
    retrieval_score: float | None = None
    retrieval_rank: int | None = None


class RecommendReply(BaseModel):
    """Ranked items, best first, and how they came about."""

    user_id: str
    known_user: bool
    fallback: bool = Field(description="True when popular items stand in because the model server did not answer.")
    fallback_reason: str | None = None
    cached: bool = Field(False, description="True when an equal request was answered a moment ago.")
    items: list[RankedReply]
    seconds: dict[str, float]
    versions: dict[str, int]


class DomainReply(BaseModel):
    domain: str
    items: int


class DomainsReply(BaseModel):
    """The parts of the catalogue that its items name as their domain, the largest first."""

    domains: list[DomainReply]


class ProfileReply(BaseModel):
    """What a visitor may say of themselves: the words of each profile column that several users share."""

    columns: dict[str, list[str]]


class HistoryEntry(BaseModel):
    item: ItemReply
    event: str
    timestamp: int | None
    positive: bool


class HistoryReply(BaseModel):
    """A user's log, most recent first; empty for a user never seen."""

    user_id: str
    known_user: bool
    events: list[HistoryEntry]


class UserReply(BaseModel):
    user_id: str
    events: int
    profile: dict[str, str]


class UsersReply(BaseModel):
    """A few users to look at, from the longest history to the shortest."""

    users: list[UserReply]


class HealthReply(BaseModel):
    """`status` is "ok" when every model has an AVAILABLE version and "degraded" when fallbacks are being answered."""

    status: str
    models: dict[str, dict[str, str]]
    error: str | None = None
    items: int
    users: int


class ErrorReply(BaseModel):
    """What every refusal looks like; `details` has one line a broken rule."""

    error: str
    details: list[str] = []
