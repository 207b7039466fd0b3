"""Metric sinks: strict JSON, resumption, TensorBoard, Weights & Biases."""

import json
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.io import (
    JsonlSink,
    MetricsError,
    TensorBoardSink,
    WandbSink,
    read_metrics,
    salvage_metrics,
)
from rlhf_jax.io.sinks import json_number


def lines(path):
    return path.read_text().splitlines()


def test_rows_are_strict_json_and_flushed(tmp_path):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    values = {
        "a": jnp.float32(0.1),
        "b": 2,
        "c": float("nan"),
        "d": -math.inf,
        "e": np.float64(0.1),
        "f": jnp.bfloat16(0.5),
    }
    sink.write(3, values)
    sink.write(jnp.int32(4), {"loss": math.inf}, split="eval")
    written = lines(tmp_path / "metrics.jsonl")
    assert json.loads(written[0]) == {
        "step": 3,
        "split": "train",
        "a": 0.1,
        "b": 2,
        "c": "NaN",
        "d": "-Infinity",
        "e": 0.1,
        "f": 0.5,
    }
    assert written[1] == '{"step": 4, "split": "eval", "loss": "Infinity"}'
    rows = read_metrics(tmp_path)
    assert math.isnan(rows[0]["c"]) and rows[0]["d"] == -math.inf and rows[1]["loss"] == math.inf
    assert rows[1]["split"] == "eval"
    sink.close()


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_text_gives_the_same_float32_back(value):
    text = json.dumps(json_number(np.float32(value)))
    assert np.float32(json.loads(text)).tobytes() == np.float32(value).tobytes()
    assert text == json.dumps(json_number(jnp.asarray(value, jnp.float32)))


def test_a_resumed_file_equals_an_unbroken_one(tmp_path):
    def run(path, steps, resume=None):
        sink = JsonlSink(path, resume_step=resume)
        for step in steps:
            sink.write(step, {"loss": 1 / step})
            if step % 2 == 0:
                sink.write(step, {"loss": 2 / step}, split="eval")
        sink.close()

    run(tmp_path / "whole.jsonl", range(1, 7))
    run(tmp_path / "broken.jsonl", range(1, 6))
    with (tmp_path / "broken.jsonl").open("a") as file:
        file.write('{"step": 6, "spl')
    assert len(read_metrics(tmp_path / "broken.jsonl")) == 7
    run(tmp_path / "broken.jsonl", range(4, 7), resume=3)
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    JsonlSink(tmp_path / "whole.jsonl", resume_step=0).close()
    assert lines(tmp_path / "whole.jsonl") == []


def test_a_new_run_starts_an_empty_file(tmp_path):
    (tmp_path / "m.jsonl").write_text("old\n")
    JsonlSink(tmp_path / "m.jsonl").close()
    assert lines(tmp_path / "m.jsonl") == []
    JsonlSink(tmp_path / "absent.jsonl", resume_step=5).close()
    assert lines(tmp_path / "absent.jsonl") == []


def test_damage_is_reported_with_its_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\ngarbage\n{"step": 2, "split": "train"}\n')
    with pytest.raises(
        MetricsError,
        match=r"metrics.jsonl line 2 is not JSON: the file was changed by something else$",
    ):
        JsonlSink(path, resume_step=2)
    with pytest.raises(MetricsError, match="no such metrics file$"):
        read_metrics(tmp_path / "absent.jsonl")
    path.write_text('{"step": 1, "split": "train"}\ngarbage\n')
    assert read_metrics(path) == [{"step": 1, "split": "train"}]


