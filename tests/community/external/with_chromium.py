"""The operations page in a real browser: it looks right, refreshes by itself, and its buttons work.

A screenshot is left in the folder that COMMUNITY_SCREENSHOTS names.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import alert_is_present, presence_of_element_located
from selenium.webdriver.support.ui import WebDriverWait

from araponga_infra import InfraSettings
from examples.community.app import create_app
from examples.community.settings import CommunitySettings
from tests.community.operations import TOKEN, leave_dead_letters
from tests.integrations.serving import served_asgi

WIDTHS = {"wide": 1360, "narrow": 420}


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    driver = shutil.which("chromedriver")
    assert driver is not None, "chromedriver is not installed: apt-get install chromium chromium-driver"
    options = ChromeOptions()
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options, ChromeService(driver)) as browser:
        yield browser


@pytest.fixture
def address(servers: InfraSettings) -> Iterator[str]:
    asyncio.run(leave_dead_letters(servers, 3))
    one, two = (create_app(CommunitySettings(servers, name, consume=False, ops_token=TOKEN)) for name in ("one", "two"))
    with served_asgi(one) as client, served_asgi(two) as other:
        for _ in range(5):
            for instance in (client, other):
                instance.get("/territories/1")
                instance.get("/feed")
        yield str(client.base_url)


def text_of(browser: Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "main").text


def until_text(browser: Chrome, text: str) -> None:
    WebDriverWait(browser, 20).until(lambda _: text in text_of(browser), f"{text!r} in: {text_of(browser)}")


def button(browser: Chrome, label: str) -> None:
    browser.find_element(By.XPATH, f"//button[text()='{label}']").click()


def screenshot(browser: Chrome, name: str) -> None:
    if folder := os.environ.get("COMMUNITY_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_operators_sign_in_look_redrive_and_discard(browser: Chrome, address: str) -> None:
    browser.get(f"{address}/ops")
    screenshot(browser, "ops-sign-in")
    browser.find_element(By.NAME, "token").send_keys(TOKEN)
    button(browser, "Sign in")
    WebDriverWait(browser, 20).until(presence_of_element_located((By.ID, "live")))
    until_text(browser, "80 %")
    until_text(browser, "s behind")
    for name, width in WIDTHS.items():
        browser.set_window_size(width, 1100)
        screenshot(browser, f"ops-{name}")
        is_scrolled = browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
        assert not is_scrolled, f"{name}: the page is wider than its window"

    button(browser, "Redrive")
    until_text(browser, "It will be tried again.")
    button(browser, "Discard")
    WebDriverWait(browser, 20).until(alert_is_present()).dismiss()
    assert len(browser.find_elements(By.XPATH, "//button[text()='Discard']")) == 2, "asked first, and not confirmed"
    button(browser, "Discard")
    WebDriverWait(browser, 20).until(alert_is_present()).accept()
    until_text(browser, "It is discarded.")
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    complaints = [entry["message"] for entry in log if "401 (Unauthorized)" not in entry["message"]]
    assert not complaints, "\n".join(complaints)


def test_the_page_refreshes_by_itself(browser: Chrome, address: str, servers: InfraSettings) -> None:
    browser.get(f"{address}/ops")
    browser.find_element(By.NAME, "token").send_keys(TOKEN)
    button(browser, "Sign in")
    until_text(browser, "Dead letters")
    count = len(browser.find_elements(By.XPATH, "//button[text()='Redrive']"))
    asyncio.run(leave_dead_letters(servers, 1))
    WebDriverWait(browser, 30).until(
        lambda _: len(browser.find_elements(By.XPATH, "//button[text()='Redrive']")) not in (0, count)
    )
