"""Headless Chromium for tests of pages, driven by its own DevTools protocol over a pipe: no driver, no library, no port.

    with open_page(path, width) as page: page.run("document.title"), page.screenshot(file), page.problems
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install -y --no-install-recommends chromium"
)
HEIGHT_PX = 900


class Page:
    """One open page; `problems` are its console errors, exceptions and requests, each of which a report should not have."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, os.fdopen(from_browser, "rb", buffering=0)
        self._rest, self._number, self._session, self._target = b"", 0, "", ""
        self.problems: list[str] = []
        self._events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str, width: int) -> None:
        """Load a page in a window of `width` pixels; what was noted of the one before is forgotten."""
        if self._session:
            self._session = ""
            self.call("Target.closeTarget", targetId=self._target)
        self._events.clear()
        self.problems.clear()
        self._target = target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.resize(width)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._note(self._next())

    def resize(self, width: int) -> None:
        """Make the window `width` pixels wide."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=HEIGHT_PX, deviceScaleFactor=1, mobile=False)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = self._from.read(1 << 16)
            assert block, "Chromium has ended"
            self._rest += block
        message, self._rest = self._rest.split(b"\0", 1)
        content: dict[str, Any] = json.loads(message)
        return content

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method", ""), message.get("params", {})
        if "method" in message:
            self._events.append(message)
        if method == "Runtime.exceptionThrown" or (method == "Log.entryAdded" and told["entry"]["level"] == "error"):
            self.problems.append(json.dumps(told))
        if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.problems.append(json.dumps(told))
        if method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.problems.append(f"request: {told['request']['url']}")


@contextmanager
def open_page(path: Path, width: int) -> Iterator[Page]:
    """Open a file in a fresh headless browser without network; it is ended with the block."""
    browser_reads, to_browser = os.pipe()
    from_browser, browser_writes = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        )  # fmt: skip
        # DevTools talks on file descriptors 3 and 4
        shell = f'exec "$@" 3<&{browser_reads} 4>&{browser_writes}'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", str(CHROMIUM), *options],
            pass_fds=(browser_reads, browser_writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(browser_reads)
        os.close(browser_writes)
        try:
            page = Page(to_browser, from_browser)
            page.open(path.resolve().as_uri(), width)
            yield page
        finally:
            os.close(to_browser)  # the browser ends when nobody talks to it
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
