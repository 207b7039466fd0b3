"""The algorithm that CONTRIBUTING.md writes out works, as it stands there."""

import pathlib
import re

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.training import make_train_state, make_update_step
from tests.contract.fakes import make_batch, make_model, make_params

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()


def test_the_example_algorithm_learns():
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    namespace: dict = {}
    exec(compile(block, "CONTRIBUTING.md", "exec"), namespace)
    algorithm = namespace["make"](namespace["SimPOConfig"](), make_model())
    tx = optax.adam(0.05)
    step = jax.jit(make_update_step(algorithm.loss, tx, weigh=algorithm.weigh, num_microbatches=2))
    state, batch = make_train_state(make_params(0), tx, jax.random.key(0)), make_batch("pairs")
    losses = []
    for _ in range(20):
        state, metrics = step(state, {}, batch, jax.random.key(1))
        losses.append(float(metrics["loss/total"]))
    assert jnp.isfinite(jnp.array(losses)).all()
    assert losses[-1] < 0.5 * losses[0]
    assert float(metrics["rewards/margin"]) > 0
