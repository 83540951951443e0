"""Media files by name: what is inside the folder is read, every way out of it is refused, bytes are bounded."""

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.media import MediaError, broken, media_path, read_media


def test_zero_bytes(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(MediaError, match="zero bytes"):
        read_media(tmp_path, "empty")


def test_a_reason_is_one_line_and_always_the_same():
    first, second = (str(broken("audio", OSError(5, f"bad\n thing at {object()!r}"), "export it again")) for _ in range(2))
    assert first.startswith("broken audio: OSError: bad thing at") and first.endswith("; export it again")
    assert "\n" not in first + second
    assert len(str(broken("image", ValueError("x" * 10_000), "save it again"))) < 300


def test_byte_bound_holds_for_sparse_files(tmp_path):
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(MediaError, match="at most 1,000 bytes"):
        read_media(tmp_path, "sparse.png", max_bytes=1000)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A media folder with a secret beside it."""
    root = tmp_path_factory.mktemp("shelf")
    (root / "secret").write_text("secret")
    folder = root / "media"
    (folder / "covers").mkdir(parents=True)
    (folder / "covers" / "a.png").write_bytes(b"a")
    (folder / "out").symlink_to(root / "secret")
    (folder / "up").symlink_to(root)
    (folder / "inside").symlink_to(folder / "covers" / "a.png")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return folder


def test_good_names_are_found(shelf):
    assert read_media(shelf, "covers/a.png") == b"a"
    assert read_media(shelf, "inside") == b"a"  # a link that stays inside


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret", "must not contain"),
        ("covers/../../secret", "must not contain"),
        ("covers\\..\\..\\secret", "must not contain"),
        ("/etc/passwd", "relative"),
        ("C:/secret", "relative"),
        ("\\\\host\\share", "relative"),
        ("out", "links must stay"),
        ("up/secret", "links must stay"),
        ("loop", "cannot be opened"),
        ("pipe", "plain file"),
        ("covers", "plain file"),
        ("covers/b.png", "missing"),
        ("nul\0byte", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
        ("", "empty"),
        (".", "empty"),
    ],
)
def test_every_way_out_is_refused(shelf, name, reason):
    with pytest.raises(MediaError, match=reason):
        media_path(shelf, name)


PARTS = st.one_of(
    st.sampled_from(["..", ".", "covers", "a.png", "out", "up", "secret", "", "C:", "~"]), st.text(max_size=5)
)


@settings(deadline=None)
@given(st.lists(PARTS, max_size=6), st.sampled_from(["/", "\\", "//"]), st.booleans())
@example(["up", "media", "covers", "a.png"], "/", False)
def test_no_name_reads_outside(shelf, parts, separator, absolute):
    name = ("/" if absolute else "") + separator.join(parts)
    try:
        path = media_path(shelf, name)
    except MediaError:
        return
    assert path.is_relative_to(shelf.resolve()) and path.read_bytes() == b"a"
