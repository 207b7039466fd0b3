"""SFT, reward model and DPO give the same parameters on every mesh, without moving logits or whole
stacks of layers."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from rlhf_jax.algorithms import ALGORITHMS
from rlhf_jax.algorithms.dpo import DPOConfig
from rlhf_jax.algorithms.reward_model import RewardModelConfig
from rlhf_jax.algorithms.sft import SFTConfig
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.sharding import make_mesh, place_batch, tree_bytes_per_device
from rlhf_jax.training import OptimizerConfig, make_optimizers, make_sharded_state, make_step
from rlhf_jax.types import PairBatch, TokenBatch
from tests.loops.hlo import collectives

CONFIGS = {"sft": SFTConfig(), "reward_model": RewardModelConfig(), "dpo": DPOConfig()}
MESHES = {"data8": {"data": 8}, "fsdp8": {"fsdp": 8}, "fsdp4_tensor2": {"fsdp": 4, "tensor": 2}}
ROWS, WIDTH, VOCAB, LAYERS = 8, 16, 320, 2
STEPS = 3


@functools.cache
def _model_config():
    return ModelConfig.from_hf(
        {
            "model_type": "qwen2",
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
        }
    )


def _batch(name):
    rng = np.random.default_rng(0)
    rows = (ROWS,) if name == "sft" else (ROWS, 2)
    lengths = rng.integers(6, WIDTH + 1, rows)
    mask = np.arange(WIDTH) < lengths[..., None]
    completion = mask & (np.arange(WIDTH) >= 4)
    tokens = rng.integers(0, VOCAB, (*rows, WIDTH)).astype(np.int32)
    scored = np.where(completion, np.arange(WIDTH), -1).astype(np.int32)[..., 4:]
    if name == "sft":
        return TokenBatch(tokens, mask, completion, scored=scored)
    ref = rng.normal(-40, 1, (ROWS, 2)).astype(np.float32)
    return PairBatch(tokens, mask, completion, np.ones(ROWS, bool), scored=scored, ref_logps=ref)


def _steps(name, mesh, layers):
    """Three steps; returns (compiled HLO, state bytes per device, host parameters)."""
    head = "reward" if name == "reward_model" else None
    # SGD: Adam would blow the rounding noise of gradients that are zero in theory (key biases) up
    # to whole steps
    sgd = OptimizerConfig(name="sgd", learning_rate=0.3, schedule="constant")
    tx = make_optimizers(sgd, CONFIGS[name].models.trained)
    model, params = init_model(
        _model_config(), jax.random.key(0), mesh=mesh, layers=layers, head=head
    )
    algorithm = ALGORITHMS[name](CONFIGS[name], model)
    state, shardings = make_sharded_state({"policy": params}, tx, jax.random.key(1), mesh=mesh)
    held = tree_bytes_per_device((state.params, state.opt_state))
    step = jax.jit(
        make_step(algorithm, tx, mesh=mesh),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    batch, key = place_batch(_batch(name), mesh), jax.random.key(2)
    compiled = step.lower(state, {}, batch, key).compile()
    for _ in range(STEPS):
        state, metrics = compiled(state, {}, batch, key)
        jax.block_until_ready(metrics)
    return compiled.as_text(), held, jax.tree.map(np.asarray, state.params["policy"])


@functools.cache
def _single(name):
    return _steps(name, make_mesh({}, devices=jax.devices()[:1]), "unroll")


def _leaves(params):
    return [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]


QUICK = {
    ("dpo", "fsdp4_tensor2", "unroll"),
}
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in (
        *itertools.product(CONFIGS, MESHES, ["unroll"]),
        *itertools.product(["sft"], MESHES, ["scan"]),
    )
]


@pytest.mark.parametrize(("name", "mesh_name", "layers"), CASES)
def test_parameters_equal_the_single_device_ones(name, mesh_name, layers):
    mesh = make_mesh(MESHES[mesh_name])
    text, held, params = _steps(name, mesh, layers)
    _, single_held, single = _single(name)
    for (path, one), (_, many) in zip(_leaves(single), _leaves(params), strict=True):
        np.testing.assert_allclose(
            many, one, atol=1e-5, rtol=0, err_msg=f"{name} {mesh_name} {path}"
        )
    start = init_model(
        _model_config(), jax.random.key(0), head="reward" if name == "reward_model" else None
    )[1]
    assert (
        max(
            np.abs(a - b).max()
            for (_, a), (_, b) in zip(_leaves(start), _leaves(single), strict=True)
        )
        > 1e-3
    )
    _check_collectives(text, params, name, mesh_name)
    if mesh_name != "data8":
        # all but the vectors (norms, biases, the score head) is divided by 8
        assert max(held.values()) < 0.15 * max(single_held.values())


def _check_collectives(text, params, name, mesh_name):
    found = collectives(text)
    assert found, "a step on 8 devices communicates"
    rows = ROWS if name == "sft" else 2 * ROWS
    stacks = {
        leaf.shape: path
        for path, leaf in _leaves(params)
        if leaf.shape[0] == LAYERS and math.prod(leaf.shape) > LAYERS * 96
    }
    for collective in found:
        for shape in collective.shapes:
            assert VOCAB not in shape[-1:] or math.prod(shape) < rows * WIDTH * VOCAB // 8, (
                f"{collective} moves logits"
            )
            if mesh_name != "data8":
                assert shape not in stacks, (
                    f"{collective} moves the whole stack {stacks.get(shape)}"
                )
