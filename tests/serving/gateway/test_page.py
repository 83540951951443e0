"""The pages in a browser, in front of the actual servers: what people see, hear and do, at the sizes they have."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from pipeline.demo import serving
from pipeline.settings.config import ServingConfig
from pipeline.stages.walk import Run
from serving.gateway.app import GatewaySettings, create_app
from serving.gateway.keys import add_key, make_key
from serving.local import LocalServer
from tests.record_shop import RecordShop
from tests.serving.gateway.page_visit import FOCUSED, SIZES, at_work, check, settled, titles, visit

SCORES = """async (profile) => (await ask("/v1/recommend", { user_id: NEW_VISITOR, k: 12, profile })).items
  .map((entry) => [entry.item.item_id, entry.score])"""


@pytest.fixture(scope="module")
def run(browser: Browser, record_shop: RecordShop, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return record_shop.copy(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def shop(run: Run) -> Iterator[tuple[LocalServer, str]]:
    with serving(run.source, run.folder, ServingConfig(grpc_port=0, rest_port=0, gateway_port=0)) as both:
        yield both


@pytest.mark.parametrize("size", SIZES)
def test_a_visit(browser, shop, run, size):
    """Look, listen, search, like three, see the list change, and read why."""
    user = str(run.dataset().users["user_id"].iloc[1 + list(SIZES).index(size)])
    with visit(browser, f"{shop[1]}/?user={user}", size) as page:
        settled(page)
        first = titles(page)
        assert len(first) == 12 and page.locator("#history li").count() > 0
        check(page, f"shop-{size}")
        player = page.locator("#items audio").first
        player.evaluate("element => element.play()")
        page.wait_for_function("element => element.currentTime > 0.3", arg=player.element_handle())
        assert player.evaluate("element => !element.paused && element.duration > 1")
        page.locator("#items audio").nth(1).evaluate("element => element.play()")
        page.wait_for_function("element => element.paused", arg=player.element_handle())  # one clip at a time

        page.get_by_label("Search", exact=True).fill(first[3])
        page.keyboard.press("Enter")
        expect(page.locator("#results-title")).to_contain_text(first[3])
        settled(page, "Found for")
        found = titles(page)
        assert found and found != first
        assert page.locator("#results").evaluate(FOCUSED)
        check(page, f"search-{size}")
        page.get_by_role("button", name="Back to the recommendations").click()
        settled(page)
        assert titles(page) == first

        for _ in range(3):
            before = titles(page)
            page.get_by_role("button", name=f"Like {before[0]}", exact=True).first.click()
            settled(page, f"Noted that you like {before[0]}. 12 items")
            assert before[0] not in titles(page)
        after = titles(page)
        assert page.locator(".new").count() > 0 and set(after) - set(first)
        assert [name for name in after if name in first] != first

        why = page.locator("#items details").first
        why.locator("summary").click()
        expect(why.locator("dl").first).to_contain_text("%")
        expect(why).to_contain_text("What lifts it above")
        why.scroll_into_view_if_needed()
        check(page, f"why-{size}")


def test_search_by_a_picture_and_by_a_clip(browser, shop, run):
    items = run.dataset().items
    pictures, clips = (
        items[items[name].astype(str).str.endswith(end)] for name, end in (("image", "png"), ("audio", "wav"))
    )
    with visit(browser, shop[1], "phone", refused="422") as page:
        settled(page)
        for kind, item in (("image", pictures.iloc[5]), ("audio", clips.iloc[7])):
            file = run.source / "media" / item[kind]
            page.locator("#file").set_input_files(file)
            settled(page, f"like {file.name}")
            assert page.locator("#items h3").first.inner_text() == (item["title"] or item["item_id"])
            assert page.locator("#sample img, #sample audio").count() == 1
        check(page, "file-phone")
        page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
        settled(page, "not an image")


def test_similar_items_domains_and_variety(browser, shop, run):
    user = str(run.dataset().users["user_id"].iloc[4])
    with visit(browser, f"{shop[1]}/?user={user}") as page:
        settled(page)
        first = titles(page)
        page.get_by_role("button", name=f"Similar to {first[2]}").first.click()
        settled(page, f"Similar to {first[2]}")
        assert first[2] not in titles(page)[:1] and page.locator("#items button[aria-label^=Similar]").count() == 12
        page.get_by_role("button", name="Back to the recommendations").click()
        settled(page)
        page.get_by_label("spoken word").check()
        settled(page)
        metas = page.locator("#items .meta").all_inner_texts()
        assert len(metas) > 3 and all(text.startswith("spoken word") for text in metas)
        page.get_by_label("all", exact=True).check()
        settled(page)
        assert titles(page) == first
        page.get_by_label("Variety").focus()
        for words, weights in (
            ("none", ["mmr_lambda=1"]), ("a little", ["mmr_lambda=0.85"]), ("some", ["mmr_lambda=0.7"]),
            ("much", ["mmr_lambda=0.5"]), ("as wide as can be", ["mmr_lambda=0.35"]),
        ):  # fmt: skip
            with page.expect_request("**/v1/recommend") as asked:
                page.keyboard.press("ArrowRight")
            assert asked.value.post_data_json["policy"] == weights
            expect(page.locator("#variety-said")).to_have_text(words)
        expect(page.locator("#variety-said")).to_have_text("as wide as can be")
        page.wait_for_function(
            "names => [...document.querySelectorAll('#items h3')].some((node, place) => node.innerText !== names[place])",
            arg=first,
        )


def test_a_new_visitor_may_say_who_they_are(browser, shop):
    with visit(browser, shop[1], "phone") as page:
        settled(page)
        assert page.locator("#profile").is_hidden(), "of a user it is known"
        page.get_by_role("button", name="A new visitor never seen").click()
        settled(page, "items for a-new-visitor")
        scores = page.evaluate(SCORES, [])
        ages = page.get_by_label("age group").locator("option").all_inner_texts()
        assert len(ages) > 3 and ages[1:] == sorted(ages[1:])
        choice = page.get_by_label("country")
        country = choice.locator("option").nth(1).inner_text()
        with page.expect_request(lambda request: request.url.endswith("/v1/recommend")) as sent:
            choice.select_option(country)
        assert sent.value.post_data_json["profile"] == [f"country={country}"]
        expect(page.locator("#results-note")).to_contain_text("someone who says this of themselves")
        assert page.evaluate(SCORES, [f"country={country}"]) != scores
        check(page, "visitor-phone")
        with page.expect_request(lambda request: "/v1/explain" in request.url) as asked:
            page.locator("#items summary").first.click()
        assert httpx.URL(asked.value.url).params.get_list("profile") == [f"country={country}"]
        page.locator("#examples button").first.click()
        expect(page.locator("#profile")).to_be_hidden()


def test_a_keyboard_is_enough(browser, shop, run):
    user = str(run.dataset().users["user_id"].iloc[5])
    with visit(browser, f"{shop[1]}/?user={user}") as page:
        settled(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        seen: list[str] = []
        while "Like" not in seen and len(seen) < 12:
            page.keyboard.press("Tab")
            seen.append(
                page.evaluate("document.activeElement.firstChild?.textContent ?? document.activeElement.tagName")
            )
        assert "Like" in seen, seen
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        name = titles(page)[0]
        page.keyboard.press("Enter")
        settled(page, f"Noted that you like {name}. 12 items")  # what was noted is said before the new list is there
        assert page.locator("#results").evaluate(FOCUSED)
        page.locator(".verdict button").nth(1).focus()
        page.keyboard.press("Space")
        expect(page.locator("#status")).to_have_text(re.compile("^Noted that you bought .* 12 items for"))
        assert page.locator("#results").evaluate(FOCUSED)


def test_a_list_that_comes_late_moves_nobody_who_has_gone_on(browser, shop, run):
    """A keyboard stays on its button until the list is there, and where it is by then if that is elsewhere."""
    user = str(run.dataset().users["user_id"].iloc[6])
    with visit(browser, f"{shop[1]}/?user={user}", refused="503") as page:
        settled(page)
        held: list[Route] = []
        page.route("**/v1/recommend", lambda route: held.append(route))

        def like(goes_on: bool) -> None:
            button = page.locator(".verdict button").first
            button.focus()
            with page.expect_request("**/v1/recommend"):
                page.keyboard.press("Enter")
            while not held:
                page.wait_for_timeout(10)
            assert button.evaluate(FOCUSED)
            if goes_on:
                page.get_by_label("Variety").focus()
            held.pop().continue_()
            settled(page, "12 items for")

        like(goes_on=False)
        assert page.locator("#results").evaluate(FOCUSED)
        like(goes_on=True)
        assert page.get_by_label("Variety").evaluate(FOCUSED)
        page.unroute("**/v1/recommend")

        page.get_by_label("Search", exact=True).fill(titles(page)[3])
        page.keyboard.press("Enter")
        settled(page, "Found for")
        button = page.locator(".verdict button").first
        button.focus()
        page.keyboard.press("Enter")  # the list stays, and so does who likes one of it
        expect(button).to_have_attribute("aria-pressed", "true")
        assert button.evaluate(FOCUSED)
        expect(button).not_to_have_attribute("aria-disabled", "true")  # pressed, it waits until that is told
        page.route("**/v1/feedback", lambda route: route.fulfill(status=503, json={"error": "the disk is full"}))
        page.keyboard.press("Enter")
        settled(page, "That was not noted: the disk is full")
        assert button.evaluate(FOCUSED)
        page.get_by_role("button", name="Back to the recommendations").press("Enter")
        settled(page)
        assert page.locator("#results").evaluate(FOCUSED)


def test_the_page_for_engineers(browser, shop):
    httpx.post(f"{shop[1]}/v1/recommend", json={"user_id": "somebody"}).raise_for_status()
    for size in SIZES:
        with visit(browser, f"{shop[1]}/engineers", size) as page:
            settled(page, "The figures are read")
            for part, words in (("release", "version 1"), ("drift", "Score drift"), ("more", "Popular stand-ins")):
                expect(page.locator(f"#{part}")).to_contain_text(words)
            expect(page.get_by_role("row", name="total")).to_contain_text("ms")
            expect(page.get_by_role("row", name="POST /v1/recommend", exact=False)).to_be_visible()
            check(page, f"engineers-{size}")


def test_a_key_is_asked_for_and_kept_for_the_tab(browser, shop, run, tmp_path):
    keys = tmp_path / "keys.json"
    key, line = make_key("a visitor", ("recommend", "feedback"))
    admin, admins = make_key("an engineer", ("admin",))
    for one in (line, admins):
        add_key(keys, one)
    settings = GatewaySettings(
        run=run.folder, source=run.source, state=tmp_path / "state", target=shop[0].target, clock="log", keys=keys
    )
    with at_work(create_app(settings)) as own, visit(browser, own, refused="401 403") as page:
        settled(page, "a key is needed")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Recommend", exact=True).click()
        settled(page)
        expect(page.get_by_label("spoken word")).to_be_visible()  # what the key opens has come
        assert page.locator("#examples button").count() == 1  # and what it does not has not
        name = titles(page)[0]
        page.get_by_role("button", name=f"Not for me {name}", exact=True).first.click()
        settled(page, f"No more of {name}. 12 items")
        page.reload()
        settled(page)
        assert titles(page) and name not in titles(page)
        address, gone = page.url.partition("?")[0], titles(page)[0]
        item = page.evaluate("async () => (await ask('/v1/recommend', request(userId()))).items[0].item.item_id")
        headers = {"Authorization": f"Bearer {admin}"}
        httpx.delete(f"{address}v1/items/{item}", headers=headers).raise_for_status()
        page.get_by_role("button", name=f"Like {gone}", exact=True).first.click()
        settled(page, "That was not noted")
        page.goto(f"{address}engineers")
        settled(page, "needs the scope 'admin'")
        page.get_by_label("API key").fill(admin)
        page.get_by_role("button", name="Read again").click()
        settled(page, "The figures are read")
