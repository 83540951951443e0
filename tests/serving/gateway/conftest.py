"""A browser for the tests of the pages."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.serving.browser import HOW, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")  # a longer one would keep its event loop running beside other tests' own
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        warnings.warn(HOW, stacklevel=1)
        pytest.skip(HOW)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()
