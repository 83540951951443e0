"""Releases without a person: whose models are published again, and what becomes of those that never were."""

from __future__ import annotations

from pathlib import Path

from pipeline.forget import release as forget_release
from pipeline.forget.release import replace_releases
from pipeline.settings.config import Config
from serving.releases.labels import read_labels
from serving.releases.promotion import promote, roll_back
from serving.releases.release import list_releases
from tests.serving.release_files import publish_all

WHO = "person-17"
IDS = frozenset([WHO])


def know(release: Path) -> Path:
    """Makes a release know the person."""
    users = release / "retrieval" / release.name / "assets" / "users.txt"
    users.parent.mkdir(parents=True)
    users.write_text(f"\n{WHO}\nperson-1")
    return release


def test_what_was_withdrawn_is_not_put_into_production(tmp_path, monkeypatch):
    releases = publish_all(tmp_path / "releases", 4, 5, 6)
    promote(releases, 4)
    for number in (5, 6):
        promote(releases, number, "canary")
        roll_back(releases)
    know(releases / "4")
    again = []

    def publish(out, data, config, newest, say):
        again.append(newest)
        publish_all(releases, 7)
        return 7

    monkeypatch.setattr(forget_release, "_publish", publish)
    assert replace_releases(tmp_path, None, Config(), IDS, say=str) == 7 and again == [4]
    assert str(read_labels(releases)) == "stable 7" and list_releases(releases) == [7]
