"""Feedback: what people did with what they were shown, as it comes in and as it is kept."""

from __future__ import annotations

import math
import re
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from data.pseudonyms import MARK
from serving.request_fields import Id, ItemId, KeptId

MAX_EVENTS = 500
FUTURE_SECONDS = 300
"""How far a caller's clock may run ahead."""
CONTEXT_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
TAKEN = ("split", "review", "place_propensity", MARK)
"""Names that mean something else in a dataset folder."""
COLUMNS = ("user_id", "item_id", "timestamp", "event", "value", "position", "propensity", "session_id", "event_id", "received")
"""Of a kept event, beside one column for each name of its context. What follows `propensity` is the log's own."""
OWN_COLUMNS = ("session_id", "event_id", "received")

Kind = Literal[
    "view", "click", "like", "purchase", "skip", "rating", "interaction", "watch", "listen", "share", "dislike"
]  # `data.schema.EVENT_KINDS`, as a type


class FeedbackEvent(BaseModel):
    """One event. Its id makes it count once, however often it is sent: a caller that got no answer sends it again.

    Example:
        >>> FeedbackEvent(user_id="u1", item_id="i1", event="like").event
        'like'
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        str_strip_whitespace=True,
        json_schema_extra={
            "examples": [
                {"event_id": "7d0e6f0a-93b1", "user_id": "u00001", "item_id": "r00007", "event": "click", "position": 3},
                {"user_id": "u00001", "item_id": "r00009", "event": "rating", "value": 4.5, "context": {"device": "phone"}},
            ]
        },
    )

    event_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = Field(
        None, description="The caller's name for this event, unique among all; null = one is drawn, and nothing is lost "
        "but the protection against counting twice.",
    )  # fmt: skip
    user_id: KeptId = Field(description="Who.")
    item_id: ItemId = Field(description="What; an item of the catalogue.")
    event: Kind = Field(description="What happened.")
    timestamp: int | None = Field(None, ge=0, lt=2**40, description="When, in UTC seconds; null = now.")
    value: float | None = Field(None, allow_inf_nan=False, ge=-1e9, le=1e9, description="A rating, seconds watched.")
    position: int | None = Field(None, ge=1, le=10_000, description="The place at which it was shown, from 1.")
    propensity: float | None = Field(
        None, gt=0, le=1, description="As the recommendation told it: the probability with which the item was chosen for its "
        "place given those above it."
    )  # fmt: skip
    session_id: Id = Field("", description="The visit; the next request of the same visit knows of the event.")
    context: dict[str, Annotated[str, Field(max_length=100)]] = Field(
        {}, max_length=16, description="What else was known, such as the device; each name becomes a column."
    )

    @field_validator("context")
    @classmethod
    def _names_are_columns(cls, context: dict[str, str]) -> dict[str, str]:
        for name in context:
            if not CONTEXT_NAME.fullmatch(name) or name in COLUMNS or name in TAKEN:
                raise ValueError(
                    f"a name must be of a-z, 0-9 and _, begin with a letter, have at most 32 characters and be no column "
                    f"of its own ({', '.join((*COLUMNS, *TAKEN))}), received {ascii(name)[:80]}"
                )
        return context

    def row(self, now: float) -> dict[str, Any]:
        """The event as it is kept; see `COLUMNS`.

        Args:
            now: UTC seconds.
        """
        return {
            "user_id": self.user_id,
            "item_id": self.item_id,
            "timestamp": int(now) if self.timestamp is None else self.timestamp,
            "event": self.event,
            "value": self.value,
            "position": self.position,
            "propensity": self.propensity,
            "session_id": self.session_id,
            "event_id": self.event_id or uuid.uuid4().hex,
            "received": math.floor(now),
            **{name: value for name, value in self.context.items() if value},
        }


class FeedbackRequest(BaseModel):
    """Events in the order in which they happened."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events: list[FeedbackEvent] = Field(min_length=1, max_length=MAX_EVENTS)


class RefusedEvent(BaseModel):
    place: int = Field(description="In the request, from 0.")
    error: str


class FeedbackReply(BaseModel):
    """Every event that is not among the refused is on disk."""

    event_ids: list[str | None] = Field(description="Of each event, in order; null where it was refused.")
    accepted: int = Field(description="Events that are new.")
    duplicates: int = Field(description="Events that had been accepted before under the same id.")
    refused: list[RefusedEvent]
