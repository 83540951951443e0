"""What the gateway takes and gives: request and reply bodies, every field bounded."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from data.columns import MAX_ID_BYTES
from ranking.policy import BOUNDS, Policy

MAX_ID_LENGTH = 256
MAX_RECENT = 200
MAX_EXCLUDED = 1000
MAX_K = 100
MAX_CANDIDATES = 1000
MAX_ALLOWED = 1000
MAX_CONTEXT = 32
MAX_PROFILE = 32

Id = Annotated[str, Field(max_length=MAX_ID_LENGTH)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]


def _fits_a_vocabulary(text: str) -> str:
    if len(text.encode()) > MAX_ID_BYTES:
        raise ValueError(f"must be at most {MAX_ID_BYTES} bytes in UTF-8, received {len(text.encode())}")
    return text


KeptId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00-\x1f\x7f\x85\u2028\u2029]+$"),
    AfterValidator(_fits_a_vocabulary),
]
"""An id that a log or a catalogue will hold: on one line, as the ingest wants it."""


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64, without line breaks") from None
    return text


Base64 = Annotated[str, Field(max_length=32 * 2**20), AfterValidator(_is_base64)]
"""A file itself."""


def _is_a_pair(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError(f"must be 'name=value', received {text!r}")
    return text


def _is_a_weight(text: str) -> str:
    name, _, value = _is_a_pair(text).partition("=")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{name}: must be a number, received {value!r}") from None
    Policy().with_weights({name: number})
    return text


Pair = Annotated[str, Field(max_length=2 * MAX_ID_LENGTH), AfterValidator(_is_a_pair)]
Weight = Annotated[str, Field(max_length=MAX_ID_LENGTH), AfterValidator(_is_a_weight)]


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
    exclude_seen: bool = Field(True, description="Also leave out what the user's log already holds.")
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
    the user then did; `heads` has every head's probability.
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
