"""Notices of Google Cloud that a machine is about to be taken away, which come before SIGTERM.

JAX's preemption service (`multihost_utils.reached_preemption_sync_point`) knows SIGTERM alone, and
this library answers that itself, on all processes together. What it does not hear of is the word of
the metadata server: `instance/maintenance-event` says `TERMINATE_ON_HOST_MAINTENANCE` a minute (on
GPU machines an hour) before the machine is stopped, `instance/preempted` says `TRUE` when a spot
machine is, of which a program that was started by hand may never get a signal.
"""

import logging
import os
import pathlib
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

_log = logging.getLogger(__name__)
_MACHINE = pathlib.Path("/sys/class/dmi/id/product_name")
NOTICES = {
    "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE",
    "preempted": "TRUE",
}
"""Value of the metadata server -> what it says when the machine goes."""
EVERY = 5.0
"""Seconds between two questions, which the machine itself answers."""
_TIMEOUT = 5.0


class MaintenanceWatch:
    """Calls a function once when the machine is about to be taken away. On machines of others it
    does nothing.

    Args:
      notify: called in a thread, with what was said.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "MaintenanceWatch":
        host = _metadata_host()
        if host is not None:
            self._thread = threading.Thread(target=self._watch, args=(host,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, host: str) -> None:
        names = set(NOTICES)
        while names:
            for name in sorted(names):
                try:
                    said = _ask(host, name)
                except urllib.error.HTTPError:  # a pod is not told everything
                    names.discard(name)
                except OSError as error:
                    _log.debug("metadata server: %s", error)
                else:
                    if said == NOTICES[name]:
                        self._notify(f"{name} is {said}")
                        return
            if self._ended.wait(EVERY):
                return


def _metadata_host() -> str | None:
    """Of a machine of Google Cloud; None: it is another."""
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        return None
    given = os.environ.get("GCE_METADATA_HOST")  # as Google's own libraries have it
    if given:
        return given
    try:
        is_google = "Google" in _MACHINE.read_text(encoding="utf-8")
    except OSError:
        return None
    return "metadata.google.internal" if is_google else None


def _ask(host: str, name: str) -> str:
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{name}", headers={"Metadata-Flavor": "Google"}
    )
    # a proxy is for the world outside
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT) as answer:
        return str(answer.read().decode().strip())
