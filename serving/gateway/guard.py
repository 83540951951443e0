"""What every request to the gateway passes first: a trace, who calls, a size limit, safe headers, its line in the log."""

from __future__ import annotations

import json
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway.access import Access, Refusal
from serving.gateway.metrics import GatewayMetrics
from serving.json_log import FIELDS, NOTES
from serving.trace_context import CURRENT, HEADER, continue_trace

logger = logging.getLogger(__name__)

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Set unless the reply has its own. JSON and media need no script, style or frame."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
ITEMS_PATH, MEDIA_SEARCH_PATH = "/v1/items", "/v1/search/media"


class Guard:
    """ASGI middleware.

    Args:
        app: the application behind it.
        metrics: where requests are counted, by route template (never by raw path, which a caller could vary for ever).
        access: who may call.
        max_body_bytes, max_item_bytes: larger bodies are refused with 413, whether or not they announce their length;
            the second holds for items and for search by media.
    """

    def __init__(
        self, app: ASGIApp, metrics: GatewayMetrics, access: Access, max_body_bytes: int, max_item_bytes: int
    ) -> None:
        self.app, self.metrics, self.access = app, metrics, access
        self.max_body_bytes, self.max_item_bytes = max_body_bytes, max_item_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, received = 500, 0
        given = Headers(scope=scope)
        trace = continue_trace(given.get(HEADER))
        notes: dict[str, object] = {}
        tokens = CURRENT.set(trace), NOTES.set(notes)
        limit = self.max_item_bytes if scope["path"].startswith((ITEMS_PATH, MEDIA_SEARCH_PATH)) else self.max_body_bytes

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers[HEADER] = trace.header
            await send(message)

        async def guarded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        try:
            client = scope.get("client")
            caller = self.access.check(
                scope["method"],
                scope["path"],
                client[0] if client else "",
                given.get("host", ""),
                given.get("authorization", ""),
            )
            if isinstance(caller, Refusal):
                await _refuse(guarded_send, caller)
                return
            notes["caller"] = caller.name
            announced = given.get("content-length", "0")
            if announced.isdecimal() and int(announced[:20]) > limit:
                await _refuse(guarded_send, Refusal(413, _too_large(limit)))
            else:
                await self.app(scope, guarded_receive, guarded_send)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            template = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(template, method, str(status)).inc()
            seconds = round(time.perf_counter() - started, 6)
            facts = {"route": template, "method": method, "status": status, "seconds": seconds, "bytes": received}
            logger.info("request", extra={FIELDS: {**facts, "span_id": trace.span_id, **notes}})
            CURRENT.reset(tokens[0])
            NOTES.reset(tokens[1])


def _too_large(limit: int) -> str:
    return f"body: must be at most {limit} bytes; send fewer ids, or smaller media"


async def _refuse(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.error, "details": []}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
