"""Twenty thousand hostile requests to a gateway in front of real models: no 5xx, no hang, no trace of the inside.

    python benchmarks/hostile_requests.py --run runs/demo --data runs/world --requests 20000

Half are made from the gateway's OpenAPI, values of the wrong type, form and size among them (schemathesis); the other half
are raw bytes: broken HTTP, lengths that lie, path tricks, nested and truncated JSON. Prints how many were answered how, and
the slowest; exits with 1 where one was answered badly. What it changes goes into a temporary folder.
"""

from __future__ import annotations

import argparse
import collections
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from serving.gateway.app import GatewaySettings, create_app  # noqa: E402
from serving.local import LocalServer  # noqa: E402
from serving.releases.release import latest_release  # noqa: E402

SECONDS = 10.0
"""Longer than this is a hang."""
SIGNS = (b"Traceback", b'File "', b"site-packages", str(ROOT).encode())
PATHS = (
    "/v1/recommend", "/v1/search", "/v1/similar", "/v1/explain", "/v1/feedback", "/v1/items", "/v1/items/x", "/v1/users",
    "/v1/history/x", "/media/x.png", "/healthz", "/metrics", "/openapi.json", "/",
)  # fmt: skip
TRICKS = (
    "/media/../../etc/passwd", "/media/%2e%2e/%2e%2e/etc/passwd", "/media/..%252f..%252fetc/passwd", "/v1/items/../../metrics",
    "//etc/passwd", "/v1/items/%00", "/v1/items/" + "a" * 9000, "/\\..\\..\\windows", "http://evil.example/v1/recommend",
    "/v1/history/%ff%fe", "/media/" + "../" * 200 + "etc/passwd", "/%", "/v1/recommend?user_id=%", "*", "",
)  # fmt: skip
BODIES = (
    b"[" * 20_000, b'{"a":' * 5_000, b"\xff\xfe\x00", b'{"user_id": "\\ud800"}', b'{"k": 1e999}', b"{" + b'"a":1,' * 5_000,
    b'{"events": [' + b"{}," * 3_000 + b"{}]}", b'{"user_id": ' + b"9" * 5_000 + b"}", b"", b"null", b'"', b"\x00" * 1_000,
    b'{"query": "' + "\u202e\u0000".encode() * 200 + b'"}', b'{"image_base64": "' + b"A" * 200_000 + b'"}',
)  # fmt: skip


class Tally:
    """Answers by status, the slowest, and what was answered badly."""

    def __init__(self) -> None:
        self.statuses: collections.Counter[str] = collections.Counter()
        self.slowest, self.bad = 0.0, []

    def add(self, status: int | None, seconds: float, body: bytes, what: str) -> None:
        self.statuses["closed" if status is None else str(status)] += 1
        self.slowest = max(self.slowest, seconds)
        if (status or 0) >= 500 or seconds > SECONDS or any(sign in body for sign in SIGNS):
            self.bad.append(f"{status} after {seconds:.2f} s: {what[:300]}")


@contextmanager
def gateway(run: Path, data: Path, state: Path) -> Iterator[str]:
    """The newest release on a local server and a gateway before it; its address."""
    with LocalServer(latest_release(run / "releases") / "models.config") as server:
        app = create_app(GatewaySettings(run=run, source=data, state=state, target=server.target, clock="log"))
        web = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
        thread = threading.Thread(target=web.run, daemon=True)
        thread.start()
        while not web.started:
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
        finally:
            web.should_exit = True
            thread.join(timeout=10)


def from_description(url: str, count: int, tally: Tally) -> None:
    """Requests made from the OpenAPI, the same number of each operation."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=max(1, count // (2 * len(operations))), deadline=None, derandomize=True, database=None,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def ask(case: schemathesis.Case) -> None:
                response = case.call(timeout=2 * SECONDS)
                tally.add(response.status_code, response.elapsed, response.content, f"{case.method} {case.path}")
                case.validate_response(response, checks=[not_a_server_error])

            try:
                ask()
            except Unsatisfiable:
                continue  # a request without any input cannot be wrong


def raw_request(rng: random.Random, host: str) -> bytes:
    """One request as bytes on the wire, broken somewhere."""
    method = rng.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "G\x00T", "x" * 300])
    path = rng.choice(PATHS if rng.random() < 0.6 else TRICKS)
    body = rng.choice(BODIES) if rng.random() < 0.7 else rng.randbytes(rng.randrange(200))
    length = rng.choice([str(len(body))] * 6 + ["0", "-1", "99999999999999999999", "ten", "5, 5"])
    headers = [f"Host: {host}", "Content-Type: application/json", f"Content-Length: {length}"]
    headers += rng.sample(
        ["Transfer-Encoding: chunked", "Authorization: Bearer " + "x" * 5_000, "traceparent: 00-" + "f" * 500, "X: \x00",
         "Range: bytes=99999999999-", "Expect: 100-continue", "Cookie: " + "a=b; " * 2_000, "Content-Encoding: gzip",
         "Content-Type: multipart/form-data; boundary=x", "Connection: upgrade", "no colon here"],
        rng.randrange(3),
    )  # fmt: skip
    request = f"{method} {path} HTTP/1.1\r\n".encode("latin-1", "replace")
    request += "\r\n".join(headers).encode("latin-1", "replace") + b"\r\n\r\n" + body
    return request[: rng.randrange(len(request))] if rng.random() < 0.1 else request


def from_bytes(url: str, count: int, tally: Tally, say: Callable[[int], None]) -> None:
    """Raw requests, one a connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    rng = random.Random(7)
    for number in range(count):
        request, answer, started = raw_request(rng, host), b"", time.perf_counter()
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65_536):
                    answer += part
            except OSError:
                pass  # refused while it was still being sent: an answer, too
        status = int(answer[9:12]) if answer[:5] == b"HTTP/" and answer[9:12].isdigit() else None
        shown = b"" if b"\r\nContent-Type: text/html" in answer[:400] else answer
        tally.add(status, time.perf_counter() - started, shown, repr(request[:200]))
        if number % 2_000 == 0:
            say(number)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--data", type=Path, default=Path("runs/world"))
    parser.add_argument("--requests", type=int, default=20_000)
    given_arguments = parser.parse_args()
    tally, started = Tally(), time.perf_counter()
    run, data, half = given_arguments.run, given_arguments.data, given_arguments.requests // 2
    with tempfile.TemporaryDirectory() as state, gateway(run, data, Path(state)) as url:
        from_description(url, half, tally)
        left = given_arguments.requests - sum(tally.statuses.values())
        from_bytes(url, left, tally, lambda number: print(f"{number:,} raw", flush=True))
        alive = httpx.get(f"{url}/healthz", timeout=SECONDS).json()["status"]
    total = sum(tally.statuses.values())
    print(f"{total:,} requests in {time.perf_counter() - started:.0f} s; afterwards the gateway is {alive}")
    print("by status:", ", ".join(f"{status} {count:,}" for status, count in sorted(tally.statuses.items())))
    print(f"slowest {tally.slowest:.2f} s; answered badly: {len(tally.bad)}")
    for line in tally.bad[:20]:
        print(" ", line)
    return 1 if tally.bad or alive != "ok" else 0


if __name__ == "__main__":
    sys.exit(main())
