"""Only what comes from orbax and tensorstore is kept from the terminal."""

import logging
import sys
import types

import pytest

from rlhf_jax.io.quiet import silence_orbax


def raised(error: Exception) -> tuple:
    try:
        raise error
    except Exception:
        return sys.exc_info()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("mine", True), ("NOT_FOUND: Error opening \"zarr\" driver [tensorstore_spec='{}']", False)],
)
def test_a_task_that_nobody_asks_is_told_unless_it_was_tensorstores(
    text, shown, caplog, monkeypatch
):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    silence_orbax()
    silence_orbax()
    kind, error, trace = raised(ValueError(text))
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved", exc_info=(kind, error, trace)
    )
    assert (text in caplog.text) == shown
    sys.unraisablehook(
        types.SimpleNamespace(object=None, exc_type=kind, exc_value=error, exc_traceback=trace)
    )
    assert len(told) == int(shown)
    caplog.clear()  # a future has no traceback
    logging.getLogger("asyncio").error(
        "Future exception was never retrieved", exc_info=(kind, error, None)
    )
    assert (text in caplog.text) == shown
