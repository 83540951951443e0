"""The short form of `benchmarks/soak.py`: two changes of release under load, then a kill, without a failed request."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from benchmarks.soak import ModelServer, Tally, change_releases, kill_server
from serving.gateway.app import create_app
from serving.gateway.settings import GatewaySettings
from serving.releases.models_config import ModelEntry, write_models_config
from serving.releases.promotion import promote
from serving.releases.release import publish
from tests.serving.gateway_folders import ITEMS, write_folders
from tests.serving.models import write_recommender

MODELS = ("retrieval", "ranking")


def test_releases_change_and_a_server_dies_and_every_request_is_answered(tmp_path: Path):
    run, source = write_folders(tmp_path)
    releases = tmp_path / "releases"
    for version in (1, 2):
        with publish(releases, version) as staging:
            write_recommender(staging, version, ITEMS)
            write_models_config(staging / "models.config", [ModelEntry(name, versions=(version,)) for name in MODELS])
    promote(releases, 1)
    server = ModelServer(releases)
    try:
        server.wait(1)
        settings = GatewaySettings(
            run=run, source=source, target=server.target, label="stable", cache_seconds=0, deadline_seconds=2.0,
            requests_per_second=1e6, burst=10**6,
        )  # fmt: skip
        with TestClient(create_app(settings)) as client:
            soaked = change_releases(Tally(client, ["ann", "bob", "nobody"]), server, rate=25, seconds=4, changes=2)
            killed = kill_server(Tally(client, ["ann", "nobody"]), server, rate=20, seconds=1.0)
    finally:
        server.stop()
    assert soaked["failed"] == 0 and soaked["requests"] == 100
    assert set(soaked["answered_by_release"]) == {1, 2}
    assert soaked["memory_mb"]["ratio"] < 1.1
    assert killed["requests"] == killed["fallbacks"] == 20
    assert killed["slowest_seconds"] < 2.5 and killed["recovered_after_seconds"] < 10
