"""The shop in a browser, in front of a stand-in for the models: what it says and shows whatever becomes of a question."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from serving.gateway.app import GatewaySettings, create_app
from serving.status import ServingError
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway.page_visit import FOCUSED, at_work, check, settled, titles, visit
from tests.serving.gateway_folders import write_folders

EVENTS = 24
"""Of ann, on three items: more than the history is wide."""
BOX = "element => { const box = element.getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; }"
UPPERMOST = """element => { const box = element.getBoundingClientRect();
  return element.contains(document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2)); }"""

COLOUR = "element => getComputedStyle(element).backgroundColor"
LOADS = "image => Object.assign(new Image(), { src: `${image.src}#` }).decode().then(() => true, () => false)"


@pytest.fixture(scope="module")
def gateway(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeRecommender, str]]:
    """A shop of music and talk without files; what ann did with item 3 was negative."""
    run, source = write_folders(tmp_path_factory.mktemp("states"))
    items = pd.read_parquet(run / "ingest" / "items.parquet")
    items = items.assign(image="", audio="", domain=["music", "talk"] * (len(items) // 2) + ["music"])
    items.to_parquet(run / "ingest" / "items.parquet")
    rows = np.array([1, 2, 3] * (EVENTS // 3) + [4], np.int32)
    events = {
        "user": np.array([1] * EVENTS + [2], np.int32),
        "item": rows,
        "timestamp": np.arange(100, 100 + len(rows)),
        "event": np.where(rows == 3, 4, 2).astype(np.int8),
        "positive": rows != 3,
    }
    pd.DataFrame(events).to_parquet(run / "ingest" / "events.parquet")
    fake = FakeRecommender()
    with at_work(create_app(GatewaySettings(run=run, source=source, cache_seconds=0), fake)) as address:
        yield fake, address


@pytest.fixture
def fake(gateway: tuple[FakeRecommender, str]) -> Iterator[FakeRecommender]:
    fake, known = gateway[0], set(gateway[0].known)
    yield fake
    fake.error, fake.known = None, known


@pytest.fixture
def page(browser: Browser, gateway: tuple[FakeRecommender, str], fake: FakeRecommender) -> Iterator[Page]:
    """Ann's page on a phone; nothing fails there but what a test lets fail."""
    with visit(browser, f"{gateway[1]}?user=ann", "phone", refused="422 ERR_FAILED") as page:
        settled(page)
        yield page


def search(page: Page, words: str) -> None:
    page.get_by_label("Search", exact=True).fill(words)
    page.keyboard.press("Enter")


def send_picture(page: Page, content: bytes = b"") -> None:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(picture, "PNG")
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": content or picture.getvalue()})


def test_stand_ins_for_a_search_are_not_called_found(page: Page, fake: FakeRecommender) -> None:
    fake.error = ServingError(grpc.StatusCode.UNAVAILABLE, "gone")
    for ask in (
        lambda: search(page, "slow piano"),
        lambda: page.locator("#items button[aria-label^=Similar]").first.click(),
        lambda: send_picture(page),
    ):
        ask()
        settled(page, "The search did not answer: popular items stand in, they do not match what was asked.")
        expect(page.locator("#results-title")).to_have_text("Popular items")
        expect(page.locator("#results-note")).to_contain_text("they do not match what was asked")
        expect(page.locator("#results #notice")).to_be_in_viewport()
        assert "Best first" not in page.locator("main").inner_text() and len(titles(page)) > 5
        page.locator("#status").evaluate("element => { element.textContent = ''; }")
    check(page, "stand-ins-phone")
    page.get_by_role("button", name="Back to the recommendations").click()
    settled(page, "popular items for ann")
    fake.error = None
    search(page, "5")
    settled(page, "12 items: Found for “5”")
    expect(page.locator("#results-note")).to_have_text("Best first.")
    expect(page.locator("#notice")).to_be_hidden()


def test_what_is_said_is_in_sight_wherever_one_is(page: Page) -> None:
    status = page.locator("#status")
    page.locator("#items li").last.scroll_into_view_if_needed()
    page.locator("#items li").last.get_by_role("button", name="Like", exact=False).first.click()
    settled(page, "Noted that you like")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(status).to_be_in_viewport(ratio=1)
    assert page.evaluate("scrollY") > 300 and status.evaluate(UPPERMOST)
    assert status.evaluate(COLOUR) == page.locator("body").evaluate(COLOUR), "nothing shines through"
    search(page, "5")
    settled(page, "Found for")
    assert page.locator("#results-title").evaluate(BOX)[1] >= status.evaluate(BOX)[3], "what was found lies below it"


def test_domains_and_variety_cannot_be_chosen_beside_what_a_search_found(page: Page) -> None:
    expect(page.locator("#domains")).to_be_visible()
    page.get_by_label("talk").check()
    expect(page.locator("#status")).to_contain_text("items for")
    for ask in (lambda: search(page, "5"), lambda: page.locator("#items button[aria-label^=Similar]").first.click()):
        ask()
        expect(page.get_by_role("button", name="Back to the recommendations")).to_be_visible()
        expect(page.locator("#domains")).to_be_hidden()
        expect(page.get_by_label("Variety")).to_be_hidden()
        with page.expect_request("**/v1/recommend") as sent:
            page.get_by_role("button", name="Back to the recommendations").click()
        settled(page)
        expect(page.locator("#domains")).to_be_visible()
        expect(page.get_by_label("Variety")).to_be_visible()
        assert page.get_by_label("talk").is_checked() and sent.value.post_data_json["domain"] == "talk"


