"""A real Chromium without a window, driven over the DevTools protocol."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--mute-audio",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--hide-scrollbars",
    "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE = 120.0  # seconds: a busy machine draws slowly without a GPU


def find_chromium() -> str:
    """Return the program, or skip with the reason."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("no Chromium: apt-get install chromium (or set CHROMIUM) to test the page")


class Tab:
    """One page of the browser."""

    def __init__(self, socket: Any, width: int, height: int) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.problems: list[str] = []
        for method in ("Page.enable", "Runtime.enable", "Log.enable", "Network.enable"):
            self.call(method)
        self.requests: list[str] = []
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """Return the value of an expression; promises are awaited."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, expression: str, timeout: float = PATIENCE) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout
        while not (value := self.js(f"Boolean(window.edgetalker) && ({expression})")):
            assert time.monotonic() < end, (expression, self.js("window.edgetalker?.probe()"), self.problems)
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click like a user, so that the page may play sound."""
        spot = self.js(
            f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1)

    def picture(self, selector: str | None = None) -> NDArray[np.int64]:
        """Return what is on the screen (H, W, 3), or the part of it under an element."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        image = np.asarray(pytest.importorskip("PIL.Image").open(io.BytesIO(data)).convert("RGB")).astype(np.int64)
        if selector is None:
            return image
        x, y, w, h = self.js(
            f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [r.x, r.y, r.width, r.height].map(Math.round); })()"
        )
        return image[y : y + h, x : x + w]


@contextmanager
def browser(width: int = 900, height: int = 640, *flags: str) -> Iterator[Tab]:
    """Start Chromium with a fresh profile, further flags and one empty tab; skip where there is none."""
    from websockets.sync.client import connect

    program = find_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(Path(profile), process)
            with connect(_tab_address(port), max_size=None, open_timeout=PATIENCE) as socket:
                yield Tab(socket, width, height)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.skip(f"Chromium does not start here (exit code {process.returncode})")
        file = profile / "DevToolsActivePort"
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("Chromium did not say its port")


def _tab_address(port: int) -> str:
    import http.client

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/json")
        tabs = json.loads(connection.getresponse().read())
        connection.close()
        for tab in tabs:
            if tab["type"] == "page":
                return str(tab["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("Chromium has no tab")
