"""What the commands that serve a run say before it is up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import demo
from pipeline.settings.config import ServingConfig


def test_serving_says_that_it_starts_before_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said: list[str] = []

    @contextmanager
    def serving(*_: object) -> Iterator[None]:
        said.append(capsys.readouterr().out)
        raise OSError("the port is taken")
        yield

    monkeypatch.setattr(demo, "serving", serving)
    with pytest.raises(OSError, match="port"):
        demo.serve_release(tmp_path, tmp_path, ServingConfig())
    assert said == ["starting the model server ...\n"]
