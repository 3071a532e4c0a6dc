"""The page at `/`, in a real browser on a real server of a tiny backbone: what a person clicks, types and sees."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from softprompt.serving.http.auth import Keys
from softprompt.serving.limits import Limits
from tests import tiny
from tests.served import TEAMS, tiny_app, write_all_kinds, write_prompt

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
TEXT, KEY, ADMIN = "the parcel is late", "right", "boss"
MARKUP = "<img src=x onerror=alert(1)> {text} {{team}}"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A live server that wants a key, with prompts of every kind and some that only the page cares for."""
    folder = tmp_path_factory.mktemp("served")
    backbone = tiny.backbone("llama")
    write_all_kinds(folder, backbone)
    write_prompt(folder / "pair", backbone, template="{a} text {b} team", choices=TEAMS)
    write_prompt(folder / "markup", backbone, template=MARKUP, choices=TEAMS)
    write_prompt(folder / "scored", backbone, choices=[f"good{' good' * i}" for i in range(12)])
    _change(folder / "scored", scores={"test": {"metrics": {"accuracy": 0.75}, "n": 8}, "odd": [1],
                                       "zero_shot": {"metrics": {"accuracy": 0.5}, "n": 8}})  # fmt: skip
    write_prompt(folder / "damaged", backbone)
    (folder / "damaged" / "prompt.json").write_text("{}")
    app = tiny_app(folder, keys=Keys.of([KEY], [ADMIN]), limits=Limits(body=2000))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def _change(folder: Path, **fields: Any) -> None:
    card = folder / "prompt.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | fields))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, with the key given; a mistake in its script, or what its policy refuses, fails the test."""
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: "Failed to load resource" in said.text or wrong.append(said.text))
    page.goto(address)
    page.get_by_label("Key of this server").fill(KEY)
    page.keyboard.press("Enter")
    expect(picker(page)).to_have_value("bare")
    yield page
    context.close()
    assert wrong == []


def picker(page: Page, label: str = "Prompt") -> Any:
    return page.get_by_role("combobox", name=label)


def choose(page: Page, name: str, label: str = "Prompt") -> None:
    picker(page, label).fill(name)
    page.get_by_role("option", name=name, exact=True).click()
    expect(picker(page, label)).to_have_value(name)


def ask(page: Page, text: str = TEXT) -> None:
    page.get_by_label("Text", exact=True).fill(text)
    page.keyboard.press("Enter")


def result(page: Page, place: int = 0) -> Any:
    return page.locator("#results section").nth(place)


