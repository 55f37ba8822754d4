"""A headless Chromium, driven over its DevTools protocol through a pair of pipes: no port, no server, no driver."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
_TIMEOUT_SECONDS = 30.0


def find_chromium() -> str | None:
    """The first of the browsers known here that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A context manager: when it ends, none of the browser's processes is left."""

    def __init__(self, executable: str, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # what we read, what it reads
        # The browser takes 3 and 4; above these nothing is in the way when the shell puts ours there.
        output, commands = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (ours[1], theirs[0]))
        flags = (
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-breakpad",
            "--disable-crashpad-for-testing", "--disable-dev-shm-usage", "--hide-scrollbars",
            f"--user-data-dir={profile}", "--remote-debugging-pipe",
        )  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{output}', "bash", executable, *flags],
            pass_fds=(output, commands), start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (output, commands, ours[1], theirs[0]):
            os.close(fd)
        self._read, self._write = ours[0], theirs[1]
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        """Everything the page has told so far."""

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, TimeoutError, AssertionError):
            self._session = ""
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        deadline = time.monotonic() + 10
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)

    def processes(self) -> list[int]:
        """Those of the browser that are alive."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid and fields[0] != "Z":  # its session
                    found.append(int(folder.name))
        return found

    def open(self, page: Path, width: int, height: int = 900, dark: bool = False) -> None:
        """Show a file in a new tab of that size, and wait until it is loaded."""
        self._session, self.events = "", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        for method, values in (
            ("Page.enable", {}), ("Network.enable", {}), ("Debugger.enable", {}), ("Log.enable", {}),
            ("Emulation.setDeviceMetricsOverride",
             {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}),
            ("Emulation.setEmulatedMedia", {"features": scheme}),
        ):  # fmt: skip
            self.call(method, **values)
        self.events = []
        self.call("Page.navigate", url=page.absolute().as_uri())
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not self.heard("Page.loadEventFired"):
            self._receive(deadline)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, which the page's own policy does not forbid to us."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def heard(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of one kind."""
        return [event["params"] for event in self.events if event["method"] == method]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for what it gives back; AssertionError on an error."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _receive(self, deadline: float) -> dict[str, Any]:
        """The next message; events are kept. TimeoutError after the deadline, OSError where the browser has gone."""
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)  # so that the tests to come do not wait as well
                raise TimeoutError(f"the browser said nothing for {_TIMEOUT_SECONDS:.0f} s")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise OSError("the browser has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message
