"""What the gateway's routes share: settings, catalogue, the recommender behind them, and what they remember."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from serving.catalogue.live_catalogue import LiveCatalogue
from serving.catalogue.live_items import LiveItems
from serving.feedback.log import FeedbackLog
from serving.gateway.cache import AnswerCache
from serving.gateway.drift import Coverage, ScoreDrift
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.release import ReleaseWatch
from serving.gateway.session import Session, Sessions
from serving.gateway.settings import GatewaySettings
from serving.json_log import UserHash, note

if TYPE_CHECKING:  # its protocol messages bring TensorFlow with them
    from serving.client.recommender import Recommender


@dataclasses.dataclass(frozen=True)
class GatewayParts:
    """One application's parts, made in `serving.gateway.app.create_app` and handed to every group of routes."""

    settings: GatewaySettings
    catalogue: LiveCatalogue
    recommender: Recommender
    metrics: GatewayMetrics
    cache: AnswerCache
    sessions: Sessions
    release: ReleaseWatch
    drift: ScoreDrift
    coverage: Coverage
    user_hash: UserHash
    feedback: FeedbackLog
    live: LiveItems

    def session(self, user_id: str, session_id: str) -> Session:
        """What a user did just now, in this session before any other of theirs."""
        own, users = (self.sessions.of(key) for key in owners(user_id, session_id)[::-1])
        positive = tuple(dict.fromkeys((*own.positive, *users.positive)))
        return Session(positive, tuple(dict.fromkeys(i for i in (*own.skipped, *users.skipped) if i not in positive)))

    def note_user(self, user_id: str) -> None:
        """Puts the hash of a user id into the request's log line."""
        note(user=self.user_hash(user_id) if user_id else None)


def owners(user_id: str, session_id: str) -> tuple[str, str]:
    """Names of a user and of a session that cannot be mistaken for one another; "" for nobody.

    Example:
        >>> owners("ann", "")
        ('user:ann', '')
    """
    return f"user:{user_id}" if user_id else "", f"session:{session_id}" if session_id else ""
