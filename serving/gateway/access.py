"""Who may call what: scopes by path, keys, rates, and the loopback rule of a gateway without keys."""

from __future__ import annotations

import dataclasses
import ipaddress
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from serving.gateway.keys import ApiKey, KeyRing, Scope

EVERYBODY = ("/", "/engineers", "/healthz", "/openapi.json", "/media")
"""Paths that need no key: the pages, whose own requests need one; the pictures and clips that it shows; the health check
of whatever watches the gateway; and the description of the rest."""

SCOPES: tuple[tuple[str, frozenset[str] | None, Scope], ...] = (
    ("/v1/recommend", None, "recommend"),
    ("/v1/search", None, "recommend"),
    ("/v1/similar", None, "recommend"),
    ("/v1/explain", None, "recommend"),
    ("/v1/domains", None, "recommend"),
    ("/v1/profile", None, "recommend"),
    ("/v1/items", frozenset({"GET", "HEAD"}), "recommend"),
    ("/v1/items", None, "items"),
    ("/v1/feedback", None, "feedback"),
)
"""(path and everything below it, methods, scope), the first that fits. Whatever is not here needs `admin`."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a request goes no further: status, error in words, further headers."""

    status: int
    error: str
    headers: tuple[tuple[str, str], ...] = ()


class Caller(NamedTuple):
    """Whose request it is: the name of the key, or "open"."""

    name: str


class TokenBucket:
    """At most `burst` requests at once and `rate` a second for long.

    Example:
        >>> bucket = TokenBucket(rate=2.0, burst=1, now=0.0)
        >>> bucket.take(0.0), bucket.take(0.1), bucket.take(0.5)
        (0.0, 0.4, 0.0)
    """

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._tokens, self._at = float(burst), now
        self._lock = threading.Lock()

    def take(self, now: float) -> float:
        """Takes one; 0, or the seconds after which there will be one."""
        with self._lock:
            self._tokens = min(self.burst, self._tokens + max(now - self._at, 0.0) * self.rate)
            self._at = max(now, self._at)
            if self._tokens >= 1.0:
                self._tokens -= 1.0
                return 0.0
            return (1.0 - self._tokens) / self.rate


class Access:
    """Decides on a request before its body is read.

    Args:
        keys: None = open, to callers on this machine alone, by its own name.
        rate, burst: of a key whose line gives none.
        clock: seconds that never go back.
    """

    def __init__(
        self, keys: KeyRing | None, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys, self._rate, self._burst, self._clock = keys, rate, burst, clock
        self._lock = threading.Lock()
        self._buckets: dict[str, TokenBucket] = {}

    def check(self, method: str, path: str, client: str, host: str, authorization: str) -> Caller | Refusal:
        """Who calls, or why not.

        Args:
            method, path: of the request, the path decoded as routes see it.
            client: address of the caller. host, authorization: headers, "" where absent.
        """
        if self._keys is None:
            return _local(client, host)
        scope = required_scope(method, path)
        if scope is None:
            return Caller("everybody")
        kind, _, presented = authorization.partition(" ")
        if kind.lower() != "bearer" or not presented:
            return _unauthorized("a key is needed: send 'Authorization: Bearer KEY'")
        key = self._keys.find(presented.strip())
        if key is None:
            return _unauthorized("the key is not known or has expired; ask for a new one")
        wait = self._bucket(key).take(self._clock())
        if wait:
            seconds = str(int(wait) + 1)
            return Refusal(429, f"too many requests with this key; wait {seconds} s", (("Retry-After", seconds),))
        if not key.may(scope):
            return Refusal(403, f"the key may not do this: it needs the scope {scope!r} and has {sorted(key.scopes)}")
        return Caller(key.name)

    def _bucket(self, key: ApiKey) -> TokenBucket:
        rate, burst = key.requests_per_second or self._rate, key.burst or self._burst
        with self._lock:
            bucket = self._buckets.get(key.id)
            if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
                bucket = self._buckets[key.id] = TokenBucket(rate, burst, self._clock())
            return bucket


def required_scope(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None where anybody may ask.

    Example:
        >>> [required_scope("GET", path) for path in ("/", "/v1/items/a/b", "/v1/itemsy", "/media/a.png", "/metrics")]
        [None, 'recommend', 'admin', None, 'admin']
        >>> required_scope("DELETE", "/v1/items/a")
        'items'
    """
    if any(_below(path, start) for start in EVERYBODY):
        return None
    for start, methods, scope in SCOPES:
        if _below(path, start) and (methods is None or method in methods):
            return scope
    return "admin"


def _below(path: str, start: str) -> bool:
    return path == start or (start != "/" and path.startswith(start + "/"))


def _local(client: str, host: str) -> Caller | Refusal:
    """Without keys: callers on this machine. A name with a dot in `Host` may be a page elsewhere whose name was pointed
    at this machine, which its visitor's browser would then read out."""
    address = _address(client)
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    strange = "." in name and _address(name.strip("[]")) is None
    if (address is not None and not address.is_loopback) or strange:
        return Refusal(403, "the gateway has no key file and answers this machine alone; give it one: settings `keys`")
    return Caller("open")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _unauthorized(error: str) -> Refusal:
    return Refusal(401, error, (("WWW-Authenticate", "Bearer"),))
