"""Notices that the machine will be stopped, from a metadata server on this machine."""

import http.server
import signal
import threading
import time

import pytest

from rlhf_jax.io import maintenance
from rlhf_jax.io.interrupt import StopRequest


@pytest.fixture
def server(monkeypatch):
    """What is answered, by path; a path that is missing is not known."""
    answers = {
        "/computeMetadata/v1/instance/maintenance-event": "NONE",
        "/computeMetadata/v1/instance/preempted": "FALSE",
    }
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            is_known = self.path in answers and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if is_known else 404)
            self.end_headers()
            if is_known:
                self.wfile.write(answers[self.path].encode())

        def log_message(self, *arguments):
            pass

    running = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{running.server_port}")
    monkeypatch.setattr(maintenance, "EVERY", 0.05)
    yield answers, asked
    running.shutdown()
    thread.join()
    running.server_close()


def wait_for(what):
    until = time.monotonic() + 20
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    return what()


@pytest.mark.parametrize(
    ("name", "value"),
    [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")],
)
def test_a_notice_asks_to_stop(server, caplog, name, value):
    answers, asked = server
    with StopRequest() as request:
        assert wait_for(lambda: len(asked) >= 4)
        assert request.signum is None
        answers[f"/computeMetadata/v1/instance/{name}"] = value
        assert wait_for(lambda: request.signum == signal.SIGTERM)
    assert f"the machine will be stopped ({name} is {value}): the run saves and ends" in caplog.text


def test_a_migration_stops_nothing(server):
    answers, asked = server
    answers["/computeMetadata/v1/instance/maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    with StopRequest() as request:
        assert wait_for(lambda: len(asked) >= 6)
    assert request.signum is None


def test_what_the_server_does_not_know_is_not_asked_again(server):
    answers, asked = server
    answers.clear()
    with StopRequest():
        assert wait_for(lambda: len(asked) == 2)
        time.sleep(0.3)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("product", "host"),
    [("Google Compute Engine\n", "metadata.google.internal"), ("QEMU\n", None), (None, None)],
)
def test_only_machines_of_google_are_asked(tmp_path, monkeypatch, product, host):
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    monkeypatch.setattr(maintenance, "_MACHINE", tmp_path / "product_name")
    if product is not None:
        (tmp_path / "product_name").write_text(product)
    assert maintenance._metadata_host() == host
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert maintenance._metadata_host() is None
