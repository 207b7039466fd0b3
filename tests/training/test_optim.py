"""Optimizers from configuration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.training import OptimizerConfig, make_optimizer, make_optimizers, make_schedule
from rlhf_jax.types import Trained


def _params():
    return {
        "layers": {
            "attn_norm": {"scale": jnp.ones((2, 4))},
            "mlp": {"up": {"kernel": jnp.ones((2, 4, 256)), "bias": jnp.ones((2, 4))}},
        }
    }


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "sgd"])
def test_every_optimizer_descends(name):
    config = OptimizerConfig(name=name, learning_rate=0.05, schedule="constant")
    tx, params = make_optimizer(config), _params()

    def loss(p):
        return sum((x**2).sum() for x in jax.tree.leaves(p))

    state, start = tx.init(params), loss(params)
    for _ in range(5):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    assert loss(params) < start


def test_adamw_first_step_by_hand():
    # step 1 of Adam moves by lr * sign(g) (up to eps and the rounding of 1 - b2); decay adds lr *
    # wd * w on matrices only
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", weight_decay=0.5, max_grad_norm=None
    )
    tx, params = make_optimizer(config), _params()
    grads = jax.tree.map(lambda x: -2.0 * jnp.ones_like(x), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    mlp, norm = updates["layers"]["mlp"]["up"], updates["layers"]["attn_norm"]
    np.testing.assert_allclose(mlp["kernel"], 0.1 - 0.1 * 0.5, rtol=5e-5)
    np.testing.assert_allclose(mlp["bias"], 0.1, rtol=5e-5)
    np.testing.assert_allclose(norm["scale"], 0.1, rtol=5e-5)


def test_clipping_scales_to_the_norm():
    config = OptimizerConfig(
        name="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", max_grad_norm=1.0
    )
    tx, params = make_optimizer(config), {"w": {"kernel": jnp.zeros(2)}}
    updates, _ = tx.update({"w": {"kernel": jnp.array([3.0, 4.0])}}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"]["kernel"], [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.55, 0.1]),
        ("cosine", [0.0, 0.5, 1.0, 0.55, 0.1]),  # half of the cosine is the mean of both ends
        ("inverse_sqrt", [0.0, 0.5, 1.0, (2 / 6) ** 0.5, (2 / 10) ** 0.5]),
    ],
)
def test_schedules(schedule, expected):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=2, min_lr_ratio=0.1)
    rate = make_schedule(config, total_steps=10)
    np.testing.assert_allclose([rate(s) for s in (0, 1, 2, 6, 10)], expected, rtol=1e-6)


def test_warmup_ratio_is_a_fraction_of_the_run():
    rate = make_schedule(
        OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_ratio=0.5), total_steps=4
    )
    np.testing.assert_allclose([rate(s) for s in range(4)], [0.0, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    ("ratio", "steps"), [(0.03, 10), (0.1, 101), (0.01, 1), (0.5, 4), (1.0, 3), (0.0, 9)]
)
def test_a_started_step_of_warmup_counts_whole(ratio, steps):
    # transformers.TrainingArguments.get_warmup_steps: ceil
    rate = make_schedule(
        OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_ratio=ratio),
        total_steps=steps,
    )
    warmup = math.ceil(ratio * steps)
    expected = [min(step / max(warmup, 1), 1.0) if warmup else 1.0 for step in range(steps)]
    np.testing.assert_allclose([rate(step) for step in range(steps)], expected, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_inverse_sqrt_is_that_of_transformers(warmup):
    rate = make_schedule(
        OptimizerConfig(learning_rate=1.0, schedule="inverse_sqrt", warmup_steps=warmup)
    )
    timescale = warmup or 10_000  # transformers.get_inverse_sqrt_schedule
    for step in (0, 1, 3, 10, 100, 1000, 30_000):
        expected = (
            step / warmup if step < warmup else ((step + timescale - warmup) / timescale) ** -0.5
        )
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5)
    if not warmup:
        assert [round(float(rate(step)), 3) for step in (1, 3, 10, 100, 1000)] == [
            1.0,
            1.0,
            1.0,
            0.995,
            0.953,
        ]


def test_a_rate_that_nobody_gives_is_small():
    assert float(make_schedule(OptimizerConfig(schedule="constant"))(5)) == pytest.approx(1e-5)


STACKED = {
    # as many layers as a matrix has rows: a stack of vectors is no matrix
    "norm": {"scale": (130, 132)},
    "attn": {"q": {"kernel": (130, 4, 2, 3), "bias": (130, 1)}},
    "mlp": {"up": {"kernel": (130, 128, 130)}},
}


def test_adafactor_of_a_stack_is_adafactor_of_every_layer():
    """One gradient of layer 3 is 30 times larger at the last step: it holds back layer 3 alone."""
    rng = np.random.default_rng(0)
    tx = make_optimizer(
        OptimizerConfig(
            name="adafactor", learning_rate=0.1, schedule="constant", max_grad_norm=None
        )
    )
    alone = optax.chain(
        optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale(-0.1)
    )
    shapes = {"layers": STACKED, "embed": {"embedding": (130, 140)}}
    params = jax.tree.map(
        lambda shape: jnp.zeros(shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    state, states = tx.init(params), {}
    layers = (3, 129)

    def layer(tree, index):
        return jax.tree.map(lambda x: x[index], tree["layers"])

    step, single = jax.jit(tx.update), jax.jit(alone.update)
    for index in layers:
        states[index] = alone.init(layer(params, index))
    whole = alone.init(params["embed"])
    for number in range(3):
        grads = jax.tree.map(
            lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), params
        )
        if number == 2:
            grads["layers"] = jax.tree.map(lambda x: x.at[3].multiply(30.0), grads["layers"])
        updates, state = step(grads, state, params)
        for index in layers:
            expected, states[index] = single(
                layer(grads, index), states[index], layer(params, index)
            )
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7),
                layer(updates, index),
                expected,
            )
        expected, whole = single(grads["embed"], whole, params["embed"])
        np.testing.assert_allclose(
            updates["embed"]["embedding"], expected["embedding"], rtol=2e-5, atol=1e-7
        )


def test_adafactor_of_a_stack_keeps_small_moments():
    tx = make_optimizer(OptimizerConfig(name="adafactor", schedule="constant", max_grad_norm=None))
    shapes = jax.eval_shape(
        tx.init,
        {"layers": {"mlp": {"up": {"kernel": jax.ShapeDtypeStruct((3, 256, 512), jnp.float32)}}}},
    )
    assert sorted(leaf.shape for leaf in jax.tree.leaves(shapes) if leaf.ndim) == [
        (1,),
        (3, 256),
        (3, 512),
    ]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"name": "adam"},
            "name='adam' of OptimizerConfig is not allowed.*did you mean 'adamw'",
        ),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"b1": 1.5}, "optimizer.b1=1.5"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate=-1.0"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate=nan"),
        ({"learning_rate": float("inf")}, "optimizer.learning_rate=inf"),
        ({"eps": 0.0}, "optimizer.eps=0.0 must be positive"),
        ({"b2": 1.0}, "optimizer.b2=1.0"),
        ({"max_grad_norm": 0.0}, "null switches clipping off"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps=-1"),
        ({"warmup_steps": 1, "warmup_ratio": 0.1}, "not both"),
        ({"decay_exclude": ("(",)}, "not a regular expression"),
    ],
)
def test_bad_config(kwargs, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**kwargs)


def test_schedule_needs_the_length_of_the_run():
    with pytest.raises(ValueError, match="pass total_steps"):
        make_optimizer(OptimizerConfig(schedule="cosine"))
    with pytest.raises(ValueError, match="more than the 3 steps"):
        make_schedule(OptimizerConfig(warmup_steps=5), total_steps=3)


def test_moments_are_float32_for_bfloat16_parameters():
    # in bfloat16, 0.999 * v rounds back to v: the second moment would never forget
    config = OptimizerConfig(learning_rate=1e-3, schedule="constant", max_grad_norm=None)
    tx = make_optimizer(config)
    params = {"w": {"kernel": jnp.ones((4,), jnp.bfloat16)}}
    state = tx.init(params)
    moments = [x for x in jax.tree.leaves(state) if x.shape == (4,)]
    assert moments and all(x.dtype == jnp.float32 for x in moments)
    step = jax.jit(
        lambda g, s: tx.update({"w": {"kernel": jnp.full((4,), g, jnp.bfloat16)}}, s, params)[1]
    )
    for _ in range(20):
        state = step(1.0, state)
    peak = max(
        float(x.max()) for x in jax.tree.leaves(state) if x.shape == (4,) and float(x.max()) < 0.5
    )
    for _ in range(200):
        state = step(0.0, state)
    assert max(float(x.max()) for x in jax.tree.leaves(state) if x.shape == (4,)) < 0.9 * peak


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_tree_that_rests_may_be_bfloat16(dtype):
    """The updates of a tree that is held, and of one that is not, have one dtype."""
    trees = {"policy": Trained(hold=1)}
    tx = make_optimizers(OptimizerConfig(schedule="constant", learning_rate=0.5), trees)
    params = {"policy": {"w": {"kernel": jnp.ones((2, 2), dtype)}}}
    grads = jax.tree.map(jnp.ones_like, params)
    state = tx.init(params)
    moved = []
    for _ in range(2):
        updates, state = jax.jit(tx.update)(grads, state, params)
        moved.append(float(jnp.abs(updates["policy"]["w"]["kernel"]).max()))
    assert moved[0] == 0.0 and moved[1] > 0
