"""Releases: whole or not at all, one fingerprint, and refused when damaged or mixed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.releases.manifest import ReleaseError, compute_fingerprint, write_manifest
from serving.releases.models_config import ModelEntry, write_models_config
from serving.releases.release import latest_release, list_releases, publish, verify_release
from tests.serving.release_files import MODELS, write_files


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """A folder with one published release, number 7."""
    folder = tmp_path / "releases"
    with publish(folder, 7, counts={"items": 3}, details={"seconds": 1.5}) as staging:
        write_files(staging, 7)
    return folder


def test_publish_and_verify(releases: Path):
    release = verify_release(releases / "7")
    assert (release.version, len(release.fingerprint)) == (7, 64)
    assert release.manifest["counts"] == {"items": 3}
    assert release.manifest["files"].keys() == {
        *(f"{name}/7/{file}" for name in MODELS for file in ("saved_model.pb", "variables/variables.index")),
        "models.config",
        "models_scann.config",
        "monitoring.config",
        "batching_parameters.txt",
    }
    assert release.models_config.is_file()
    assert list(releases.iterdir()) == [releases / "7"]


def test_fingerprint_is_independent_of_place_and_time(releases: Path, tmp_path: Path):
    before = verify_release(releases / "7").fingerprint
    moved = tmp_path / "elsewhere" / "deeper" / "copy"
    shutil.copytree(releases / "7", moved)
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    assert verify_release(moved).fingerprint == before
    again = tmp_path / "again"
    with publish(again, 7) as staging:
        write_files(staging, 7)
    assert verify_release(again / "7").fingerprint == before  # counts and details are for people
    with publish(again, 8) as staging:
        write_files(staging, 8)
    assert verify_release(again / "8").fingerprint != before


DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
FILES = st.dictionaries(
    st.text("abc/._", min_size=1), DIGESTS.map(lambda digest: {"sha256": digest}), min_size=1, max_size=5
)


@given(FILES, st.integers(1, 9), st.randoms())
def test_fingerprint_follows_content_and_not_order(files: dict[str, dict[str, str]], version: int, random):
    names = list(files)
    random.shuffle(names)
    fingerprint = compute_fingerprint(files, version)
    assert compute_fingerprint({name: files[name] for name in names}, version) == fingerprint
    assert compute_fingerprint(files, version + 1) != fingerprint
    digest = files[names[0]]["sha256"]
    changed = files | {names[0]: {"sha256": ("1" if digest[0] == "0" else "0") + digest[1:]}}
    assert compute_fingerprint(changed, version) != fingerprint
    assert compute_fingerprint({name + "x": entry for name, entry in files.items()}, version) != fingerprint


def flip(folder: Path) -> None:
    path = folder / "ranking/7/saved_model.pb"
    path.write_bytes(b"G" + path.read_bytes()[1:])


def mix(folder: Path) -> None:
    """The ranking of another release, with an honest manifest over the whole: every file checks, and still it must not
    serve."""
    (folder / "ranking" / "7").rename(folder / "ranking" / "6")
    write_manifest(folder, version=7)


def relabel(folder: Path) -> None:
    write_models_config(folder / "models.config", [ModelEntry("retrieval", versions=(6,))])
    write_manifest(folder, version=7)


def forge(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 8}))


DAMAGES = {
    "changed": (flip, r"ranking/7/saved_model.pb has changed"),
    "truncated": (
        lambda folder: (folder / "models.config").write_bytes(b""),
        r"models.config has changed \(\d+ bytes listed, 0",
    ),
    "missing": (
        lambda folder: (folder / "retrieval/7/saved_model.pb").unlink(),
        r"retrieval/7/saved_model.pb is missing",
    ),
    "added": (lambda folder: (folder / "ranking/7/extra").write_text("x"), r"ranking/7/extra is not in the manifest"),
    "mixed": (
        mix,
        r"ranking/6 is not of version 7.*models.config names /models/ranking, where the release has no version 7",
    ),
    "relabelled": (relabel, r"models.config asks for version 6 of retrieval, the release is 7"),
    "forged": (forge, r"fingerprint does not belong"),
    "unfinished": (lambda folder: (folder / "manifest.json").unlink(), r"no manifest.json; this is not a release"),
    "cut manifest": (lambda folder: (folder / "manifest.json").write_text("{"), r"damaged manifest"),
    "odd manifest": (lambda folder: (folder / "manifest.json").write_text('{"version": "7"}'), r"damaged manifest"),
    "link": (
        lambda folder: (folder / "ranking/7/l").symlink_to("saved_model.pb"),
        r"ranking/7/l is a link or a special file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_mixed_releases_are_refused(releases: Path, damage: str):
    harm, words = DAMAGES[damage]
    harm(releases / "7")
    with pytest.raises(ReleaseError, match=words):
        verify_release(releases / "7")


def test_a_failed_export_leaves_nothing(releases: Path):
    with pytest.raises(RuntimeError, match="no disk"), publish(releases, 8) as staging:
        write_files(staging, 8)
        raise RuntimeError("no disk")
    with pytest.raises(ReleaseError, match="is not of version 9"), publish(releases, 9) as staging:
        write_files(staging, 9)
        shutil.move(staging / "ranking/9", staging / "ranking/5")
    assert sorted(path.name for path in releases.iterdir()) == ["7"]
    with pytest.raises(ReleaseError, match="version 7 is already published"), publish(releases, 7):
        pass


def test_two_exports_of_one_number(releases: Path):
    """Whoever finishes first has it; the other says so and leaves nothing."""
    with pytest.raises(ReleaseError, match="version 8 is already published"), publish(releases, 8) as staging:
        write_files(staging, 8, b"slow")
        shutil.copytree(releases / "7", releases / "8")
    assert sorted(path.name for path in releases.iterdir()) == ["7", "8"]
    assert (releases / "8" / "retrieval").is_dir()


def test_latest_release(releases: Path, tmp_path: Path):
    with publish(releases, 10) as staging:
        write_files(staging, 10)
    for name in (".11.1.partial", "12", "latest"):
        (releases / name).mkdir()  # killed exports and other folders
    assert list_releases(releases) == [7, 10]
    assert latest_release(releases) == releases / "10"
    with pytest.raises(ReleaseError, match="no release here"):
        latest_release(tmp_path / "nothing")
