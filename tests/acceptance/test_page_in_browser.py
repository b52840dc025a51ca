"""An operator at the page, in a real browser: finds who cannot be saved, repairs and retries it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from statesync import GameStateOrchestrator, Settings
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack
from statesync.hot.keys import Keys
from tests.acceptance.conftest import WAIT_SECONDS, wait_until
from tests.axe import violations
from tests.conftest import FullCore
from tests.ports import free_port
from tests.realms import in_schemas
from tests.rewind import Rewind

pytestmark = pytest.mark.slow

OPERATOR = ("statesync", "an operator's password")
HOSTILE = "Hero \u202e\x1b[31m<script>document.title='owned'</script>"
LOOKS = [(390, "light"), (390, "dark"), (1400, "light"), (1400, "dark")]
WAIT_MS = 1000 * WAIT_SECONDS


@dataclass
class Site:
    """A running system, its page, and somebody who looks at it."""

    url: str
    orchestrator: GameStateOrchestrator
    raw: Any
    rewind: Rewind
    stack: Stack
    serve: Child

    @property
    def keys(self) -> Keys:
        return self.orchestrator.hot.keys

    def poison(self, char_id: int, text: str = "{no JSON") -> None:
        """Write what cannot be saved, as a bare writer does."""
        self.raw.hset(self.keys.core(char_id), "stats", text)
        self.raw.sadd(self.keys.dirty, char_id)


@pytest.fixture
def site(
    settings: Settings, embedded: Servers, stack: Stack, raw: Any, rewind: Rewind
) -> Iterator[Site]:
    own, port = replace(settings, sync_seconds=2), free_port()
    with contextlib.ExitStack() as exits:
        running = Stack(embedded, own, exits)
        running.start_worker("page-worker")
        serve = running.start_serve(port, OPERATOR[1], flower_url="http://127.0.0.1:5555")
        orchestrator = exits.enter_context(GameStateOrchestrator.from_settings(own))
        yield Site(f"http://127.0.0.1:{port}", orchestrator, raw, rewind, running, serve)


@contextlib.contextmanager
def looking(chromium: Browser, width: int = 1400, scheme: str = "light") -> Iterator[Page]:
    """A page that fails the test if the browser refuses or misses anything on it."""
    size, seen = {"width": width, "height": 900}, list[str]()
    context = chromium.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    yield page
    context.close()
    assert seen == []


def log_in(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/login")
    page.get_by_label("Name").fill(OPERATOR[0])
    page.get_by_label("Password").fill(OPERATOR[1])
    page.get_by_role("main").get_by_role("button", name="Log in").click()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on what has this name."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "document.activeElement.ariaLabel || document.activeElement.labels?.[0]?.innerText"
            " || document.activeElement.innerText"
        )
        if focused == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def test_an_operator_repairs_a_character_by_keyboard_alone(chromium: Browser, site: Site) -> None:
    hot = site.orchestrator.hot
    hot.create(7, state="exploration", bio={"name": HOSTILE})
    site.stack.start_beat()
    with looking(chromium) as page:
        page.goto(site.url)
        quarantined = page.locator("dl.cards > div", has_text="In quarantine").locator("dd")
        expect(quarantined).to_have_text("0")
        link = page.get_by_role("link", name="In quarantine")
        link.focus()
        site.poison(7)
        # The page is live: nobody loads it again, and the focus stays where it was.
        expect(quarantined).to_have_text("1", timeout=WAIT_MS)
        expect(link).to_be_focused()
        tab_to(page, "Log in")
        page.keyboard.press("Enter")
        page.wait_for_url("**/login")
        tab_to(page, "Name")
        page.keyboard.type(OPERATOR[0])
        page.keyboard.press("Tab")
        page.keyboard.type(OPERATOR[1])
        page.keyboard.press("Enter")
        page.wait_for_url(f"{site.url}/")
        tab_to(page, "Quarantine")
        page.keyboard.press("Enter")
        row = page.get_by_role("row", name="7")
        expect(row).to_contain_text("is not valid JSON")
        site.raw.hset(site.keys.core(7), "stats", '{"strength": 3}')
        tab_to(page, "Retry 7")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("retry 7: marked")
        wait_until(lambda: hot.status().quarantined == 0)
        tab_to(page, "Reload")
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_contain_text("Nothing is in quarantine")
        tab_to(page, "Character")
        page.keyboard.type("7")
        page.keyboard.press("Enter")
        stats = page.get_by_role("row", name="stats")
        expect(stats).to_contain_text('{"strength":3} {"strength":3} same')
        assert page.title() == "Character 7 · statesync"
        tab_to(page, "Actions")
        page.keyboard.press("Enter")
        expect(page.get_by_role("row", name="statesync retry")).to_contain_text("marked")


@pytest.fixture
def troubled(site: Site, full_core: FullCore) -> Site:
    """A conflict, a loss, a fight, a poisoned character, and no beat."""
    hot = site.orchestrator.hot
    for char_id in range(1, 9):
        hot.create(char_id, **full_core(char_id, guild=HOSTILE))
    fight = hot.open_session("combat", [1, 2], {"turn": "1"})
    site.orchestrator.backup_many(range(1, 9))
    before = site.rewind.moment()
    hot.update_session("combat", fight, {"turn": "2"}, log=[{"hit": HOSTILE}])
    site.orchestrator.backup_many([1, 2])
    site.rewind.to(before)
    hot.update_session("combat", fight, {"turn": "3"}, log=[{"hit": HOSTILE}])
    hot.update(1, {"guild": "Bären"})
    assert {one.outcome for one in site.orchestrator.backup_many([1, 2])} == {"conflict"}
    site.poison(7)
    site.orchestrator.backup_full_state(7)
    hot.update(3, {"guild": "Füchse"})
    return site


PAGES = {
    "overview": "/",
    "quarantine": "/quarantine",
    "conflicts": "/conflicts",
    "conflict": "/conflict?id={conflict}",
    "character": "/character?id=3",
    "in-quarantine": "/character?id=7",
    "losses": "/losses",
    "actions": "/actions",
    "runbooks": "/runbooks",
    "login": "/login",
}
PICTURES = {("overview", 1400, "light"), ("quarantine", 1400, "dark"), ("character", 1400, "light")}
PICTURES |= {("overview", 390, "dark")}
FOLDER = Path(__file__).parents[2] / "docs" / "pictures"


def test_axe_finds_nothing_on_any_page(
    chromium: Browser, troubled: Site, request: pytest.FixtureRequest
) -> None:
    take = request.config.getoption("pictures")
    found: list[object] = []
    for width, scheme in LOOKS:
        with looking(chromium, width, scheme) as page:
            log_in(page, troubled)
            expect(page.locator("#wrong + .problems")).to_contain_text(
                "quarantine", timeout=WAIT_MS
            )
            page.goto(f"{troubled.url}/conflicts")
            newest = page.locator("tbody th a").first.inner_text()
            for name, path in PAGES.items():
                page.goto(troubled.url + path.format(conflict=newest))
                page.get_by_role("heading", level=1).wait_for()
                found += [(name, width, scheme, line) for line in violations(page)]
                drawn = page.evaluate("document.documentElement.scrollWidth")
                assert drawn <= width, f"{name} has to be scrolled sideways"
                assert page.title() != "owned"
                if take and (name, width, scheme) in PICTURES:
                    page.screenshot(path=FOLDER / f"{name}-{width}.png", full_page=width > 700)
    assert found == []


def test_axe_finds_nothing_on_the_page_of_realms(
    chromium: Browser, settings: Settings, embedded: Servers, stack: Stack
) -> None:
    port = free_port()
    with contextlib.ExitStack() as exits:
        fleet = Stack(embedded, in_schemas(settings, "eu", "us"), exits)
        fleet.start_serve(port, OPERATOR[1])
        for width, scheme in LOOKS:
            with looking(chromium, width, scheme) as page:
                page.goto(f"http://127.0.0.1:{port}")
                expect(page.get_by_role("rowheader", name="eu")).to_be_visible()
                assert violations(page) == []
                page.get_by_label("Realm", exact=True).select_option("us")
                page.get_by_role("button", name="Go").click()
                expect(page.get_by_role("heading", level=1)).to_have_text("Realm us")
                assert violations(page) == []
                assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_works_without_scripts(chromium: Browser, troubled: Site) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, troubled)
    page.get_by_role("link", name="Quarantine", exact=True).click()
    page.get_by_role("button", name="Discard 7").click()
    expect(page.get_by_role("status")).to_contain_text("the entry is forgotten")
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="Reload").click()
    expect(page.get_by_role("main")).to_contain_text("Oldest unsaved change")
    context.close()


def test_a_page_whose_server_is_gone_says_so(chromium: Browser, site: Site) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(site.url)
    expect(page.get_by_role("status")).to_have_text("Live")
    site.serve.stop()
    expect(page.get_by_role("status")).to_contain_text("Not live", timeout=WAIT_MS)
    context.close()
