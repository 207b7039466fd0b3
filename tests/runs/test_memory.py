"""Memory in the log: what is expected equals what arrays take, and comes near what is measured."""

import dataclasses
import json
import logging
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlhf_jax.runs.footprint as footprint_module
from rlhf_jax import train
from rlhf_jax.algorithms import PPOConfig
from rlhf_jax.models import init_model, save_pretrained
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.runs.footprint import (
    Footprint,
    Part,
    Work,
    footprint,
    gradients,
    is_small,
    run_shapes,
    tree_bytes,
)
from rlhf_jax.runs.memory import MemoryAccount, table
from rlhf_jax.runs.trees import load_trees
from rlhf_jax.sharding import MeshConfig, make_mesh, tree_bytes_per_device
from rlhf_jax.training import make_optimizers, make_sharded_state
from tests.loops.conftest import MODEL

WORK = Work(rows=8, width=16)


def real_state(config, mesh):
    """(trees, state) of a run, as arrays."""
    loaded = load_trees(config, mesh)
    tx = make_optimizers(config.optimizer, config.algorithm.models.trained, total_steps=100)
    copies = jax.tree.map(jnp.copy, loaded.trained)
    return loaded, make_sharded_state(copies, tx, jax.random.key(0), mesh=mesh)[0]


def sizes(expected):
    return {part.name: part.bytes for part in expected.parts}


@pytest.mark.parametrize("axes", [{"fsdp": 1}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_expected_bytes_are_those_of_arrays(online_config, axes):
    """PPO: a policy, a critic, a reference, and moments of both, whole and in shards."""
    shape = MeshConfig(**({"data": 1, "fsdp": 1, "tensor": 1} | axes))
    config = dataclasses.replace(online_config("ppo"), mesh=shape)
    mesh = make_mesh(shape)
    loaded, state = real_state(config, mesh)
    found = sizes(footprint(config, mesh, WORK))

    def held(tree):
        (size,) = set(tree_bytes_per_device(tree).values())  # no device holds more than another
        return size

    assert found["parameters: policy"] == held(loaded.trained["policy"])
    assert found["parameters: critic"] == held(loaded.trained["critic"])
    assert found["parameters: reference"] == held(loaded.frozen["ref"])
    assert found["optimizer moments"] == held(state.opt_state)

    def loss(trees):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(trees))

    assert found["gradients"] == held(jax.jit(jax.grad(loss))(state.params))


def test_freed_memory_is_kept_within_bounds(tiny_config, online_config, monkeypatch):
    """Of a small model while what may be held is a small share of the free memory; of no other."""
    pairs = tiny_config("dpo")
    assert is_small(pairs)
    for config in (pairs, tiny_config("sft"), online_config("ppo")):
        most = footprint_module._most_temporaries(config)
        monkeypatch.setattr(footprint_module, "available_bytes", lambda free=most: 24 * free)
        assert is_small(config)
        monkeypatch.setattr(footprint_module, "available_bytes", lambda free=most: 24 * free - 1)
        assert not is_small(config)
    # Twice the rows, and a pair is two of them.
    most = footprint_module._most_temporaries
    twice = tiny_config("dpo", training={"batch_size": 16})
    assert most(tiny_config("sft")) < most(pairs) < most(twice) < 2 * most(pairs)


def test_summed_gradients_are_wide(tiny_config):
    config = tiny_config("sft", model={"dtype": "bfloat16"})
    trained = run_shapes(config).trained
    found = gradients(trained, is_summed=True)
    assert tree_bytes(found["sum of gradients"]) == 2 * tree_bytes(found["gradients"])
    assert gradients(trained, is_summed=False) == {"gradients": trained}


def test_a_reward_model_and_a_reference_are_in_the_table(online_config, tiny_config, tmp_path):
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0))
    save_pretrained(tmp_path / "ref", model, params)
    config = tiny_config("dpo", model={"reference": str(tmp_path / "ref")})
    mesh = make_mesh(config.mesh)
    found = footprint(config, mesh, WORK)
    name = "parameters: reference, left before the first step"
    assert sizes(found)[name] == sizes(found)["parameters: policy"] == tree_bytes(params)
    # It is gone when gradients come.
    assert found.peak() == found.of("held") + found.of("update")


