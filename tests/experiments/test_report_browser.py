"""report.html in a headless Chromium, driven by ChromeDriver over the WebDriver protocol (W3C): no error, filters work.

Debian: apt-get install chromium chromium-driver.
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from experiments.report import write_report
from tests.experiments.test_report import run_dir, save_triggers  # noqa: F401

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-prefers-reduced-motion",  # smooth scrolling moves what is about to be clicked
)

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Key of an element's id, section 12.2 of the WebDriver recommendation."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)",
    ),
]


class Browser:
    """One session of a ChromeDriver."""

    def __init__(self, address: str, profile: Path) -> None:
        self.address = address
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{made['sessionId']}"

    def ask(self, method: str, path: str, data: Any = None) -> Any:
        body = json.dumps(data or {}).encode() if method == "POST" else None
        request = Request(self.address + path, body, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self.ask("POST", "/url", {"url": page.as_uri()})

    def run(self, script: str) -> Any:
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def click(self, selector: str) -> None:
        found = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        self.ask("POST", f"/element/{found[ELEMENT]}/click")

    def size(self, width: int) -> None:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        self.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": screen})

    def said(self) -> list[str]:
        """What the console said since it was last asked."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urlopen(address + "/status", timeout=5).close()
                break
            except URLError:
                time.sleep(0.5)
        opened = Browser(address, tmp_path_factory.mktemp("profile"))
        yield opened
        opened.ask("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(timeout=30)


@pytest.fixture
def page(run_dir: Path) -> Path:  # noqa: F811
    """A report with names that want to be markup, two rounds, and forty triggers of three label pairs."""
    environment = json.loads((run_dir / "environment.json").read_text())
    environment["class_names"] = ["<img src=x onerror=\"document.title='steered'\">", "</script><b>b", "c"]
    (run_dir / "environment.json").write_text(json.dumps(environment))
    save_triggers(run_dir / "round-01" / "triggers", [0.1] * 37, seed=1)
    path = run_dir / "round-01" / "triggers" / "triggers-0-0.npz"
    with np.load(path) as shard:
        arrays = dict(shard)
    arrays["trigger_original"][:5] = arrays["trigger_original"][:5, [1, 0, 2]]
    arrays["trigger_seed_images"][:] = arrays["trigger_images"]
    arrays["trigger_images"][:, 0, 1, 1] ^= 8 + np.arange(37, dtype=np.uint8)[::-1]  # the later, the nearer
    np.savez_compressed(path, **arrays)
    write_report(run_dir)
    return run_dir / "report.html"


CARDS = "[...document.querySelectorAll('.card')].filter(card => card.checkVisibility())"


def choose(browser: Browser, name: str, value: str) -> list[dict[str, str]]:
    """Choose an option of a filter as a person does; what the visible cards say."""
    browser.click(f"select[name={name}] option[value='{value}']")
    cards: list[dict[str, str]] = browser.run(f"return {CARDS}.map(card => ({{...card.dataset}}))")
    return cards


def test_a_page_is_filtered_sorted_and_enlarged_without_an_error(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run(f"return {CARDS}.length") == 24
    browser.click("#more")
    assert browser.run(f"return {CARDS}.length") == 40
    chosen = choose(browser, "pair", "1-2")
    assert [card["pair"] for card in chosen] == ["1-2"] * 5
    assert browser.run("return document.getElementById('shown').textContent") == "5 of 5 shown, 40 on this page"
    nearest = choose(browser, "sort", "linf")
    assert [float(card["linf"]) for card in nearest] == sorted(float(card["linf"]) for card in chosen)
    assert nearest != chosen
    browser.click(".card:not([hidden]) .zoom")
    assert browser.run("return document.getElementById('zoom').open")
    assert browser.run("return document.querySelectorAll('#zoomed img').length") == 3
    browser.click("#zoom [data-move='1']")
    browser.click("#zoom [data-move='0']")
    assert not browser.run("return document.getElementById('zoom').open")
    browser.click("#filters [type=reset]")
    assert [card["pair"] for card in choose(browser, "round", "0")] == ["0-2"] * 3
    assert browser.said() == []


def test_names_are_shown_and_do_not_run(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("return document.title").endswith("the release gate passed")
    assert browser.run("return document.querySelectorAll('b').length") == 0
    assert "onerror" in browser.run("return document.querySelector('#gallery').textContent")
    names = browser.run("return JSON.parse(document.getElementById('data-pairs').textContent).classes")
    assert names[1] == "</script><b>b"
    assert browser.said() == []


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_the_page_fits_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.size(width)
    browser.open(page)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]


def test_data_can_be_saved_and_a_script_of_someone_else_is_refused(browser: Browser, page: Path) -> None:
    browser.open(page)
    saved = "const made = []; URL.createObjectURL = blob => { made.push(blob.size); return '#'; };"
    sizes = browser.run(f"{saved} document.querySelector('[data-for=data-survival]').click(); return made")
    assert sizes == [len((page.read_text().split('id="data-survival">')[1].split("</script>")[0]).encode())]
    assert browser.said() == []
    page.write_text(page.read_text().replace("<main>", "<main><script>document.title = 'steered'</script>"))
    browser.open(page)
    assert browser.run("return document.title") != "steered"
    assert "Content Security Policy" in browser.said()[0]