def api(page: Page, address: str, route: str, **body: Any) -> Any:
    answer = page.request.post(f"{address}/v1/{route}", data=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.ok, answer.text()
    return answer.json()


def bars(page: Page, place: int = 0) -> dict[str, str]:
    found = result(page, place).locator(".bars li")
    expect(found.first).to_be_attached()
    return {one.locator(".name").text_content(): one.locator(".share").text_content() for one in found.all()}


def percent(body: Any) -> dict[str, str]:
    return {name: f"{100 * share:.1f} %" for name, share in body["data"][0]["probabilities"].items()}


def test_search_choose_and_see_the_probabilities(page: Page, address: str) -> None:
    picker(page).click()
    options = page.get_by_role("option")
    expect(options).to_have_count(14)
    picker(page).press_sequentially("EA")
    expect(options).to_have_text(["teams"])
    page.keyboard.press("Enter")
    card = page.locator(".card")
    expect(card).to_contain_text("message : {text} team :")
    expect(card).to_contain_text("red, blue, good")
    card.get_by_text("Nearest words").click()
    key = {"Authorization": f"Bearer {KEY}"}
    shown = page.request.get(f"{address}/v1/prompts/teams?words=3", headers=key).json()
    expect(card.locator("ol li")).to_have_text([" · ".join(row) for row in shown["nearest"]])
    ask(page)
    assert bars(page) == percent(api(page, address, "classify", model="teams", input=TEXT))
    best = result(page).locator(".best")
    expect(best).to_contain_text(result(page).locator(".answer").text_content() or "none")
    width, share = best.locator(".fill").evaluate("e => [e.offsetWidth / e.parentElement.offsetWidth, e.style.width]")
    assert width == pytest.approx(float(share[:-1]) / 100, abs=0.01)


def test_the_list_goes_by_the_keyboard_alone(page: Page) -> None:
    picker(page).focus()
    page.keyboard.press("ArrowDown")
    chosen = page.locator("[role=option][aria-selected=true]")
    expect(chosen).to_have_text("bare")
    expect(picker(page)).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    expect(chosen).to_have_text("behind")
    expect(picker(page)).to_have_attribute("aria-activedescendant", chosen.get_attribute("id") or "")
    page.keyboard.press("Escape")
    expect(picker(page)).to_have_value("bare")
    expect(picker(page)).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowUp")
    expect(chosen).to_have_text("bare")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(picker(page)).to_have_value("base")


def test_free_text_is_streamed(page: Page, address: str) -> None:
    choose(page, "free")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Most tokens").fill("9")
    ask(page)
    whole = api(page, address, "completions", model="free", prompt=TEXT, max_tokens=9)["choices"][0]
    expect(result(page).locator(".said")).to_have_text(whole["text"])
    expect(result(page).get_by_text("Ended at 9 tokens")).to_have_count(int(whole["finish_reason"] == "length"))
    choose(page, "teams")
    page.get_by_label("Answer in free text").check()
    ask(page)
    whole = api(page, address, "completions", model="teams", prompt=TEXT, max_tokens=9)["choices"][0]
    expect(result(page).locator(".said")).to_have_text(whole["text"])


def test_free_text_is_offered_only_beside_choices(page: Page) -> None:
    offer = page.get_by_label("Answer in free text")
    choose(page, "free")
    expect(offer).to_be_hidden()
    choose(page, "teams")
    expect(offer).to_be_visible()
    choose(page, "free")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Choices, one a line").fill("yes\nno")
    expect(offer).to_be_visible()


def test_a_request_is_shown_as_curl_and_as_python(page: Page, address: str, tmp_path: Path) -> None:
    choose(page, "teams")
    ask(page, 'it\'s "late" $HOME')
    expected = bars(page)
    for title, run in (("As curl", ["bash", "-c"]), ("As Python", [sys.executable, "-c"])):
        result(page).get_by_text(title).click()
        text = result(page).locator("details", has_text=title).locator("pre").text_content() or ""
        if title == "As Python":
            text = f"KEY = {KEY!r}\n" + text.replace("import requests", "import httpx2 as requests")
        told = subprocess.run([*run, text], env={**os.environ, "KEY": KEY}, capture_output=True, text=True, check=True)
        body = ast.literal_eval(told.stdout) if title == "As Python" else json.loads(told.stdout)
        assert percent(body) == expected


def test_the_address_keeps_prompts_and_texts(page: Page, browser: Browser, address: str) -> None:
    choose(page, "pair")
    page.get_by_label("a", exact=True).fill("good & bad")
    page.get_by_label("b", exact=True).fill("yes")
    page.keyboard.press("Enter")
    expect(result(page).locator(".best")).to_be_attached()
    page.get_by_role("button", name="Compare with another prompt").click()
    expect(picker(page, "Compared with")).to_have_value("base")
    page.reload()
    expect(picker(page)).to_have_value("pair")
    expect(picker(page, "Compared with")).to_have_value("base")
    expect(page.get_by_label("a", exact=True)).to_have_value("good & bad")
    expect(page.get_by_label("b", exact=True)).to_have_value("yes")


def test_tokens_are_counted_against_what_the_prompt_reads(page: Page, address: str) -> None:
    choose(page, "free")
    page.get_by_label("Text", exact=True).fill("the parcel is late")
    counted = page.locator("#count")
    expect(counted).to_have_text("4 of at most 8 tokens")
    page.get_by_label("Text", exact=True).fill("late " * 12)
    expect(counted).to_have_text("12 of at most 8 tokens")
    expect(counted).to_have_class(re.compile("over"))
    choose(page, "teams")
    expect(counted).to_have_text("16 of at most 256 tokens")


def test_all_prompts_stand_in_a_table_and_come_and_go(page: Page, tmp_path: Path) -> None:
    page.get_by_text("All prompts").click()
    rows = page.locator("#all tbody tr")
    expect(rows).to_have_count(13)
    expect(rows.filter(has_text="scored")).to_contain_text("0.750")
    expect(rows.filter(has_text="damaged")).to_contain_text("not a valid prompt.json")
    rows.filter(has_text="scored").get_by_role("button").click()
    expect(picker(page)).to_have_value("scored")
    new = write_prompt(tmp_path / "new", tiny.backbone("llama"), choices=TEAMS)
    page.get_by_text("Add or remove a prompt").click()
    page.get_by_label("Name", exact=True).fill("uploaded")
    page.get_by_label("prompt.json").set_input_files(new / "prompt.json")
    page.get_by_label("prompt.safetensors").set_input_files(new / "prompt.safetensors")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#changed")).to_contain_text("This key may not do that")
    page.get_by_role("button", name="Key").click()
    page.get_by_label("Key of this server").fill(ADMIN)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#changed")).to_contain_text("uploaded is served from now on.")
    expect(picker(page)).to_have_value("uploaded")
    expect(rows).to_have_count(14)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove the prompt").click()
    expect(page.locator("#changed")).to_contain_text("uploaded is no longer served.")
    expect(rows).to_have_count(13)


def test_two_prompts_side_by_side(page: Page, address: str) -> None:
    choose(page, "teams")
    page.get_by_role("button", name="Compare with another prompt").click()
    expect(picker(page, "Compared with")).to_have_value("base")
    ask(page)
    read = f"message : {TEXT} team :"
    assert bars(page, 0) == percent(api(page, address, "classify", model="teams", input=TEXT))
    assert bars(page, 1) == percent(api(page, address, "classify", model="base", input=read, choices=TEAMS))
    expect(result(page, 1)).to_contain_text(f"It read: {read}")
    choose(page, "shifted", "Compared with")
    expect(result(page, 1)).to_be_hidden()
    page.get_by_role("button", name="Ask").click()
    expect(result(page, 1).locator("h2")).to_have_text("shifted")
    assert bars(page, 1) == percent(api(page, address, "classify", model="shifted", input=TEXT))
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#results section")).to_have_count(1)


def test_a_field_for_each_column_and_choices_of_ones_own(page: Page, address: str) -> None:
    choose(page, "pair")
    page.get_by_label("a", exact=True).fill("good")
    page.keyboard.press("Enter")
    expect(page.get_by_label("b", exact=True)).to_be_focused()
    page.keyboard.type("bad")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Choices, one a line").fill("yes\n\nno\n")
    page.keyboard.press("Control+Enter")
    row = {"a": "good", "b": "bad"}
    assert bars(page) == percent(api(page, address, "classify", model="pair", input=row, choices=["yes", "no"]))


def test_cards_are_text_and_scores_stand_beside_floors(page: Page) -> None:
    choose(page, "markup")
    expect(page.locator(".card pre")).to_have_text(MARKUP)
    expect(page.locator("img")).to_have_count(0)
    choose(page, "scored")
    expect(page.locator(".card tbody tr")).to_have_text(["test0.7508", "no prompt0.5008"])
    ask(page)
    expect(result(page).locator("summary").first).to_have_text("2 more")
    shares = [float(share.split()[0]) for share in bars(page).values()]
    assert len(shares) == 12
    assert shares == sorted(shares, reverse=True)


def test_errors_say_what_to_do(page: Page, address: str) -> None:
    choose(page, "teams")
    ask(page, "good " * 1000)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Too much text")
    expect(alert).to_contain_text("at most 2000 are read")
    choose(page, "damaged")
    expect(alert).to_contain_text("This prompt cannot be used")
    choose(page, "teams")
    page.route("**/v1/classify", lambda route: route.abort())
    ask(page)
    expect(alert).to_contain_text("The server does not answer")
    page.unroute("**/v1/classify")
    page.get_by_role("button", name="Ask again").click()
    expect(result(page).locator(".best")).to_be_visible()


def test_a_busy_server_is_asked_again_and_a_slow_one_stopped(page: Page) -> None:
    choose(page, "teams")
    busy = {"error": {"message": "3 requests are waiting already.", "type": "rate_limit_error", "code": "queue_full"}}
    headers = {"Retry-After": "1"}
    page.route("**/v1/classify", lambda route: route.fulfill(status=429, json=busy, headers=headers), times=1)
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text("3 requests are waiting already.")
    expect(page.get_by_role("button", name="Ask again in 1 s")).to_be_disabled()
    page.get_by_role("button", name="Ask again", exact=True).click()
    expect(result(page).locator(".best")).to_be_visible()
    held: list[Route] = []
    page.route("**/v1/classify", lambda route: held.append(route), times=1)
    ask(page)
    page.get_by_role("button", name="Stop").click()
    expect(result(page)).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_a_wrong_key_is_told_and_a_right_one_kept_for_the_tab(page: Page, browser: Browser, address: str) -> None:
    page.get_by_role("button", name="Key").click()
    page.get_by_label("Key of this server").fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("alert")).to_contain_text("This key is not accepted")
    expect(page.get_by_label("Key of this server")).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.reload()
    expect(picker(page)).to_have_value("bare")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 740}}], indirect=True)