def test_tensorboard_events(tmp_path):
    sink = TensorBoardSink(tmp_path / "tb")
    sink.write(1, {"loss/total": jnp.float32(0.5)})
    sink.write(1, {"loss/total": 0.25}, split="eval")
    sink.close()
    sink = TensorBoardSink(tmp_path / "tb", resume_step=1)
    sink.write(2, {"loss/total": 0.1})
    sink.close()
    written = b"".join(path.read_bytes() for path in (tmp_path / "tb").iterdir())
    assert b"train/loss/total" in written and b"eval/loss/total" in written


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    calls = []

    def init(**arguments):
        calls.append(("init", arguments))
        return types.SimpleNamespace(
            id="abc",
            define_metric=lambda *names, **options: calls.append(("define", names, options)),
            log=lambda values, **options: calls.append((values, options)),
            finish=lambda: calls.append("finish"),
        )

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for step in (1, 2):
        sink = WandbSink(tmp_path, project="p", name="n", config={"seed": 0})
        sink.write(step, {"loss": jnp.float32(0.5)}, split="eval")
        sink.close()
    common = {
        "project": "p",
        "name": "n",
        "dir": str(tmp_path),
        "config": {"seed": 0},
        "resume": "allow",
    }
    axis = ("define", ("*",), {"step_metric": "step"})
    assert calls == [
        ("init", common | {"id": None}),
        axis,
        ({"step": 1, "eval/loss": 0.5}, {}),
        "finish",
        ("init", common | {"id": "abc"}),
        axis,
        ({"step": 2, "eval/loss": 0.5}, {}),
        "finish",
    ]


class Service:
    """Weights & Biases as far as it matters: a row with a step below the run's is dropped."""

    def __init__(self):
        self.rows, self.last, self.axes = [], 0, {}

    def init(self, *, id, **options):
        return types.SimpleNamespace(
            id="abc", define_metric=self.define_metric, log=self.log, finish=lambda: None
        )

    def define_metric(self, name, *, step_metric):
        self.axes[name] = step_metric

    def log(self, values, step=None):
        step = self.last + 1 if step is None else step
        if step >= self.last:
            self.last = step
            self.rows.append(values)


def test_wandb_loses_no_row_of_a_run_that_was_killed_and_resumed(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    # killed after step 7, resumed from step 4
    for steps, session in ((range(1, 8), 1.0), (range(5, 10), 2.0)):
        sink = WandbSink(tmp_path, project="p", name="n", config={})
        for step in steps:
            sink.write(step, {"session": session})
            sink.write(step, {"session": session}, split="eval")
    assert service.axes == {"*": "step"}
    resumed = [row["step"] for row in service.rows if row.get("train/session") == 2.0]
    assert resumed == [5, 6, 7, 8, 9]
    assert [row["step"] for row in service.rows if "eval/session" in row] == [
        *range(1, 8),
        *range(5, 10),
    ]


def test_a_part_that_wandb_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("import a_part_of_it_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(
        MetricsError, match=r"package wandb \(which needs a_part_of_it_that_is_missing\): pip"
    ):
        WandbSink(tmp_path, project="p", name="n", config={})


def test_wandb_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    def init(**options):
        raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(
        MetricsError, match=r"wandb.init failed: api_key not configured \(no-tty\); log in"
    ) as error:
        WandbSink(tmp_path, project="p", name="n", config={})
    assert "\n" not in str(error.value)


def test_wandb_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        MetricsError,
        match=r"logging.wandb=true needs the package wandb: pip install 'rlhf_jax\[wandb\]'",
    ):
        WandbSink(tmp_path, project="p", name="n", config={})


def test_what_is_left_of_a_damaged_file_can_be_looked_at(tmp_path):
    """`read_metrics` refuses it, because a run must not go on from it."""
    path = tmp_path / "metrics.jsonl"
    whole = '{"step": 1, "split": "train", "loss/total": "NaN", "lr": 0.5}\n'
    other = '{"step": 2, "split": "eval", "a": "Infinity", "b": "text", "c": null, "d": true}\n'
    path.write_text(f'{whole}\n{{"step": 2, "sp\n[]\n{{"step": 2, "split": "test"}}\n{other}{{"st')
    with pytest.raises(MetricsError, match="is not JSON"):
        read_metrics(path)
    rows, lost = salvage_metrics(tmp_path)
    assert lost == 4
    assert math.isnan(rows[0].pop("loss/total"))
    assert rows == [
        {"step": 1, "split": "train", "lr": 0.5},
        {"step": 2, "split": "eval", "a": math.inf},
    ]
    with pytest.raises(MetricsError, match="cannot be read"):
        salvage_metrics(tmp_path / "nothing")
