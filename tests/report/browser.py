"""The Chromium that is installed, whatever its package, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
START_SECONDS = 20.0


def find_chromium() -> str | None:
    """The first of the browsers known here that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def start(executable: str, seconds: float = START_SECONDS) -> Iterator["Browser"]:
    """The browser, of which no process is left in the end; Playwright's error where it has not started by then."""
    from playwright.sync_api import sync_playwright

    others = set(psutil.Process().children(recursive=True))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, timeout=1000 * seconds, args=["--disable-gpu"])
        processes = [process for process in psutil.Process().children(recursive=True) if process not in others]
        yield browser
        browser.close()
    psutil.wait_procs(processes, timeout=10)
    assert [process for process in processes if alive(process)] == []


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and that nobody has asked for its status does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Visit:
    """A page in a tab of its own, and all that it did."""

    def __init__(self, page: "Page", file: Path) -> None:
        self.requests: list[str] = []
        self.scripts: list[str] = []
        """What the page itself has made the browser parse; not what a test evaluates."""
        self.dialogs: list[str] = []
        self.complaints: list[str] = []
        """Errors and warnings, and what the page's policy has forbidden."""
        self._page = page
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", self._dismiss)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self._url = file.absolute().as_uri()
        debugger = page.context.new_cdp_session(page)
        debugger.on("Debugger.scriptParsed", self._parsed)
        debugger.send("Debugger.enable")
        page.goto(self._url)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, which the page's own policy does not forbid to us."""
        return self._page.evaluate(expression)

    def _parsed(self, event: dict[str, Any]) -> None:
        if event["url"] == self._url:
            self.scripts.append(event["url"])

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@contextmanager
def visit(browser: "Browser", file: Path, width: int = 1280, dark: bool = False) -> Iterator[Visit]:
    """Show a file in a window so many pixels wide."""
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    ) as context:
        yield Visit(context.new_page(), file)
