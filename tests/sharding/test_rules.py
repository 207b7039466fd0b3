"""The two tables applied to parameters and optimizer state."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from rlhf_jax.sharding import (
    batch_sharding,
    constrain,
    infer_shardings,
    make_mesh,
    tree_bytes_per_device,
)
from rlhf_jax.training import OptimizerConfig, make_optimizers, make_sharded_state
from rlhf_jax.types import Trained

MESH = {"fsdp": 4, "tensor": 2}


def _params():
    return {
        "embed": {"embedding": jnp.zeros((64, 16))},
        "final_norm": {"scale": jnp.zeros(16)},
        "layers": {
            "attn_norm": {"scale": jnp.zeros((2, 16))},
            "attn": {
                "q": {"kernel": jnp.zeros((2, 16, 4, 8))},
                "k": {"kernel": jnp.zeros((2, 16, 2, 8))},
            },
            "mlp": {"down": {"kernel": jnp.zeros((2, 32, 16))}},
        },
    }


def _specs(tree, mesh, **kwargs):
    return jax.tree.map(lambda s: s.spec, infer_shardings(tree, mesh, **kwargs))


def test_parameters_follow_their_rules():
    specs = _specs(_params(), make_mesh(MESH))
    assert specs["embed"]["embedding"] == P(("tensor", "fsdp"), None)
    assert specs["layers"]["attn"]["q"]["kernel"] == P(None, "fsdp", "tensor", None)
    assert specs["layers"]["mlp"]["down"]["kernel"] == P(None, "tensor", "fsdp")
    assert specs["final_norm"]["scale"] == P(None)


@pytest.mark.parametrize("tx", [optax.adamw(1e-3), optax.lion(1e-3), optax.sgd(0.1, momentum=0.9)])
def test_moments_follow_their_parameters(tx):
    mesh, params = make_mesh(MESH), _params()
    expected = _specs(params, mesh)
    moments = [
        s
        for s in jax.tree.leaves(_specs(tx.init(params), mesh), is_leaf=lambda x: isinstance(x, P))
        if s != P()
    ]
    flat = jax.tree.leaves(expected, is_leaf=lambda x: isinstance(x, P))
    assert moments and len(moments) % len(flat) == 0
    for start in range(0, len(moments), len(flat)):
        assert moments[start : start + len(flat)] == flat


def test_adafactor_state_is_placed():
    tx = optax.scale_by_factored_rms(min_dim_size_to_factor=16)
    shardings = infer_shardings(jax.eval_shape(tx.init, _params()), make_mesh(MESH))
    assert shardings.v_row["embed"]["embedding"].spec == P()


def test_unmatched_name_is_an_error():
    with pytest.raises(ValueError, match="no sharding rule matches 'other/thing'"):
        infer_shardings({"other": {"thing": jnp.zeros((4, 4))}}, make_mesh(MESH))


def test_indivisible_dimension_is_an_error_and_can_be_replicated():
    params = {"embed": {"embedding": jnp.zeros((50257, 16))}}
    mesh = make_mesh(MESH)
    with pytest.raises(ValueError, match="dimension 50257 does not divide"):
        infer_shardings(params, mesh)
    assert infer_shardings(params, mesh, replicate=["embed"])["embed"]["embedding"].spec == P()


def test_anchored_patterns_mean_the_same_in_a_state():
    """A vocabulary that does not divide is kept whole by name, in a model and in a train state."""
    mesh = make_mesh({"fsdp": 2})
    params = {"embed": {"embedding": jnp.zeros((17, 4))}}
    loaded = infer_shardings(params, mesh, replicate=["^embed"])
    assert loaded["embed"]["embedding"].spec == P()
    trained = {"policy": params}
    tx = make_optimizers(OptimizerConfig(schedule="constant"), {"policy": Trained()})
    state, shardings = make_sharded_state(
        trained, tx, jax.random.key(0), mesh=mesh, replicate=("^embed",)
    )
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state))
    assert shardings.params["policy"]["embed"]["embedding"].spec == P()
    with pytest.raises(ValueError, match="dimension 17 does not divide"):
        make_sharded_state(trained, tx, jax.random.key(0), mesh=mesh)


def test_wrong_rank_is_an_error():
    with pytest.raises(ValueError, match="its rule names 3 axes"):
        infer_shardings(
            {"layers": {"mlp": {"up": {"kernel": jnp.zeros((16, 32))}}}}, make_mesh(MESH)
        )


def test_bytes_per_device_and_batch_layout():
    mesh = make_mesh({"fsdp": 8})
    params = {"embed": {"embedding": jnp.zeros((64, 16))}}
    held = tree_bytes_per_device(jax.device_put(params, infer_shardings(params, mesh)))
    assert set(held.values()) == {64 * 16 * 4 // 8}
    batch = jax.device_put(jnp.zeros((16, 3)), batch_sharding(mesh))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}


def test_constrain_pins_rows_and_is_the_identity_without_a_mesh():
    mesh = make_mesh(MESH)
    x = jnp.arange(8.0 * 2 * 4).reshape(8, 2, 4)
    assert constrain(x, None, ("batch", "seq", "embed")) is x
    pinned = jax.jit(lambda x: constrain(x * 2, mesh, ("batch", "seq", "embed")))(x)
    assert pinned.sharding.is_equivalent_to(
        jax.sharding.NamedSharding(mesh, P(("data", "fsdp"))), 3
    )
    assert (pinned == x * 2).all()