def test_more_or_fewer_items_of_a_search_are_of_that_search(page: Page) -> None:
    count = page.locator("#count")
    search(page, "5")
    settled(page, "12 items: Found for")
    count.focus()
    count.select_option("6")
    settled(page, "6 items: Found for “5”")
    assert len(titles(page)) == 6 and titles(page)[0] == "Title 5" and count.evaluate(FOCUSED)
    send_picture(page)
    settled(page, "6 items: Looks like a.png")
    count.select_option("12")
    settled(page, "12 items: Looks like a.png")
    assert page.locator("#sample img").evaluate(LOADS), "the file is still there to be looked at"
    page.get_by_role("button", name="Back to the recommendations").click()
    settled(page)
    count.select_option("6")
    settled(page, "6 items for ann")


def test_the_history_has_what_was_just_done(page: Page) -> None:
    first = page.locator("#history li").first
    liked = titles(page)[0]
    page.get_by_role("button", name=f"Like {liked}", exact=True).click()
    settled(page, f"Noted that you like {liked}. ")
    settled(page, "items for ann")
    expect(first).to_contain_text(liked)
    expect(first).to_contain_text("like")
    expect(page.locator("#history-note")).to_contain_text(f"The last {EVENTS} events")
    search(page, "5")
    settled(page, "Found for")
    page.get_by_role("button", name="Not for me Title 5", exact=True).click()
    settled(page, "No more of Title 5")
    expect(first).to_contain_text("Title 5")  # beside what was found too
    assert first.locator(".title").evaluate("element => getComputedStyle(element).textDecorationLine") == "line-through"
    assert page.locator("#history li").nth(1).locator(".title").inner_text() == liked

    page.get_by_label("User id").fill("bob")
    page.keyboard.press("Enter")
    settled(page, "items for bob")
    assert page.locator("#history li").count() == 1, "it is ann's alone"
    item = {"item_id": "i5", "title": "Title 5", "price": None, "image": None}
    logged = {"item": item, "event": "skip", "timestamp": int(time.time()) + 2, "positive": False}
    page.route("**/v1/history/*", lambda route: route.fulfill(json={"events": [logged]}))
    page.get_by_label("User id").fill("ann")
    page.keyboard.press("Enter")
    settled(page, "items for ann")
    assert page.locator("#history .title").all_inner_texts() == [liked, "Title 5"], "what the log has is not told twice"


def test_skipped_items_of_the_history_are_struck_through(page: Page) -> None:
    drawn = page.locator("#history .title").evaluate_all(
        "all => all.map((one) => [one.textContent, getComputedStyle(one).textDecorationLine])"
    )
    assert len(drawn) == EVENTS
    assert {name for name, line in drawn if line == "line-through"} == {"Title 3"}
    assert {name for name, line in drawn if line == "none"} == {"<b>Bold</b> & co", "Title 2"}


def test_the_page_speaks_as_people_do(page: Page, fake: FakeRecommender) -> None:
    name = titles(page)[0]
    page.get_by_role("button", name=f"Similar to {name}", exact=True).click()
    settled(page, f"Similar to {name}")
    expect(page.locator("#results-title")).to_have_text(f"Similar to {name}")
    fake.known = set()
    search(page, "nothing")
    expect(page.locator("#status")).to_have_text("Nothing: Found for “nothing”.")
    expect(page.locator("#results-note")).to_have_text("Nothing was found.")
    send_picture(page, b"no picture")
    expect(page.locator("#status")).to_have_text(re.compile("^That did not work: not an image"))
    page.route("**/v1/search", lambda route: route.abort())
    search(page, "anything")
    expect(page.locator("#status")).to_have_text("That did not work: the server cannot be reached")


def test_columns_and_buttons_stand_in_line(page: Page) -> None:
    strip = page.locator("#history")
    assert strip.evaluate("element => element.scrollWidth > element.clientWidth")
    page.wait_for_timeout(100)  # for the strip to snap
    heading, first = page.locator("#history-title").evaluate(BOX), strip.locator("li").first.evaluate(BOX)
    assert first[0] == pytest.approx(heading[0], abs=0.5)
    for ask in (lambda: None, lambda: search(page, "5")):
        ask()
        settled(page, "items")
        more = page.locator("#items .more").first
        assert more.locator("button").evaluate(BOX)[2] == pytest.approx(more.evaluate(BOX)[2], abs=0.5)


def test_back_leads_to_the_user_before(gateway: tuple[FakeRecommender, str], page: Page) -> None:
    page.goto(gateway[1])
    settled(page)
    begun, first = page.evaluate("history.length"), page.url
    assert "?user=" in first
    page.get_by_label("User id").fill("someone new")
    page.keyboard.press("Enter")
    settled(page, "items for someone new")
    page.locator(".verdict button").first.click()
    settled(page, "Noted that you like")
    settled(page, "items for someone new")
    assert page.evaluate("history.length") == begun + 1
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.evaluate("location.hash = 'results'")  # as the link at the top does
    page.wait_for_timeout(300)
    assert not sent, "it is nobody else"
    page.go_back()
    page.go_back()
    settled(page, f"items for {first.partition('=')[2]}")
    assert page.url == first and page.get_by_label("User id").input_value() == first.partition("=")[2]
    page.go_forward()
    settled(page, "items for someone new")
