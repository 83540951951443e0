"""Who may call the gateway and what it says of them: keys, scopes, rates, traces, logs without anybody's name in them."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.access import Access, Refusal, TokenBucket, required_scope
from serving.gateway.app import GatewaySettings, create_app
from serving.gateway.keys import KeyRing, Scope, add_key, make_key, read_keys
from serving.gateway_server import main, server_config
from serving.json_log import JsonLines, UserHash
from serving.trace_context import continue_trace
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import write_folders

ROOT = Path(__file__).resolve().parents[3]
EVENT = {"events": [{"user_id": "ann", "item_id": "i1", "event": "view"}]}
REQUESTS: tuple[tuple[str, str, dict | None, Scope], ...] = (
    ("GET", "/v1/recommend?user_id=ann", None, "recommend"),
    ("POST", "/v1/search", {"query": "5"}, "recommend"),
    ("GET", "/v1/similar?item_id=i1", None, "recommend"),
    ("GET", "/v1/items/i1", None, "recommend"),
    ("POST", "/v1/feedback", EVENT, "feedback"),
    ("PUT", "/v1/items/i1", {"title": "9"}, "items"),
    ("DELETE", "/v1/items/i2", None, "items"),
    ("GET", "/v1/history/ann", None, "admin"),
    ("GET", "/v1/users", None, "admin"),
    ("GET", "/metrics", None, "admin"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_folders(tmp_path_factory.mktemp("access"))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A key file, and a key with each scope."""
    path, made = tmp_path / "keys.json", {}
    for scope in ("recommend", "feedback", "items", "admin"):
        made[scope], line = make_key(f"the {scope} key", (scope,))  # type: ignore[arg-type]
        add_key(path, line)
    return path, made


@pytest.fixture
def client(folders, keys) -> TestClient:
    settings = GatewaySettings(run=folders[0], source=folders[1], keys=keys[0])
    return TestClient(create_app(settings, FakeRecommender()), raise_server_exceptions=False)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_each_scope_opens_its_own_routes_and_admin_all(client: TestClient, keys) -> None:
    for method, path, body, needed in REQUESTS:
        assert client.request(method, path, json=body).status_code == 401, path
        for scope, key in keys[1].items():
            reply = client.request(method, path, json=body, headers=bearer(key))
            if scope in (needed, "admin"):
                assert reply.status_code < 400 or reply.status_code == 404, (path, scope, reply.text)
            else:
                assert reply.status_code == 403 and repr(needed) in reply.json()["error"], (path, scope)


def test_without_a_key_there_is_the_page_its_media_and_health(client: TestClient) -> None:
    for path in ("/", "/media/clips/1.wav", "/healthz", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    reply = client.get("/v1/recommend")
    assert reply.headers["www-authenticate"] == "Bearer" and "Authorization: Bearer KEY" in reply.json()["error"]
    assert client.get("/no/such/place").status_code == 401  # whatever is not known is not open


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
        lambda key: key[:3] + "0" * 12 + key[15:],
        lambda key: key.replace("tr_", "xx_"),
        lambda key: key[:16],
        lambda key: "",
        lambda key: key * 1000,
        lambda key: "é" + key,
        lambda key: "__",
    ],
)
def test_a_key_that_is_nearly_right_is_wrong(client: TestClient, keys, change: Callable[[str], str]) -> None:
    wrong = change(keys[1]["admin"])
    reply = client.get("/v1/recommend", headers=[(b"authorization", f"Bearer {wrong}".encode("latin-1", "replace"))])
    assert reply.status_code == 401
    assert client.get("/v1/recommend", headers={"Authorization": f"Basic {keys[1]['admin']}"}).status_code == 401


def test_the_file_has_salted_hashes_for_its_owner_alone(keys) -> None:
    path, made = keys
    text = path.read_text()
    assert not any(key.split("_")[2] in text for key in made.values())
    lines = read_keys(path).keys
    assert len({line.salt for line in lines}) == len({line.hash for line in lines}) == 4
    assert os.stat(path).st_mode & 0o077 == 0


