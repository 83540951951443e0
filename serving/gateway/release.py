"""Which release answers: noticed from every answer, and asked for from time to time while none comes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from serving.json_log import FIELDS
from serving.release_number import base_version
from serving.status import ServingError

logger = logging.getLogger(__name__)

SETTLE_POLLS = 3
"""Questions for whose time an older release alone has to answer before it is followed."""
RETRY_SECONDS, LONGEST_WAIT = 1.0, 60.0


class ReleaseWatch:
    """Knows the versions that answer and tells when they change. Thread safe.

    Without the asking, answers from a cache could outlive the release that they came from. A label moves without a trace
    in the server's status, so a request is the only way to ask.

    Several servers take a promotion over one after another, and answers alternate meanwhile. A newer version is followed at
    its first answer. An older one, of a server that is late or of a roll back, is followed when it has answered for a while
    and the newer one has not once.

    Once started, listeners run in the watch's own thread, one after another, since one of them may read a whole catalogue;
    before, in that of the answer. One that fails is told again, and holds up none of the others.

    Args:
        ask: answers one small request and returns the versions that answered it, by model.
        seconds: between two questions.
        settle: seconds for which an older version alone has to answer; None = three questions' time.

    Example:
        >>> watch = ReleaseWatch(lambda: {"retrieval": 2}, seconds=60.0)
        >>> changes = []
        >>> watch.on_change(lambda versions: changes.append(dict(versions)))
        >>> watch.seen({"retrieval": 1}); watch.seen({"retrieval": 1}); watch.seen({"retrieval": 2})
        >>> watch.seen({"retrieval": 1}); watch.follows({"retrieval": 1})  # of a server that is late
        False
        >>> changes
        [{'retrieval': 1}, {'retrieval': 2}]
    """

    def __init__(self, ask: Callable[[], Mapping[str, int]], seconds: float, settle: float | None = None) -> None:
        self._ask, self._seconds = ask, seconds
        self._settle = SETTLE_POLLS * seconds if settle is None else settle
        self._lock = threading.Lock()
        self._followed: dict[str, int] = {}
        self._older_since: dict[str, float] = {}
        self._listeners: list[Callable[[Mapping[str, int]], object]] = []
        self._told: list[Mapping[str, int]] = []
        self._behind = False
        self._telling = threading.Lock()  # held through the listeners, and never by an answer once the thread runs
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def on_change(self, listener: Callable[[Mapping[str, int]], object]) -> None:
        """Adds a function that is called with the new versions, in the order of adding, whenever they change."""
        self._listeners.append(listener)
        self._told.append({})

    def seen(self, versions: Mapping[str, int]) -> None:
        """Takes in the versions of an answer."""
        with self._lock:
            changed = [model for model, version in versions.items() if self._takes(model, version)]
            self._followed.update({model: versions[model] for model in changed})
            self._behind |= bool(changed)
            behind, now = self._behind, dict(self._followed)
        if changed:
            logger.info("release", extra={FIELDS: {"versions": now}})
        if self._thread is None:
            if behind:
                self._tell()
        elif changed:
            self._wake.set()

    def follows(self, versions: Mapping[str, int]) -> bool:
        """Whether an answer of these versions is of the release that is followed, rather than of a server that is late."""
        with self._lock:
            return all(self._followed.get(model) == version for model, version in versions.items())

    def start(self) -> None:
        """Begins to ask."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="release-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops asking."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _takes(self, model: str, version: int) -> bool:
        """Whether an answer makes a model's version the one that is followed; called under the lock."""
        followed = self._followed.get(model)
        if version == followed or followed is None or _age(version) > _age(followed):
            self._older_since.pop(model, None)
            return version != followed
        now = time.monotonic()
        if now - self._older_since.setdefault(model, now) < self._settle:
            return False
        del self._older_since[model]
        return True

    def _tell(self) -> bool:
        """Tells every listener the newest versions, until all know them; False where one failed at it."""
        with self._telling:
            while True:
                failed = False
                for place, listener in enumerate(self._listeners):
                    with self._lock:
                        now = dict(self._followed)
                    if self._told[place] == now:
                        continue
                    try:
                        listener(now)
                        self._told[place] = now
                    except Exception:  # whatever its fault is, the others are to be told
                        failed = True
                        logger.exception("a release was not taken over; it is tried again")
                with self._lock:
                    self._behind = any(told != self._followed for told in self._told)
                    if failed or not self._behind:
                        return not failed

    def _run(self) -> None:
        next_question, next_try, wait = 0.0, 0.0, RETRY_SECONDS
        while not self._stop.is_set():
            changed = self._wake.is_set()
            self._wake.clear()
            if self._behind and (changed or time.monotonic() >= next_try):
                if self._tell():
                    wait = RETRY_SECONDS
                else:
                    next_try, wait = time.monotonic() + wait, min(2 * wait, LONGEST_WAIT)
            if time.monotonic() >= next_question:
                self._question()
                next_question = time.monotonic() + self._seconds
            upcoming = min(next_question, next_try) if self._behind else next_question
            self._wake.wait(max(upcoming - time.monotonic(), 0.0))

    def _question(self) -> None:
        try:
            self.seen(self._ask())
        except ServingError as error:
            logger.warning("the model server did not answer", extra={FIELDS: {"code": error.code.name}})
        except Exception:  # a fault in one question must not end the watch
            logger.exception("watching the release failed")


def _age(version: int) -> tuple[int, int]:
    """Versions in the order of their making: a release comes behind the updates of the one before it."""
    return base_version(version), version