@pytest.mark.parametrize("where", ["start", "folder"])
def test_a_reference_has_the_head_of_a_policy_with_a_shared_critic(online_config, tmp_path, where):
    """The policy's functions read it, and they expect a value head."""
    section = {}
    if where == "folder":
        model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0))
        save_pretrained(tmp_path / "ref", model, params)
        section = {"reference": str(tmp_path / "ref")}
    config = online_config("ppo", algorithm=PPOConfig(critic="shared"), model=section)
    loaded = load_trees(config, make_mesh(config.mesh))
    shapes = jax.tree.map(lambda leaf: leaf.shape, loaded.frozen["ref"])
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, run_shapes(config).frozen["ref"])
    tokens = jnp.zeros((1, 4), jnp.int32)
    loaded.model.logits(loaded.frozen["ref"], tokens, tokens == 0)


def test_phases_do_not_add_up():
    """Gradients and caches are never there together; a checkpoint in the background may be."""
    parts = (Part("a", "held", 10), Part("b", "update", 5), Part("c", "sampling", 7))
    found = Footprint(parts, data=1, checkpoint=20, saves_between=False)
    assert found.peak() == 17
    assert found.peak(temporaries=9) == 19
    assert found.process_peak(2) == 20 + max(14, 20) + 1
    between = found._replace(saves_between=True)
    assert between.process_peak(2, share=0.5) == 20 + 14 + 10 + 1
    lines = list(table(found, 2, 1e9))
    assert [line.split()[-2:] for line in lines[1:]] == [
        [str(size), "bytes"] if size < 1000 else ["1.0", "GB"]
        for size in (10, 5, 7, 17, 34, 1e9, 1, 20)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "sft", "ppo"])
def test_the_log_has_the_table_and_what_was_measured(tiny_config, online_config, caplog, name):
    caplog.set_level(logging.INFO)
    if name == "ppo":
        config = online_config(name)
    else:
        config = tiny_config(name, training={"max_steps": 2, "eval_every": 0, "save_every": 0})
    train(config, progress=False)
    text = "\n".join(caplog.messages)
    lines = ["parameters: policy", "optimizer moments", "gradients", "activations kept of "]
    lines += ["at one time", "room", "host: tokenised data"]
    if name == "ppo":
        lines += ["parameters: critic", "parameters: reference", "generation caches"]
    for line in lines:
        assert re.search(rf"^  {line}.* [0-9.]+ (bytes|[kMG]B)$", text, re.M), line
    # Before anything is allocated, before the first step, at the end.
    first, compiled, last = (
        text.index(begin)
        for begin in ("memory expected", "memory of the update", "memory: the process held")
    )
    assert first < compiled < text.index("step 1/") < last
    assert "at one time" in pathlib.Path(config.run_dir, "log.txt").read_text()


def test_too_little_memory_is_said(tiny_config, caplog, monkeypatch):
    config = tiny_config("sft")
    mesh = make_mesh(config.mesh)
    monkeypatch.setattr("rlhf_jax.runs.memory.device_memory", lambda mesh: 1e5)
    MemoryAccount(footprint(config, mesh, WORK), mesh, before=0)
    (warning,) = [text for text in caplog.messages if text.startswith("a device is expected")]
    assert "has 100 kB: raise training.num_microbatches" in warning


MID = {**MODEL, "hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 2048}
MID |= {"num_attention_heads": 8, "vocab_size": 8192, "max_position_embeddings": 512}


@pytest.mark.slow
def test_what_is_expected_comes_near_what_is_measured(tmp_path):
    """A run of 25 million parameters in a process of its own; the factor is 1.6 both ways."""
    rows = [
        {"text": "".join(map(chr, np.random.default_rng(i).integers(97, 122, 255)))}
        for i in range(32)
    ]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "algorithm": {"name": "sft"},
        "tokenizer": "byte",
        "model": {"config": MID},
        "data": {"path": str(tmp_path / "text.jsonl"), "max_length": 256},
        "training": {"batch_size": 8, "max_steps": 2, "eval_every": 0, "save_every": 0},
        "logging": {"tensorboard": False, "plot": False},
        "run_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "rlhf_jax", "train", str(tmp_path / "run.yaml")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    log = (tmp_path / "run" / "log.txt").read_text()
    number = r"([0-9.]+) ([kMG])B"
    line = re.search(rf"the process held {number} at most: {number} .*, {number} expected", log)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}
    groups = line.groups()
    measured, before, expected = (
        float(count) * scale[unit] for count, unit in zip(groups[::2], groups[1::2], strict=True)
    )
    assert 1 / 1.6 < (measured - before) / expected < 1.6, line[0]
