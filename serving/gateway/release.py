"""Which release answers: noticed from every answer, and asked for from time to time while none comes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from serving.json_log import FIELDS
from serving.status import ServingError

logger = logging.getLogger(__name__)


class ReleaseWatch:
    """Knows the versions of the last answer and tells when they change. Thread safe.

    Without the asking, answers from a cache could outlive the release that they came from. A label moves without a trace
    in the server's status, so a request is the only way to ask.

    Args:
        ask: answers one small request and returns the versions that answered it, by model.
        seconds: between two questions.

    Example:
        >>> watch = ReleaseWatch(lambda: {"retrieval": 2}, seconds=60.0)
        >>> changes = []
        >>> watch.on_change(lambda versions: changes.append(dict(versions)))
        >>> watch.seen({"retrieval": 1}); watch.seen({"retrieval": 1}); watch.seen({"retrieval": 2})
        >>> changes
        [{'retrieval': 1}, {'retrieval': 2}]
    """

    def __init__(self, ask: Callable[[], Mapping[str, int]], seconds: float) -> None:
        self._ask, self._seconds = ask, seconds
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self._listeners: list[Callable[[Mapping[str, int]], object]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def on_change(self, listener: Callable[[Mapping[str, int]], object]) -> None:
        """Adds a function that is called with the new versions, in the order of adding, whenever they change."""
        self._listeners.append(listener)

    def seen(self, versions: Mapping[str, int]) -> None:
        """Takes in the versions of an answer."""
        with self._lock:
            changed = {**self._versions, **versions} != self._versions
            self._versions.update(versions)
            now = dict(self._versions)
        if changed:
            logger.info("release", extra={FIELDS: {"versions": now}})
            for listener in self._listeners:
                listener(now)

    def start(self) -> None:
        """Begins to ask."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="release-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops asking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            try:
                self.seen(self._ask())
            except ServingError as error:
                logger.warning("the model server did not answer", extra={FIELDS: {"code": error.code.name}})
            except Exception:  # a listener's fault must not end the watch
                logger.exception("watching the release failed")
            if self._stop.wait(self._seconds):
                return
