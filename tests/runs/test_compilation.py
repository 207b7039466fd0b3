"""What a run compiles: how many large programs, that each is in the log, and none twice."""

import collections
import logging
import re

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax import train
from rlhf_jax.io import read_metrics
from rlhf_jax.programs import called, compiler_options, jitted, named
from rlhf_jax.runs.compilation import COMPILED, keep_programs
from rlhf_jax.runs.provenance import read_sessions

LINE = re.compile(
    r"^([a-z ]+) \((.*)\): (compiled|read from the cache) in [0-9.]+ s, traced in [0-9.]+ s$"
)


def programs(caplog):
    """(name, shape) of every large program that the log tells of, in order."""
    found = (LINE.match(record.getMessage()) for record in caplog.records)
    return [(line[1], line[2]) for line in found if line is not None]


def summary(caplog):
    return next(text for text in caplog.messages[::-1] if text.startswith("compiled "))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sft", {"evaluate": 2, "update": 1}),  # the last rows of the held-out split are few
        pytest.param("dpo", {"reference": 1, "evaluate": 1, "update": 1}, marks=pytest.mark.slow),
    ],
)
def test_an_offline_run_has_three_programs(tiny_config, caplog, name, expected):
    caplog.set_level(logging.INFO)
    result = train(tiny_config(name), progress=False)
    found = programs(caplog)
    assert collections.Counter(program for program, _ in found) == expected
    rows = read_metrics(result.run_dir)
    assert [row["split"] for row in rows if row.get("time/compile", 0) > 0.01][:2] == [
        "eval",
        "train",
    ]
    assert all(
        0 < row["time/compile"] < row["time/elapsed"] for row in rows if "time/compile" in row
    )
    (session,) = read_sessions(result.run_dir)
    assert session["ended"] == "finished"
    assert len(set(found)) == len(found), "one program is compiled twice"
    assert ", ".join(f"{count} {name}" for name, count in expected.items()) in summary(caplog)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_an_online_run_has_five_programs(online_config, caplog, name):
    """Completions are generated greedily, at evaluation, and for training."""
    caplog.set_level(logging.INFO)
    train(online_config(name), progress=False)
    found = programs(caplog)
    counts = collections.Counter(program for program, _ in found)
    assert counts == {"generate": 3, "score": 1, "update": 1}
    assert len(set(found)) == len(found), "one program is compiled twice"


def test_nothing_large_is_compiled_after_warm_up(tiny_config, caplog):
    caplog.set_level(logging.INFO)
    warm = []
    train(
        tiny_config("dpo"),
        progress=False,
        callbacks=[lambda step, values: warm.append(len(programs(caplog)))],
    )
    assert warm == [3] * 8


def test_small_programs_share_a_line(caplog):
    """What a named program calls, and what is compiled beside it, is not counted under its name."""
    caplog.set_level(logging.INFO)

    def double(x):
        assert called().name == "large"
        return 2 * x

    large = named("large", jax.jit(double), lambda x: f"{x.shape[0]} numbers")
    with keep_programs(None):
        jax.jit(lambda x: x - 1)(jnp.ones(3))
        for size in (4, 5, 4):
            large(jnp.ones(size))
    assert programs(caplog) == [("large", "4 numbers"), ("large", "5 numbers")]
    assert re.search(r": 2 large, [0-9]+ small ones in ", summary(caplog))
    assert called() is None


def test_the_compiler_says_what_it_compiles():
    """Names come from JAX's events: without them every program would count as a small one."""
    seen = []

    def listen(event, seconds, **further):
        if event == COMPILED:
            seen.append(further.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)

    def unheard_of(x):
        return x + 17

    jax.jit(unheard_of)(jnp.ones(2))
    assert "jit(unheard_of)" in seen


WINDOWS = "xla_jf_spmd_threshold_for_windowed_einsum_mib"


def test_only_the_tpus_compiler_is_told_something(monkeypatch):
    """`tests/runs/plan/test_tpu_programs.py` looks whether it listens."""
    assert set(compiler_options("tpu")) == {WINDOWS}
    assert compiler_options("cpu") == compiler_options("gpu") == compiler_options() == {}
    told = []
    monkeypatch.setattr(jax, "jit", lambda function, **options: told.append(options))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jitted(len, donate_argnums=0)
    assert told == [{"donate_argnums": 0, "compiler_options": compiler_options("tpu")}]
    told[0]["compiler_options"].clear()  # a copy: nobody can change another's
    assert compiler_options("tpu")