def test_a_phone_scrolls_down_only(page: Page) -> None:
    choose(page, "scored")
    page.get_by_text("Scores and floors").click()
    page.get_by_role("button", name="Compare with another prompt").click()
    page.get_by_role("button", name="Key").click()
    for closed in ("All prompts", "Add or remove a prompt"):
        page.get_by_text(closed).click()
    ask(page, "good" * 60)
    expect(result(page, 1).locator(".best")).to_be_attached()
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True)
def test_light_and_dark_can_be_read(page: Page, request: pytest.FixtureRequest) -> None:
    """Contrast of text on what it stands on: at least 4.5 (https://www.w3.org/TR/WCAG22/#contrast-minimum)."""
    choose(page, "damaged")
    pairs = {name: (_shade(page, name, "color"), _shade(page, ground, "backgroundColor")) for name, ground in (
        ("#sides label", "#sides section"), (".note, .hint", "#question"), ("#send", "#send"), ("footer", "body"),
        (".bad p", ".bad"), ("summary", "#question"),
    )}  # fmt: skip
    assert {name: _contrast(*pair) >= 4.5 for name, pair in pairs.items()} == dict.fromkeys(pairs, True)
    dark = request.node.callspec.params["page"]["color_scheme"] == "dark"
    assert (sum(_shade(page, "body", "backgroundColor")) < 3 * 128) == dark


def _shade(page: Page, selector: str, what: str) -> list[int]:
    found = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{what}.match(/[0-9]+/g).map(Number)")
    return list(found[:3])


def _contrast(one: list[int], other: list[int]) -> float:
    def light(shade: list[int]) -> float:
        parts = [(c / 255) / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in shade]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_no_script_runs_but_the_pages_own(browser: Browser, address: str) -> None:
    page = browser.new_page()
    answer = page.goto(address)
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert page.evaluate("window.ran") is None
    page.close()
