"""Chromium without a window, driven over its own protocol, for tests of web pages."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import requests
import websocket

#: Seconds until a page has what is waited for: a busy machine takes long to compile a large one.
LIMIT = 120.0
#: Names of the program on PATH.
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # as root in a container
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
    "--window-size=1400,900",
    "about:blank",
)


@attrs.define
class Browser:
    """One tab.  Events of the protocol are kept, oldest first."""

    _ws: websocket.WebSocket
    events: list[dict[str, Any]] = attrs.field(factory=list)
    _number: int = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._number += 1
        self._ws.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message: dict[str, Any] = json.loads(self._ws.recv())
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """The value of an expression in the page, or of its promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """The first value of an expression that is true."""
        end = time.monotonic() + LIMIT
        while True:
            with contextlib.suppress(AssertionError):  # what it needs is not there yet
                if found := self.value(script):
                    return found
            assert time.monotonic() < end, f"not in {LIMIT} s: {script}"
            time.sleep(0.1)

    def click(self, element: str) -> None:
        """Click in the middle of what an expression finds, when it is there."""
        place = self.until(
            f"(e => e && (r => r.width && [r.x + r.width / 2, r.y + r.height / 2])"
            f"(e.getBoundingClientRect()))({element})"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="none" if kind == "mouseMoved" else "left",
                clickCount=0 if kind == "mouseMoved" else 1,
            )

    def press_control_and_enter(self) -> None:
        """As a user does to queue a prompt."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                modifiers=2,
            )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def errors(self) -> list[str]:
        """The exceptions that no script of the page has caught."""
        thrown = [e["params"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        details = [one["exceptionDetails"] for one in thrown]
        return [one.get("exception", {}).get("description", one["text"]) for one in details]

    def statuses(self) -> list[tuple[str, int]]:
        """URL and status of each answer that the page got."""
        got = [e["params"] for e in self.events if e["method"] == "Network.responseReceived"]
        return [(one["response"]["url"], one["response"]["status"]) for one in got]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the block."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, f"no browser: install one of {', '.join(NAMES)}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, f"--user-data-dir={profile}", *_OPTIONS]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                port = _port_of(Path(profile, "DevToolsActivePort"))
                tabs = requests.get(f"http://127.0.0.1:{port}/json", timeout=LIMIT).json()
                (address,) = (t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")
                ws = websocket.create_connection(address, LIMIT, suppress_origin=True)
                with contextlib.closing(ws):
                    yield Browser(ws)
            finally:
                process.terminate()


def _port_of(file: Path) -> int:
    """The port that a browser listens on, as soon as it has written it down."""
    end = time.monotonic() + LIMIT
    while not (file.exists() and file.read_text().count("\n")):
        assert time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    return int(file.read_text().split("\n")[0])
