"""What a schedule has counted is the rate that is applied, also in the new state of another
optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.training import (
    OptimizerConfig,
    make_optimizer,
    make_optimizers,
    make_rate,
    make_schedule,
    schedule_count,
    with_updates,
)
from rlhf_jax.types import Trained

PARAMS = {"w": jnp.array([1.0, -2.0])}
ONES = jax.tree.map(jnp.ones_like, PARAMS)
BOTH = {"policy": PARAMS, "critic": PARAMS}


def sgd(**fields):
    return OptimizerConfig(
        name="sgd", momentum=0.0, max_grad_norm=None, schedule="linear", learning_rate=1.0, **fields
    )


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "sgd"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_are_counted(name, weight_decay):
    tx = make_optimizer(OptimizerConfig(name=name, weight_decay=weight_decay), total_steps=9)
    state = tx.init(PARAMS)
    for count in range(3):
        assert int(schedule_count(state)) == count
        _, state = tx.update(ONES, state, PARAMS)
    new = with_updates(tx.init(PARAMS), 5)
    assert int(schedule_count(new)) == 5
    counts = [int(leaf) for leaf in jax.tree.leaves(new) if leaf.dtype == jnp.int32]
    # moments are new, and so is what their bias is corrected by
    assert sorted(counts) == [0] * (len(counts) - 1) + [5]


def test_a_new_state_goes_on_at_the_rate_of_its_count():
    tx = make_optimizer(sgd(), total_steps=10)
    moved, _ = tx.update(ONES, with_updates(tx.init(PARAMS), 4), PARAMS)
    np.testing.assert_allclose(moved["w"], [-0.6] * 2, rtol=1e-6)


@pytest.mark.parametrize(("updates", "counted"), [(0, 0), (2, 0), (3, 0), (5, 2)])
def test_a_policy_that_rested(updates, counted):
    """In the first three updates the critic moved alone."""
    trained = {"policy": Trained(hold=3), "critic": Trained(learning_rate=2.0)}
    tx = make_optimizers(sgd(), trained, total_steps=13)
    lived = tx.init(BOTH)
    for _ in range(updates):
        _, lived = tx.update({"policy": ONES, "critic": ONES}, lived, BOTH)
    new = with_updates(tx.init(BOTH), updates, trained)
    assert int(schedule_count(lived)) == int(schedule_count(new)) == counted
    jax.tree.map(np.testing.assert_array_equal, new, lived)  # this optimizer has no moments
    moved, _ = tx.update({"policy": ONES, "critic": ONES}, new, BOTH)
    rate = float(make_schedule(sgd(), total_steps=10)(counted)) if updates >= 3 else 0.0
    assert float(make_rate(sgd(), trained, total_steps=13)(new)) == pytest.approx(rate)
    np.testing.assert_allclose(moved["policy"]["w"], [-rate] * 2, rtol=1e-6)
    np.testing.assert_allclose(moved["critic"]["w"], [-2 * (1 - updates / 13)] * 2, rtol=1e-6)


def test_an_optimizer_without_a_schedule():
    with pytest.raises(ValueError, match="the optimizer has 0 schedules"):
        schedule_count(())
