"""Labels of releases: lawful moves only, all models at once, safe against kills and against two at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.recommender import Recommender
from serving.local import LocalServer
from serving.releases import servers
from serving.releases.gc import plan_removals, remove
from serving.releases.labels import CANARY, STABLE, ReleaseLabels, read_labels
from serving.releases.lock import alone
from serving.releases.manifest import ReleaseError
from serving.releases.models_config import ModelEntry, read_models_config, resolve_base_path, write_models_config
from serving.releases.promotion import promote, roll_back
from serving.releases.release import list_releases, publish, verify_release
from tests.serving.models import write_recommender
from tests.serving.release_files import STOCK, publish_all, write_files

MOVES = st.lists(st.tuples(st.sampled_from(("canary", "stable", "canary's turn", "back")), st.integers(1, 5)), max_size=12)


@given(MOVES)
def test_labels_in_use_move_only_to_what_is_loaded(moves: list[tuple[str, int]]):
    """Whatever is asked for: two releases at most, stable never lost, and no label, once given, moves to a release that
    the server does not hold, nor loses the one that it pointed to in the same step."""
    labels = ReleaseLabels()
    for kind, version in moves:
        before = labels
        try:
            if kind == "canary":
                labels = labels.to_canary(version)
            elif kind == "stable":
                labels = labels.to_stable(version)
            else:
                labels = labels.to_stable() if kind == "canary's turn" else labels.roll_back()
        except ReleaseError:
            assert labels == before
            continue
        assert labels != before
        assert 1 <= len(labels.versions) <= 2
        assert before.stable is None or labels.stable is not None
        for label, old in before.as_dict().items():
            new = labels.as_dict().get(label)
            if new not in (None, old):
                assert new in before.versions, f"{label} moved from {old} to {new}, which was not loaded"
            if label in (STABLE, CANARY):
                assert old in labels.versions, f"release {old} lost its place in the step that took {label} from it"


def served(releases: Path, config: str = "models.config") -> dict[str, dict[str, int]]:
    """Labels by model, after a check that every version named has its graph where the server looks."""
    found = {}
    for model in read_models_config(releases / config).model_config_list.config:
        base = resolve_base_path(model.base_path, releases)
        assert model.base_path == f"/models/serving/{model.name}"
        for version in model.model_version_policy.specific.versions:
            assert (base / str(version) / "saved_model.pb").is_file()
        assert set(model.version_labels.values()) == set(model.model_version_policy.specific.versions)
        found[model.name] = dict(model.version_labels)
    return found


def both(**labels: int) -> dict[str, dict[str, int]]:
    return {name: labels for name in STOCK}


def test_one_step_forward_one_step_back(tmp_path: Path):
    releases = publish_all(tmp_path / "releases", 1, 2, 3)
    assert promote(releases, 1).after == ReleaseLabels(1)
    promote(releases, 2, "canary")
    assert served(releases) == both(stable=1, canary=2)
    assert served(releases, "models_scann.config").keys() == {*STOCK, "retrieval_scann"}
    with pytest.raises(ReleaseError, match="release 2 is the canary still"):
        promote(releases, 3, "canary")
    with pytest.raises(ReleaseError, match="release 3 is not loaded"):
        promote(releases, 3)
    assert promote(releases).version == 2
    assert served(releases) == both(stable=2, previous=1)
    roll_back(releases)
    assert served(releases) == both(stable=1, withdrawn=2)
    promote(releases, to="canary")  # the newest
    assert served(releases) == both(stable=1, canary=3)
    roll_back(releases)
    assert served(releases) == both(stable=1, withdrawn=3)
    with pytest.raises(ReleaseError, match="no canary and no previous release is loaded"):
        roll_back(releases)


def test_a_model_that_only_one_release_has(tmp_path: Path):
    releases = publish_all(tmp_path / "releases", 1)
    publish_all(releases, 2, models=("retrieval", "ranking", "search"))
    promote(releases, 1)
    promote(releases, 2, "canary")
    assert served(releases) == {**both(stable=1, canary=2), "search": {"canary": 2}}


def test_a_release_without_scann_takes_over_from_one_with_it(tmp_path: Path):
    """On servers that have ScaNN, too, and the one before may go."""
    releases = publish_all(tmp_path / "releases", 1)
    for version in (2, 3):
        with publish(releases, version) as staging:
            write_files(staging, version, models=STOCK)
            (staging / "models_scann.config").unlink()
    promote(releases, 1)
    promote(releases, 2, "canary")
    assert served(releases, "models_scann.config") == {**both(stable=1, canary=2), "retrieval_scann": {"stable": 1}}
    promote(releases)
    promote(releases, 3, "canary")
    assert served(releases, "models_scann.config") == served(releases) == both(stable=2, canary=3)
    assert [removal.path.name for removal in remove(releases, newest=1)] == ["1"]


def test_nothing_damaged_is_promoted(tmp_path: Path):
    releases = publish_all(tmp_path / "releases", 1, 2)
    promote(releases, 1)
    before = (releases / "models.config").read_text()
    (releases / "2/ranking/2/saved_model.pb").write_bytes(b"other")
    with pytest.raises(ReleaseError, match=r"ranking/2/saved_model\.pb has changed"):
        promote(releases, 2, "canary")
    assert (releases / "models.config").read_text() == before
    (releases / "models.config").write_text(before.replace("value: 1", "value: 2", 1))
    with pytest.raises(ReleaseError, match="mixes releases"):
        promote(releases, 2, "canary")
    with pytest.raises(ReleaseError, match="mixes releases"):
        plan_removals(releases)


def test_gc_keeps_what_a_label_names_and_the_newest(tmp_path: Path):
    releases = publish_all(tmp_path / "releases", 1, 2, 3, 4, 5, 6)
    promote(releases, 2)
    promote(releases, 4, "canary")
    for name in (".7.1.partial", ".0.removed"):
        write_files(releases / name, 7)
    os.utime(releases / ".7.1.partial", (1, 1))
    planned = plan_removals(releases, 1)
    assert [removal.path.name for removal in planned] == [".0.removed", ".7.1.partial", "1", "3", "5"]
    for removal in planned:
        assert removal.bytes == sum(path.stat().st_size for path in removal.path.rglob("*") if path.is_file()) > 0
    assert list_releases(releases) == [1, 2, 3, 4, 5, 6]  # a plan changes nothing
    assert [removal.path for removal in remove(releases, 1)] == [removal.path for removal in planned]
    assert sorted(path.name for path in releases.iterdir() if path.is_dir()) == ["2", "4", "6", "serving"]
    assert served(releases) == both(stable=2, canary=4)
    assert sorted(link.name for link in (releases / "serving" / "ranking").iterdir()) == ["2", "4"]
    assert remove(releases, 1) == []
    for version in (2, 4, 6):
        verify_release(releases / str(version))
    with pytest.raises(ReleaseError, match="newest: must be at least 1, received 0"):
        plan_removals(releases, 0)


def test_gc_leaves_an_export_that_is_still_writing(tmp_path: Path):
    releases = publish_all(tmp_path / "releases", 1)
    with publish(releases, 2) as staging:
        write_files(staging, 2)
        os.utime(staging, (1, 1))
        assert plan_removals(releases) == []
    assert list_releases(releases) == [1, 2]


def test_two_at_once(tmp_path: Path):
    releases = publish_all(tmp_path / "releases", 1)
    code = "import sys; from pathlib import Path; from serving.releases.promotion import promote; promote(Path(sys.argv[1]))"
    with alone(releases, "a test"):
        words = r"process \d+ on .* \(a test, since .*\) is changing these releases"
        with pytest.raises(ReleaseError, match=words), alone(releases, "another", wait_seconds=0.1):
            raise AssertionError("two had it")
        other = subprocess.Popen([sys.executable, "-c", code, str(releases)])
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1.0)
        assert read_labels(releases) == ReleaseLabels()
    assert other.wait(30) == 0  # it waited for its turn
    assert read_labels(releases) == ReleaseLabels(1)
    with pytest.raises(ReleaseError, match="no such folder of releases"), alone(tmp_path / "nothing", "a test"):
        pass


def test_a_kill_at_any_step_leaves_the_old_labels_or_the_new(tmp_path: Path):
    """SIGKILL before every single change of the file system, in promotion, rollback and gc: see killed_releases.py."""
    script = Path(__file__).resolve().parents[1] / "killed_releases.py"
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    kills = json.loads(result.stdout)
    assert all(kills[change] >= 8 for change in ("promote", "roll_back", "remove")), kills


def test_a_running_server_follows(tmp_path: Path):
    """Canary, promotion and rollback under a server that polls, with every answer from one release."""
    releases = tmp_path / "releases"
    for version in (1, 2):
        with publish(releases, version) as staging:
            write_recommender(staging, version, 10 * version)
            write_models_config(staging / "models.config", [ModelEntry(name, versions=(version,)) for name in STOCK])
    promote(releases, 1)
    with LocalServer(releases / "models.config", poll_seconds=0.05, watch_config=True) as server:
        clients = {label: Recommender(server.target, label=label, deadline=30) for label in ("stable", "canary")}

        def counts(label: str) -> tuple[int, dict[str, int]]:
            found = clients[label].recommend("u1", k=50, candidates=50)
            return len(found.items), found.versions

        def ready(label: str) -> int:
            """The status that the probes of deploy/ ask for: OK only where what a label names is loaded."""
            return httpx.get(f"{server.url}/v1/models/ranking/labels/{label}/metadata", timeout=30).status_code

        waiting = {"servers": [server.target], "timeout": 30.0}
        assert (ready("stable"), ready("canary")) == (200, 400)
        assert counts("stable") == (10, {"retrieval": 1, "ranking": 1})
        promote(releases, 2, "canary", **waiting)  # type: ignore[arg-type]
        assert counts("stable") == (10, {"retrieval": 1, "ranking": 1})
        assert counts("canary") == (20, {"retrieval": 2, "ranking": 2})
        assert ready("canary") == 200
        promote(releases, **waiting)  # type: ignore[arg-type]
        assert counts("stable") == (20, {"retrieval": 2, "ranking": 2})
        roll_back(releases, **waiting)  # type: ignore[arg-type]
        assert counts("stable") == (10, {"retrieval": 1, "ranking": 1})
    with pytest.raises(ReleaseError, match=r"has not loaded release 2; no label was moved.*UNAVAILABLE"):
        promote(releases, 2, servers=[f"unix:{tmp_path / 'nobody'}"], timeout=0.1)


def test_each_server_has_the_whole_time(monkeypatch: pytest.MonkeyPatch):
    """Three that take 40 of 60 seconds each, one after the other as far as they are asked, are no failure."""
    now, begun = [0.0], {}
    clock = types.SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(servers, "time", clock)
    monkeypatch.setattr(servers.grpc, "insecure_channel", contextlib.nullcontext)

    def ask(server: str, model: str) -> str:
        return "" if now[0] >= begun.setdefault(server, now[0]) + 40 else "loading"

    servers._wait(["a", "b", "c"], STOCK, ask, 60.0, "has not loaded it")
    assert now[0] == 120 and list(begun) == ["a", "b", "c"]
    with pytest.raises(ReleaseError, match=r"servers: d has not loaded it \(retrieval: loading, after 30 s\)"):
        servers._wait(["d"], STOCK, ask, 30.0, "has not loaded it")
