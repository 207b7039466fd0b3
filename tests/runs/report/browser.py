"""A headless Chromium, driven through chromedriver by the WebDriver protocol (W3C)."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0
"""Seconds until the driver or the page must have answered."""


def find_browser():
    """(browser, driver), or the reason why there is none."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if browser is None:
        return None, f"no Chromium is installed (looked for {', '.join(CHROMIUM)})"
    if driver is None:
        return None, "no chromedriver is installed (Debian: chromium-driver)"
    return (browser, driver), ""


class Page:
    """A window with one page."""

    def __init__(self, base):
        self._base = base

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._base}{path}", data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as refused:
            with refused:
                raise AssertionError(refused.read().decode()) from None

    def open(self, path):
        self._ask("POST", "/url", {"url": path.resolve().as_uri()})

    def run(self, script, *arguments):
        """What a script returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def size(self, width, height):
        """Of what the page sees, whatever the window's frame takes (phones are narrower than any
        window can be)."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._ask("POST", "/goog/cdp/execute", command)

    def theme(self, name):
        """What the page takes for the reader's choice: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._ask("POST", "/goog/cdp/execute", command)

    def find(self, selector):
        """Ids of the elements that fit, in their order."""
        body = {"using": "css selector", "value": selector}
        return [next(iter(found.values())) for found in self._ask("POST", "/elements", body)]

    def click(self, element):
        self._ask("POST", f"/element/{element}/click", {})

    def type(self, element, text):
        self._ask("POST", f"/element/{element}/value", {"text": text})

    def move_to(self, element):
        """The pointer, to the middle of an element."""
        origin = {"element-6066-11e4-a52e-4f735466cecf": element}
        move = {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": origin}
        self._ask(
            "POST", "/actions", {"actions": [{"type": "pointer", "id": "p", "actions": [move]}]}
        )

    def log(self):
        """What the browser's console was told: errors of scripts, refused requests."""
        return self._ask("POST", "/se/log", {"type": "browser"})

    def picture(self, path, *, whole=False):
        """A screenshot: of the window, or of the whole page."""
        if not whole:
            path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))
            return
        parameters = {"captureBeyondViewport": True}
        command = {"cmd": "Page.captureScreenshot", "params": parameters}
        found = self._ask("POST", "/goog/cdp/execute", command)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def chromium(folder):
    """A page in a fresh browser whose files lie in a folder."""
    (browser, driver), _ = find_browser()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    log = (folder / "chromedriver.log").open("w")
    process = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log)
    try:
        options = {
            "binary": browser,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--hide-scrollbars",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                f"--user-data-dir={folder / 'profile'}",
            ],
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        wanted |= {"goog:loggingPrefs": {"browser": "ALL"}}
        body = json.dumps({"capabilities": {"alwaysMatch": wanted}}).encode()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{base}/status", timeout=PATIENCE) as answer:
                    if json.load(answer)["value"]["ready"]:
                        break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
            time.sleep(0.1)
        request = urllib.request.Request(f"{base}/session", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            session = json.load(answer)["value"]["sessionId"]
        page = Page(f"{base}/session/{session}")
        try:
            yield page
        finally:
            urllib.request.urlopen(
                urllib.request.Request(f"{base}/session/{session}", method="DELETE"),
                timeout=PATIENCE,
            ).close()
    finally:
        process.terminate()
        process.wait(PATIENCE)
        log.close()
