"""The gateway's route for feedback: events are checked, put on disk, and known to the next request."""

from __future__ import annotations

import time

from fastapi import FastAPI, HTTPException

from serving.feedback.events import (
    FUTURE_SECONDS,
    FeedbackEvent,
    FeedbackReply,
    FeedbackRequest,
    RefusedEvent,
)
from serving.feedback.log import FeedbackError
from serving.gateway.errors import shown
from serving.gateway.messages import ErrorReply
from serving.gateway.parts import GatewayParts, owners
from serving.json_log import note


def add_feedback_route(app: FastAPI, parts: GatewayParts) -> None:
    """`/v1/feedback`; 503 when the disk refuses, after which the same events are to be sent again."""

    @app.post("/v1/feedback", summary="What people did with items", responses={503: {"model": ErrorReply}})
    def feedback(request: FeedbackRequest) -> FeedbackReply:
        """When this answers, every event that is not refused is on disk.

        Events are kept once by their `event_id`: one that was not answered may be sent again without counting twice.
        """
        now = time.time()
        good, refused = [], []
        for place, event in enumerate(request.events):
            error = _fault(parts, event, now)
            if error is None:
                good.append((place, event, event.row(now)))
            else:
                refused.append(RefusedEvent(place=place, error=error))
                parts.metrics.feedback.labels(event.event, "refused").inc()
        try:
            with parts.metrics.stage("feedback"):
                new = parts.feedback.append([row for _, _, row in good]) if good else []
        except FeedbackError as error:
            raise HTTPException(503, f"events: {error}", {"Retry-After": "1"}) from None
        ids: list[str | None] = [None] * len(request.events)
        for (place, event, row), is_new in zip(good, new, strict=True):
            ids[place] = row["event_id"]
            parts.metrics.feedback.labels(event.event, "new" if is_new else "duplicate").inc()
            if is_new:
                _remember(parts, event)
        users = {event.user_id for _, event, _ in good}
        if len(users) == 1:
            parts.note_user(users.pop())
        accepted = sum(new)
        note(events=len(request.events), accepted=accepted)
        return FeedbackReply(event_ids=ids, accepted=accepted, duplicates=len(new) - accepted, refused=refused)


def _fault(parts: GatewayParts, event: FeedbackEvent, now: float) -> str | None:
    """Why an event cannot be taken; None when it can."""
    if parts.catalogue.item(event.item_id) is None:
        return f"item_id: must be in the catalogue, received {shown(event.item_id)}"
    if event.timestamp is not None and event.timestamp > now + FUTURE_SECONDS:
        return f"timestamp: must not lie in the future (in seconds, not milliseconds), received {event.timestamp}"
    if event.event == "rating" and event.value is None:
        return "value: a rating needs one, received null"
    return None


def _remember(parts: GatewayParts, event: FeedbackEvent) -> None:
    """The next request differs already: the session knows of the event, and answers from before are dropped."""
    whose = [owner for owner in owners(event.user_id, event.session_id) if owner]
    for owner in whose:
        parts.sessions.add(owner, event.item_id, event.event)
    parts.cache.forget(*whose)
