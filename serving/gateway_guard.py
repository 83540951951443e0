"""What every request to the gateway passes first: a size limit, safe headers, a count in the metrics."""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway_metrics import GatewayMetrics

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Set unless the reply has its own. JSON and media need no script, style or frame."""
METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})


class Guard:
    """ASGI middleware.

    Args:
        app: the application behind it.
        metrics: where requests are counted, by route template (never by raw path, which a caller could vary for ever).
        max_body_bytes: larger bodies are refused with 413, whether or not they announce their length.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, max_body_bytes: int) -> None:
        self.app = app
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500
        received = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        async def guarded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        try:
            announced = Headers(scope=scope).get("content-length", "0")
            if announced.isdecimal() and int(announced) > self.max_body_bytes:
                await _refuse(guarded_send, 413, self._too_large())
            else:
                await self.app(scope, guarded_receive, guarded_send)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            template = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(template, method, str(status)).inc()

    def _too_large(self) -> str:
        return f"body: must be at most {self.max_body_bytes} bytes; send fewer ids"


async def _refuse(send: Send, status: int, error: str) -> None:
    body = json.dumps({"error": error, "details": []}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
