"""How several runs are told of, one after the other."""

import logging

import pytest

from rlhf_jax.runs.story import Story, about


def test_headings_say_how_much_is_left(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="rlhf_jax")
    now = [0.0]
    monkeypatch.setattr("rlhf_jax.runs.story.time.monotonic", lambda: now[0])
    story = Story(3)
    for name, seconds in (("sft", 100.0), ("dpo", 140.0), ("grpo", 1.0)):
        with story.chapter(name, f"{name} learns"):
            now[0] += seconds
    assert caplog.messages == [
        "1 of 3: sft learns",
        "2 of 3: dpo learns (about 3 min left)",
        "3 of 3: grpo learns (about 2 min left)",
    ]


def test_an_interruption_says_where_it_came():
    story = Story(2)
    with pytest.raises(
        KeyboardInterrupt,
        match=r"^in 1 of 2 \(sft\); its step 3 is saved, and the same command goes on from there$",
    ):
        with story.chapter("sft", "x"):
            raise KeyboardInterrupt("its step 3 is saved")
    with pytest.raises(
        KeyboardInterrupt, match=r"^in 2 of 2 \(dpo\); what was saved of it is kept"
    ):
        with story.chapter("dpo", "x"):
            raise KeyboardInterrupt


def test_about():
    assert [about(x) for x in (2, 44, 89, 91, 240, 10_000)] == [
        "about 10 s",
        "about 40 s",
        "about 90 s",
        "about 2 min",
        "about 4 min",
        "about 3 h",
    ]
