"""Whole runs with packed updates: the figures of a row each, in fewer places."""

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest

from rlhf_jax.runs.parts import packing_of
from rlhf_jax.runs.train import train

CLOSE = {"rtol": 2e-3, "atol": 2e-4}
"""Adam makes much of little: rounding grows with the steps."""


def rows_of(run_dir):
    lines = (pathlib.Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def trained(config, folder, *, pack):
    config = dataclasses.replace(
        config,
        run_dir=str(folder),
        training=dataclasses.replace(config.training, pack=pack),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-4),
    )
    train(config, progress=False)
    return rows_of(folder)


def compared(first, second, names):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in names & a.keys():
            np.testing.assert_allclose(b[name], a[name], err_msg=name, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_offline(tiny_config, tmp_path, name):
    config = tiny_config(name)
    rows = trained(config, tmp_path / "rows", pack=False)
    packed = trained(config, tmp_path / "packed", pack=True)
    compared(rows, packed, {"loss/total", "grad_norm", "rewards/accuracy", "rewards/margin"})
    steps = [row for row in packed if "data/padding" in row]
    assert len(steps) == 8
    plain = np.mean([row["data/padding"] for row in rows if "data/padding" in row])
    assert np.mean([row["data/padding"] for row in steps]) < plain


@pytest.mark.slow
def test_online(online_config, tmp_path):
    config = online_config("ppo", training={"max_steps": 2, "save_every": 0})
    rows = trained(config, tmp_path / "rows", pack=False)
    packed = trained(config, tmp_path / "packed", pack=True)
    names = {"loss/total", "grad_norm", "kl/ref", "policy/entropy", "sampler/logp_diff"}
    # The same seeds draw the same completions as long as rounding does not tip a choice: one step.
    first = [[row for row in found if row.get("step") == 1] for found in (rows, packed)]
    assert all(first)
    compared(*first, names)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(online_config, tmp_path):
    config = online_config("grpo", training={"max_steps": 4, "pack": True, "save_every": 2})
    whole = train(dataclasses.replace(config, run_dir=str(tmp_path / "whole")), progress=False)
    short = dataclasses.replace(
        config,
        run_dir=str(tmp_path / "part"),
        training=dataclasses.replace(config.training, max_steps=2),
    )
    train(short, progress=False)
    part = train(dataclasses.replace(short, training=config.training), progress=False)
    files = [pathlib.Path(run.export_dir) / "model.safetensors" for run in (whole, part)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_options_that_mean_nothing_are_refused(tiny_config):
    for options, message in (
        ({"pack": True}, "training.pack=True packs the rows of a batch, which hold several"),
        ({"max_tokens_per_row": 64}, "training.max_tokens_per_row=64 packs the rows"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_config("sft", training=options, data={"packing": True})
    with pytest.raises(ValueError, match="packs none: leave one of them out"):
        tiny_config("dpo", training={"pack": False, "max_tokens_per_row": 64})
    with pytest.raises(ValueError, match="max_tokens_per_row=0 must be at least 1"):
        tiny_config("dpo", training={"max_tokens_per_row": 0})


@pytest.mark.parametrize(
    ("platform", "attention", "whole_rows"),
    [
        ("cpu", "auto", False),
        ("tpu", "auto", True),
        ("tpu", "blocked", False),
        ("cpu", "xla", True),
    ],
)
def test_rows_are_as_attention_reads_them(tiny_config, platform, attention, whole_rows):
    """Only blocked attention leaves out what a mask hides, and "auto" is blocked on CPUs alone."""
    config = tiny_config("sft")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, attention=attention),
        training=dataclasses.replace(config.training, pack=True),
    )
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([[[device]]]), shape={"data": 1, "fsdp": 1})
    packing = packing_of(config, mesh)
    assert packing is not None and packing.whole_rows == whole_rows
