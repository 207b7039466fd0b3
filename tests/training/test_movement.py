"""The share of the parameters that move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.io.diagnosis import MOVED
from rlhf_jax.sharding import infer_shardings, make_mesh
from rlhf_jax.training import MovementCheck, OptimizerConfig, make_optimizer
from rlhf_jax.training.movement import SAMPLE


def moved(dtype, rate, *, updates=20):
    """The share found after some updates of AdamW on weights of deviation 0.02, and the exact
    one."""
    mesh = make_mesh({}, devices=jax.devices()[:1])
    kernel = 0.02 * np.random.default_rng(0).standard_normal((2, 64, 96))
    params = {
        "layers": {"mlp": {"up": {"kernel": jnp.asarray(kernel, dtype)}}},
        "embed": {"embedding": jnp.ones((4, 4), dtype)},
    }
    tx = make_optimizer(
        OptimizerConfig(learning_rate=rate, schedule="constant", max_grad_norm=None)
    )
    check = MovementCheck(params, mesh=mesh, learning_rate=rate, warmup=0, total=updates)
    state, found = tx.init(params), []

    @jax.jit
    def step(params, state, number):
        grads = jax.tree.map(
            lambda x: jax.random.normal(jax.random.fold_in(jax.random.key(0), number), x.shape),
            params,
        )
        changes, state = tx.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    for number in range(1, updates + 1):
        params, state = step(params, state, number)
        found.append(check.look(params, number))
    kernels = np.asarray(params["layers"]["mlp"]["up"]["kernel"]) != np.asarray(kernel, dtype)
    return found, float(kernels.mean())


@pytest.mark.parametrize(("rate", "rests"), [(1e-6, True), (1e-5, True), (1e-2, False)])
def test_the_share_that_moved_in_bfloat16(rate, rests):
    found, exact = moved(jnp.bfloat16, rate)
    assert found[:-1] == [None] * 19 and found[-1] == pytest.approx(exact, abs=0.02)
    assert (exact < MOVED) == rests


def test_float32_and_a_rate_of_zero_are_not_looked_at():
    for dtype, rate in ((jnp.float32, 1e-6), (jnp.bfloat16, 0.0)):
        found, _ = moved(dtype, rate, updates=2)
        assert found == [None, None]


def test_it_waits_for_the_warm_up_and_looks_once():
    mesh = make_mesh({"data": 2, "fsdp": 4})
    params = {"layers": {"mlp": {"up": {"kernel": jnp.ones((2, 256, 512), jnp.bfloat16)}}}}
    params = jax.device_put(params, infer_shardings(params, mesh))
    check = MovementCheck(params, mesh=mesh, learning_rate=1.0, warmup=5, total=100)
    other = jax.tree.map(lambda x: x.at[1].add(1.0), params)
    assert check.due == 25
    assert check.look(other, 24) is None
    assert check.look(other, 26) == 0.5
    assert check.look(other, 27) is None
    assert MovementCheck(params, mesh=mesh, learning_rate=1.0, warmup=90, total=100).due == 100
    assert (
        sum(
            part.size
            for part in MovementCheck(
                params, mesh=mesh, learning_rate=1.0, warmup=0, total=1
            )._start
        )
        <= SAMPLE
    )