def test_a_withdrawn_or_expired_key_opens_nothing(keys, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made = keys
    monkeypatch.setattr("serving.gateway.keys.RELOAD_SECONDS", 0.0)
    ring = KeyRing(path)
    assert ring.find(made["items"]) is not None
    kept = json.loads(path.read_text())
    kept["keys"] = [{**line, "expires": 100} for line in kept["keys"] if line["name"] != "the items key"]
    path.write_text(json.dumps(kept))
    assert ring.find(made["items"]) is None
    assert ring.find(made["admin"], now=99) is not None and ring.find(made["admin"], now=101) is None
    path.write_text("{")
    assert ring.find(made["admin"], now=99) is None  # rather than go on with what may have been withdrawn
    with pytest.raises(ValueError, match="breaks the form of a key file"):
        KeyRing(path)


def test_a_key_file_that_can_be_read_again_is(keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its mode or owner alone; its content is as it was."""
    path, made = keys
    monkeypatch.setattr("serving.gateway.keys.RELOAD_SECONDS", 0.0)
    ring = KeyRing(path)

    def refuse(path: Path) -> None:
        raise ValueError("keys: Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("serving.gateway.keys.read_keys", refuse)
        os.utime(path)
        assert ring.find(made["admin"]) is None
    time.sleep(0.02)  # of which the clock of a file system takes note
    path.chmod(0o640)
    assert ring.find(made["admin"]) is not None


@pytest.mark.parametrize("owner", [None, 10001])
def test_a_key_file_keeps_its_owner_and_mode(keys, owner: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway runs as another user than who adds a key."""
    path, made = keys
    path.chmod(0o640)
    if owner is not None:
        if os.getuid() != 0:
            pytest.skip("root alone gives a file away")
        os.chown(path, owner, owner)
    before = path.stat()
    key, line = make_key("shop", ("recommend",))
    add_key(path, line)
    after = path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert KeyRing(path).find(key) is not None and KeyRing(path).find(made["admin"]) is not None
    if owner is None:
        return

    def refuse(*args: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ValueError, match=r"is of user 10001 and group 10001, .*sudo"):
        add_key(path, line)
    assert path.stat().st_ino == after.st_ino and [file.name for file in path.parent.iterdir()] == [path.name]


def test_rates_are_per_key(folders, keys, tmp_path: Path) -> None:
    path, made = keys
    slow, line = make_key("slow", ("recommend",), requests_per_second=0.01, burst=3)
    add_key(path, line)
    settings = GatewaySettings(run=folders[0], keys=path, requests_per_second=1000)
    client = TestClient(create_app(settings, FakeRecommender()))
    answers = [client.get("/v1/recommend", headers=bearer(slow)) for _ in range(5)]
    assert [reply.status_code for reply in answers] == [200, 200, 200, 429, 429]
    assert 90 <= int(answers[-1].headers["retry-after"]) <= 101
    assert client.get("/v1/recommend", headers=bearer(made["recommend"])).status_code == 200


@given(
    rate=st.floats(0.1, 100), burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 2, allow_subnormal=False), min_size=1, max_size=60),
)  # fmt: skip
def test_a_bucket_never_gives_more_than_its_rate(rate: float, burst: int, gaps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        taken += wait == 0
        assert taken <= burst + rate * now + 1e-6
        assert wait == 0 or 0 < wait <= 1 / rate + 1e-9


@pytest.mark.parametrize(
    ("address", "host", "allowed"),
    [
        ("127.0.0.1", "localhost:8080", True),
        ("::1", "[::1]:8080", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("10.0.0.7", "localhost", False),
        ("2001:db8::1", "localhost", False),
        ("127.0.0.1", "shop.example.org", False),  # a name that somebody has pointed at this machine
        ("127.0.0.1", "", True),
    ],
)
def test_without_a_key_file_this_machine_alone_is_answered(address: str, host: str, allowed: bool) -> None:
    answer = Access(None, 1.0, 1).check("GET", "/v1/recommend", address, host, "")
    assert isinstance(answer, Refusal) is not allowed
    if isinstance(answer, Refusal):
        assert answer.status == 403 and "no key file" in answer.error


def test_a_server_that_others_could_reach_needs_a_key_file(folders, tmp_path: Path, capsys) -> None:
    settings = GatewaySettings(run=folders[0])
    for host in ("0.0.0.0", "192.168.1.5", "example.org", "::"):
        with pytest.raises(ValueError, match="answers this machine alone"):
            server_config(settings, host, 0)
    assert main(["--run", str(folders[0]), "--host", "0.0.0.0"]) == 2
    assert "--add-key" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "none.toml")]) == 2
    (tmp_path / "bad.toml").write_text(f'run = "{folders[0]}"\ndeadline_seconds = 0\ncertificate = "x.pem"\n')
    assert main(["--config", str(tmp_path / "bad.toml")]) == 2
    said = capsys.readouterr().err
    assert "deadline_seconds" in said and "greater than 0" in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl")
