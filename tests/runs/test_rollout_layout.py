"""The layout that completions are sampled on: what is chosen, said, and gives the same tokens."""

import logging
import types

import jax
import numpy as np
import pytest

import rlhf_jax.runs.rollout_layout as layout_module
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.rollout import GeneratorSampler
from rlhf_jax.runs.footprint import Part, Work, footprint, held_bytes
from rlhf_jax.runs.rollout_layout import with_rollout_mesh
from rlhf_jax.runs.sampling import make_lay_out, make_sampler
from rlhf_jax.sharding import MeshConfig, make_mesh, mesh_over
from tests.loops.conftest import MODEL

GB = 10**9
LARGE = MODEL | {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 2048,
    "vocab_size": 32000,
}
"""18.6M parameters: 74 MB in float32, of which 33 are embeddings."""


def model_of(shape):
    return types.SimpleNamespace(config=ModelConfig.from_hf(shape))


@pytest.fixture
def choose(online_config, monkeypatch):
    """(axes, shape, memory, held) -> the mesh that completions are sampled on, or None."""

    def choose(axes, shape, memory, held=0, **rollout):
        monkeypatch.setattr(layout_module, "device_memory", lambda mesh: memory)
        config = online_config("grpo", rollout=rollout)
        mesh = make_mesh(axes)
        found = with_rollout_mesh(config, mesh, model_of(shape), held=lambda: held, cached=1000)
        assert found.rollout.mesh is None or found.rollout.mesh.fsdp == 1
        chosen = found.rollout.mesh
        return None if chosen is None else (chosen.data, chosen.tensor)

    return choose


@pytest.mark.parametrize(
    ("axes", "kv_heads", "memory", "expected"),
    [
        ({"fsdp": 8}, 4, 0.2 * GB, (2, 4)),  # as many parts as key/value heads
        ({"data": 2, "fsdp": 4}, 4, 0.2 * GB, (2, 4)),
        ({"fsdp": 8}, 2, 0.2 * GB, (4, 2)),
        ({"fsdp": 8}, 4, 80 * GB, (8, 1)),  # small: whole
        ({"fsdp": 2, "tensor": 4}, 4, 80 * GB, (2, 4)),  # as many rows as training divides
        ({"fsdp": 8}, 1, 0.2 * GB, (8, 1)),
        ({"data": 8}, 4, 0.2 * GB, None),  # nothing is divided: it stays
        ({"data": 2, "tensor": 4}, 4, 0.2 * GB, None),
    ],
)
def test_what_is_chosen(choose, axes, kv_heads, memory, expected, caplog):
    with caplog.at_level(logging.INFO):
        assert choose(axes, LARGE | {"num_key_value_heads": kv_heads}, memory) == expected
    assert ("rollout.mesh: data=" in caplog.text) == (expected is not None)


def test_tensor_stays_inside_a_host_of_gpus(choose, monkeypatch):
    monkeypatch.setattr(layout_module, "devices_of_a_host", lambda mesh: 2)
    assert choose({"fsdp": 8}, LARGE, 0.2 * GB) == (2, 4)
    monkeypatch.setattr(layout_module, "platform", lambda: "gpu")
    assert choose({"fsdp": 8}, LARGE, 0.2 * GB) == (4, 2)


def test_what_does_not_fit_stays_and_says_so(choose, caplog):
    assert choose({"fsdp": 8}, LARGE, 0.2 * GB, held=int(0.19 * GB)) is None
    assert "data=2, tensor=4 needs" in caplog.text and "beside 190 MB" in caplog.text


def test_what_does_not_divide_stays_and_says_so(choose, caplog):
    shape = LARGE | {"intermediate_size": 2049, "vocab_size": 32001}
    assert choose({"fsdp": 2, "tensor": 4}, shape, 0.2 * GB) is None
    assert "heads, MLP, vocabulary and rows do not divide" in caplog.text


def test_what_is_given_is_kept(online_config):
    mine = MeshConfig(data=1, fsdp=8, tensor=1)
    config = online_config("grpo", rollout={"mesh": mine})
    mesh = make_mesh({"fsdp": 8})
    assert with_rollout_mesh(config, mesh, model_of(MODEL), held=lambda: 0, cached=0) is config


def test_the_table_knows_the_copy(online_config):
    """Parameters to sample with: their shards on the rollout mesh, in the dtype to compute in."""
    model = {"compute_dtype": "bfloat16"}
    config = online_config("grpo", model=model, rollout={"mesh": MeshConfig(4, 1, 2)})
    mesh = make_mesh({"fsdp": 8})
    parts = footprint(config, mesh, Work(8, 16, cached_tokens=64)).parts
    (copy,) = (part for part in parts if part.name == "parameters to sample with (bfloat16)")
    _, params = init_model(
        ModelConfig.from_hf(MODEL),
        jax.random.key(0),
        dtype="bfloat16",
        mesh=mesh_over(mesh, config.rollout.mesh),
    )
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params))
    assert copy == Part(copy.name, "sampling", held)
    throughout = sum(part.bytes for part in parts if part.when == "held")
    assert held_bytes(config, mesh) == throughout


def test_a_copy_is_cast_and_laid_out_at_once():
    mesh = make_mesh({"fsdp": 8})
    sampling = mesh_over(mesh, {"data": 4, "tensor": 2})
    _, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0), mesh=mesh)
    lay_out = make_lay_out("float32", jax.numpy.dtype("bfloat16"), mesh, sampling, ())
    laid = lay_out(params)
    for new, old in zip(jax.tree.leaves(laid), jax.tree.leaves(params), strict=True):
        assert new.dtype == jax.numpy.bfloat16 and new.sharding.mesh == sampling
        np.testing.assert_array_equal(new, old.astype(jax.numpy.bfloat16))
    same = make_lay_out("float32", jax.numpy.dtype("float32"), mesh, mesh, ())
    assert same(params) is params


@pytest.mark.slow
def test_the_same_greedy_tokens(online_config, tmp_path):
    """On the training mesh and on the layouts that may be chosen in its place."""
    tokenizer = types.SimpleNamespace(
        stop_ids=(2,), pad_id=0, missing_ids=lambda size: (), string_end=lambda: None
    )
    mesh = make_mesh({"fsdp": 8})
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(3), mesh=mesh)
    prompts = types.SimpleNamespace(
        tokens=np.random.default_rng(0).integers(3, 320, (8, 16)).astype(np.int32),
        lengths=np.arange(9, 17),
    )
    found = {}
    for axes in ((1, 8, 1), (8, 1, 1), (4, 1, 2)):
        config = online_config("grpo", rollout={"mesh": MeshConfig(*axes), "max_new_tokens": 12})
        sampler = make_sampler(
            config, mesh, model, tokenizer, prompt_buckets=(16,), temperature=0.0
        )
        assert isinstance(sampler, GeneratorSampler)
        found[axes] = sampler(params, prompts, jax.random.key(0), group_size=2).rollout
    wanted = found.pop((1, 8, 1))
    for rollout in found.values():
        np.testing.assert_array_equal(rollout.tokens, wanted.tokens)
        np.testing.assert_allclose(rollout.logps, wanted.logps, atol=1e-5)
