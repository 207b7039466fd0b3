"""The update step: exact accumulation, skipped updates, donation, sharding of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.sharding import batch_sharding, infer_shardings, make_mesh, tree_bytes_per_device
from rlhf_jax.training import (
    OptimizerConfig,
    make_optimizer,
    make_sharded_state,
    make_train_state,
    make_update_step,
)
from rlhf_jax.training.update import reduce_metrics, split_microbatches
from rlhf_jax.types import TokenBatch


def _loss(params, frozen, batch, key):
    """Weighted squared error of an embedding lookup: ragged rows, so that a mean of means would be
    wrong."""
    del frozen, key
    pred = params["embed"]["embedding"][batch.tokens].sum(-1)
    error = (pred - batch.tokens) ** 2
    metrics = {
        "error": (batch.weights * error).sum(),
        "error_max": jnp.where(batch.mask, error, -jnp.inf).max(),
    }
    return (batch.weights * error).sum(), metrics


def _weigh(batch):
    mask = batch.completion_mask.astype(jnp.float32)
    return batch._replace(weights=mask / mask.sum())


def _batch(rows=8, width=6):
    rng = np.random.default_rng(0)
    mask = np.arange(width) < rng.integers(1, width + 1, rows)[:, None]
    return TokenBatch(
        jnp.asarray(rng.integers(0, 16, (rows, width))), jnp.asarray(mask), jnp.asarray(mask)
    )


def _state(tx, scale=0.1):
    embedding = scale * jax.random.normal(jax.random.key(0), (16, 4))
    return make_train_state({"embed": {"embedding": embedding}}, tx, jax.random.key(1))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_microbatches_equal_the_full_batch(parts):
    tx, batch = optax.sgd(0.1), _batch()
    full, m_full = make_update_step(_loss, tx, weigh=_weigh)(
        _state(tx), {}, batch, jax.random.key(0)
    )
    split, m_split = jax.jit(make_update_step(_loss, tx, weigh=_weigh, num_microbatches=parts))(
        _state(tx), {}, batch, jax.random.key(0)
    )
    np.testing.assert_allclose(
        full.params["embed"]["embedding"], split.params["embed"]["embedding"], rtol=1e-6, atol=1e-7
    )
    assert m_full.keys() == m_split.keys()
    for name in m_full:
        np.testing.assert_allclose(m_full[name], m_split[name], rtol=1e-6)


def test_split_is_strided_and_refuses_a_remainder():
    parts = split_microbatches(jnp.arange(6), 2)
    np.testing.assert_array_equal(parts, [[0, 2, 4], [1, 3, 5]])
    with pytest.raises(ValueError, match="batch size=6 must be a multiple of 4 "):
        split_microbatches(jnp.arange(6), 4)


def test_metrics_reduce_by_their_names():
    reduced = reduce_metrics(
        {"a": jnp.array([1.0, 2.0]), "b_max": jnp.array([1.0, 5.0]), "c_min": jnp.array([1.0, 5.0])}
    )
    assert {k: float(v) for k, v in reduced.items()} == {"a": 3.0, "b_max": 5.0, "c_min": 1.0}


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_non_finite_step_changes_nothing_and_is_counted(bad):
    tx = optax.adam(0.1)

    def loss(params, frozen, batch, key):
        value, metrics = _loss(params, frozen, batch, key)
        return value * frozen["factor"], metrics

    step = jax.jit(make_update_step(loss, tx, weigh=_weigh))
    state, key = _state(tx), jax.random.key(0)
    before = jax.tree.map(np.asarray, (state.params, state.opt_state))
    for count in (1, 2):
        state, metrics = step(state, {"factor": bad}, _batch(), key)
        assert int(metrics["update/skipped_in_a_row"]) == count
    jax.tree.map(np.testing.assert_array_equal, before, (state.params, state.opt_state))
    state, metrics = step(state, {"factor": jnp.asarray(1.0)}, _batch(), key)
    assert int(state.step) == 3
    assert [int(x) for x in state.skipped] == [0, 2]
    assert not np.array_equal(before[0]["embed"]["embedding"], state.params["embed"]["embedding"])


def test_state_is_donated():
    tx = optax.adam(0.1)
    step = jax.jit(make_update_step(_loss, tx, weigh=_weigh), donate_argnums=0)
    state = _state(tx)
    compiled = step.lower(state, {}, _batch(), jax.random.key(0)).compile()
    nbytes = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
    assert compiled.memory_analysis().alias_size_in_bytes >= nbytes


def test_sharded_state_is_created_in_shards_and_steps_alike():
    tx = make_optimizer(OptimizerConfig(learning_rate=0.1, schedule="constant", weight_decay=0.1))
    mesh = make_mesh({"fsdp": 8})
    params = _state(tx).params
    placed = jax.device_put(params, infer_shardings(params, mesh))
    state, shardings = make_sharded_state(placed, tx, jax.random.key(1), mesh=mesh)
    held = tree_bytes_per_device((state.params, state.opt_state[1].mu, state.opt_state[1].nu))
    assert set(held.values()) == {3 * 16 * 4 * 4 // 8}
    step = make_update_step(_loss, tx, weigh=_weigh, num_microbatches=2)
    batch = _batch(16)
    one, m_one = step(_state(tx), {}, batch, jax.random.key(0))
    many, m_many = jax.jit(step, out_shardings=(shardings, None), donate_argnums=0)(
        state, {}, jax.device_put(batch, batch_sharding(mesh)), jax.random.key(0)
    )
    np.testing.assert_allclose(
        one.params["embed"]["embedding"], many.params["embed"]["embedding"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(m_one["grad_norm"], m_many["grad_norm"], rtol=1e-5)


def test_bad_microbatches():
    with pytest.raises(ValueError, match="num_microbatches=0"):
        make_update_step(_loss, optax.sgd(0.1), weigh=_weigh, num_microbatches=0)


def _kernels(dtype=jnp.float32):
    return {f"layer{i}": {"kernel": jnp.ones((256, 256), dtype)} for i in range(6)}


def _of_kernels(params, frozen, batch, key):
    """A product per kernel, so that its gradient is one too, and lies in memory."""
    rows = jnp.broadcast_to(batch.tokens[:, :1], (len(batch.tokens), 256)) / 100
    outs = [jnp.tanh(rows @ leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(params)]
    return batch.weights.sum() * sum(out.mean() for out in outs), {}


def test_parameters_and_moments_are_written_in_place():
    """Beside its gradients an update holds no second copy of anything, clipping included."""
    tx = make_optimizer(OptimizerConfig(schedule="constant", weight_decay=0.1))
    state = make_train_state(_kernels(), tx, jax.random.key(0))
    step = jax.jit(make_update_step(_of_kernels, tx, weigh=_weigh), donate_argnums=0)
    compiled = step.lower(state, {}, _batch(), jax.random.key(0)).compile()
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert compiled.memory_analysis().temp_size_in_bytes < 1.3 * gradients


@pytest.mark.parametrize("tx", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_optimizer_of_ones_own_keeps_its_dtypes(tx, parts):
    """Gradients summed over microbatches are float32, the moments of such an optimizer bfloat16."""
    state = make_train_state(_kernels(jnp.bfloat16), tx, jax.random.key(0))
    step = jax.jit(make_update_step(_of_kernels, tx, weigh=_weigh, num_microbatches=parts))
    new, metrics = step(state, {}, _batch(), jax.random.key(0))
    assert int(metrics["update/skipped"]) == 0
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(each.opt_state)] for each in (state, new)]
    assert dtypes[0] == dtypes[1]
    pairs = zip(*(jax.tree.leaves(each.opt_state) for each in (state, new)), strict=True)
    assert any(bool(jnp.any(old != now)) for old, now in pairs)
