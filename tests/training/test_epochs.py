"""Epochs x minibatches x microbatches in one program, on a policy of one parameter vector."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import ALGORITHMS, GRPOConfig
from rlhf_jax.training import (
    make_epochs,
    make_train_state,
    make_update_step,
)
from tests.contract.fakes import make_batch, make_model, make_params

KEY = jax.random.key(0)


def build(num_epochs=1, num_minibatches=1, num_microbatches=1):
    algorithm = ALGORITHMS["grpo"](GRPOConfig(group_size=4), make_model(head=False))
    tx = optax.sgd(0.5)

    def loss(params, frozen, batch, key):
        return algorithm.loss({"policy": params}, batch, key)

    update = make_update_step(loss, tx, weigh=algorithm.weigh, num_microbatches=num_microbatches)
    epochs = jax.jit(make_epochs(update, num_epochs=num_epochs, num_minibatches=num_minibatches))
    return algorithm, tx, update, epochs


@pytest.fixture(scope="module")
def batch():
    raw = make_batch("prompts")
    raw = raw._replace(
        on_policy=jnp.ones(16, bool), old_logps=None, rewards=jnp.nan_to_num(raw.rewards, nan=0.5)
    )
    algorithm, _, _, _ = build()
    prepared, _, _ = algorithm.prepare(raw, {})
    logps, _ = make_model().token_logps(make_params(0), raw.tokens, raw.mask)
    return prepared._replace(old_logps=logps)


def run(epochs, tx, batch):
    return epochs(make_train_state(make_params(0), tx, KEY), {}, batch, KEY)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def test_two_epochs_are_two_updates(batch):
    """The second divides by the stored log-probabilities, the first by its own."""
    _, tx, update, epochs = build(num_epochs=2)
    state, metrics = run(epochs, tx, batch)
    by_hand = make_train_state(make_params(0), tx, KEY)
    seen = []
    for on_policy in (True, False):
        by_hand, step_metrics = update(
            by_hand, {}, batch._replace(on_policy=jnp.full(16, on_policy)), KEY
        )
        seen.append(step_metrics)
    assert int(state.step) == 2
    close(state.params, by_hand.params)
    assert float(seen[0]["policy/ratio_max"]) == 1.0 < float(seen[1]["policy/ratio_max"])
    np.testing.assert_allclose(metrics["policy/ratio_max"], seen[1]["policy/ratio_max"], rtol=1e-5)
    np.testing.assert_allclose(
        metrics["loss/total"],
        (seen[0]["loss/total"] + seen[1]["loss/total"]) / 2,
        rtol=1e-4,
        atol=1e-7,
    )
    np.testing.assert_allclose(
        metrics["sampler/logp_diff"], seen[0]["sampler/logp_diff"], rtol=1e-5
    )
    assert float(metrics["sampler/on_policy"]) == pytest.approx(0.5)


def test_every_row_is_in_one_minibatch(batch):
    """Dealt without repetition, anew in every pass."""
    seen = []

    marked = batch._replace(rewards=jnp.arange(16.0))

    def spy(state, frozen, minibatch, key):
        jax.debug.callback(
            lambda rows: seen.append(np.asarray(rows)), minibatch.rewards, ordered=True
        )
        return state._replace(step=state.step + 1), {"loss/total": jnp.float32(0)}

    state, _ = jax.jit(make_epochs(spy, num_epochs=2, num_minibatches=4))(
        make_train_state(make_params(0), optax.sgd(1.0), KEY), {}, marked, KEY
    )
    jax.effects_barrier()
    assert int(state.step) == 8 and len(seen) == 8
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert sorted(first) == sorted(second) == list(range(16))
    assert list(first) != list(second)


def test_microbatches_change_nothing(batch):
    _, tx, _, plain = build(num_epochs=2)
    _, _, _, split = build(num_epochs=2, num_microbatches=4)
    (a, metrics), (b, other) = run(plain, tx, batch), run(split, tx, batch)
    close(a.params, b.params)
    close(metrics, other)


def test_bad_numbers(batch):
    _, tx, update, _ = build()
    with pytest.raises(ValueError, match="num_minibatches=0 must be at least 1"):
        make_epochs(update, num_minibatches=0)
    with pytest.raises(ValueError, match="16 completions do not divide into num_minibatches=3"):
        run(make_epochs(update, num_minibatches=3), tx, batch)