def test_tls(folders, keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, private_key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", private_key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    given_settings = GatewaySettings(run=folders[0], keys=keys[0], certificate=certificate, private_key=private_key)
    monkeypatch.setattr("serving.gateway_server.create_app", lambda settings: create_app(settings, FakeRecommender()))
    server = uvicorn.Server(server_config(given_settings, "127.0.0.1", 0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        trusted = ssl.create_default_context(cafile=str(certificate))
        reply = httpx.get(f"https://127.0.0.1:{port}/v1/recommend", headers=bearer(keys[1]["recommend"]), verify=trusted)
        assert reply.status_code == 200 and "server" not in reply.headers
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
    finally:
        server.should_exit = True
        thread.join(timeout=10)
    with pytest.raises(ValueError, match="TLS needs both files"):
        GatewaySettings(run=folders[0], certificate=certificate)


def test_keys_are_made_on_the_command_line(folders, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.gateway_server", "--add-key", "shop", "--keys", str(tmp_path / "k.json")]
    made = subprocess.run(
        [*command, "--scope", "feedback"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    found = KeyRing(tmp_path / "k.json").find(made)
    assert found is not None and found.scopes == ("feedback",) and found.name == "shop"
    assert main(["--add-key", "shop", "--keys", str(tmp_path / "k.json")]) == 2  # what it may do is to be said


def test_the_description_names_the_scopes(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            scope = required_scope(method.upper(), path)
            assert ("security" in operation) is (scope is not None), path
            assert scope is None or f"`{scope}`" in operation["description"]
    examples = schema["components"]["schemas"]["RecommendRequest"]["examples"]
    assert client.app and examples[0]["user_id"]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a server would write."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("serving")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_logs_have_no_user_and_no_text_of_theirs(folders, log: io.StringIO) -> None:
    salt = folders[0] / "salt"
    salt.write_bytes(b"sixteen bytes or more")
    settings = GatewaySettings(run=folders[0], source=folders[1], log_salt=salt)
    client = TestClient(create_app(settings, FakeRecommender()), raise_server_exceptions=False)
    secret = "Marianne-Müller-7"
    client.get("/v1/recommend", params={"user_id": secret})
    client.post("/v1/recommend", json={"user_id": secret, "k": "ten", secret: 1})
    client.get(f"/v1/history/{secret}")
    client.get(f"/v1/items/{secret}")
    client.get(f"/{secret}?{secret}={secret}", headers={"Referer": "Marianne", "User-Agent": "Marianne"})
    client.get("/v1/search", params={"query": secret})
    client.post("/v1/feedback", json={"events": [{**EVENT["events"][0], "user_id": secret, "session_id": secret}]})
    client.put("/v1/items/x", json={"title": "9", "description": secret})
    text = log.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) >= 8 and "Marianne" not in text and "ller-7" not in text
    hashed = UserHash(salt)(secret)
    assert [line["user"] for line in lines if line.get("route") in ("/v1/recommend", "/v1/feedback") and "user" in line] == [
        hashed, hashed,
    ]  # fmt: skip
    first = next(line for line in lines if line.get("route") == "/v1/recommend")
    assert {"time", "level", "trace_id", "span_id", "status", "seconds", "method", "caller"} <= set(first)


def test_an_exception_is_logged_by_its_type_and_place(log: io.StringIO) -> None:
    def deep(user: str) -> None:
        raise KeyError(user)

    try:
        deep("Marianne")
    except KeyError:
        logging.getLogger("serving.x").exception("it failed")
    line = json.loads(log.getvalue())
    assert line["exception"] == "KeyError" and line["stack"][-1].endswith(" deep") and "Marianne" not in log.getvalue()


def test_a_short_salt_is_refused(folders, tmp_path: Path) -> None:
    (tmp_path / "salt").write_bytes(b"short")
    with pytest.raises(ValueError, match="at least 16 bytes, received 5"):
        create_app(GatewaySettings(run=folders[0], log_salt=tmp_path / "salt"), FakeRecommender())


def test_traces_go_on(client: TestClient, keys) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = f"00-{trace}-00f067aa0ba902b7-01"
    for path in ("/v1/recommend", "/healthz"):  # refused or answered
        reply = client.get(path, headers={"traceparent": given})
        version, trace_id, span, _ = reply.headers["traceparent"].split("-")
        assert (version, trace_id) == ("00", trace) and span != "00f067aa0ba902b7"
    assert client.get("/healthz").headers["traceparent"] != client.get("/healthz").headers["traceparent"]


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-x)?", fullmatch=True))
def test_any_traceparent_gives_a_good_one(given_header: str) -> None:
    trace = continue_trace(given_header)
    assert continue_trace(trace.header).trace_id == trace.trace_id  # what we send is accepted by the rule we follow
    version, trace_id, _, _ = (given_header + "---").split("-")[:4]
    if len(given_header) == 55 and version not in ("ff",) and trace_id.strip("0") and given_header[36:52].strip("0"):
        assert trace.trace_id == trace_id


def test_larger_bodies_only_where_media_come_along(folders) -> None:
    settings = GatewaySettings(run=folders[0], max_body_bytes=2000, max_item_bytes=20_000)
    client = TestClient(create_app(settings, FakeRecommender()))
    body = {"title": "9", "description": "x" * 5000}
    assert client.put("/v1/items/x", json=body).status_code == 200
    assert client.put("/v1/items/x", json={**body, "image_base64": "A" * 20_000}).status_code == 413
    assert client.post("/v1/search", json={"query": "x" * 5000}).status_code == 413
