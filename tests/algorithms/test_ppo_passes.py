"""How often PPO reads its trees, and how many tokens of each layer it computes."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import PPOConfig, make_algorithm
from rlhf_jax.models import init_model
from rlhf_jax.training import make_score
from rlhf_jax.types import PolicyBatch
from tests.models.tiny import noisy, tiny

SHAPE = tiny("qwen2")
KERNEL = (SHAPE.hidden_size, SHAPE.intermediate_size)
"""Of an MLP's first half; no other array of the model has this shape."""
ROWS, PROMPT, LENGTH = 4, 6, 16
PASS = {ROWS * LENGTH: 2 * (SHAPE.num_layers - 1), ROWS * (LENGTH - PROMPT): 2}
"""Tokens -> products with the two such kernels of a layer, in one pass forward: the last layer
computes the columns that are scored."""


def run(*, at_once=True, **options):
    """(algorithm, trained trees, frozen trees, batch) of a decoder whose layers are unrolled.

    Args:
      at_once: False: the model does not offer to say log-probabilities and values of one pass.
      **options: of PPO.
    """
    config = PPOConfig(entropy_coef=0.01, **options)
    made = {
        role: init_model(SHAPE, jax.random.key(number), head=trained.head)
        for number, (role, trained) in enumerate(config.models.trained.items())
    }
    trees = {role: noisy(params) for role, (_, params) in made.items()}
    models = {role: own if at_once else own._replace(read=None) for role, (own, _) in made.items()}
    model = models.pop("policy")._replace(roles=tuple(models.items()))
    columns = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
    batch = PolicyBatch(
        tokens=jnp.asarray(np.random.default_rng(0).integers(2, 64, (ROWS, LENGTH))),
        mask=jnp.ones((ROWS, LENGTH), bool),
        completion_mask=columns >= PROMPT,
        rewards=jnp.arange(ROWS, dtype=jnp.float32),
        truncated=jnp.zeros(ROWS, bool),
        scored=columns[:, PROMPT:],
        sampler_logps=jnp.where(columns >= PROMPT, -4.0, 0.0),
        on_policy=jnp.ones(ROWS, bool),
    )
    frozen = {"ref": jax.tree.map(lambda x: 0.9 * x, trees["policy"])}
    return make_algorithm(config, model), trees, frozen, batch


def products(function, *arguments):
    """Tokens -> products of so many tokens with `KERNEL`s, forward."""

    def found(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                left, right = (var.aval.shape for var in equation.invars)
                if right == KERNEL and left[1:] == KERNEL[:1]:
                    yield left[0]
            for inside in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(inside, "jaxpr", inside)
                if hasattr(inner, "eqns"):
                    yield from found(inner)

    return Counter(found(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize(
    ("options", "scored", "updated"),
    [
        # critic and reference; policy and critic
        ({"num_epochs": 1}, 2, 2),
        # the policy before the update, too: later epochs divide by it
        ({"num_epochs": 2}, 3, 2),
        # one trunk says both
        ({"num_epochs": 1, "critic": "shared"}, 2, 1),
        ({"num_epochs": 2, "critic": "shared"}, 2, 1),
        ({"num_epochs": 2, "critic": "shared", "kl_coef": 0.0}, 1, 1),
    ],
)
def test_passes(options, scored, updated):
    algorithm, trees, frozen, batch = run(**options)
    fill = make_score(algorithm.needs)
    assert products(fill, trees, frozen, batch) == {n: scored * k for n, k in PASS.items()}
    ready = batch._replace(**fill(trees, frozen, batch))
    ready = algorithm.weigh(algorithm.prepare(ready, algorithm.aux)[0])

    def loss(trees):
        return algorithm.loss(trees, ready, jax.random.key(0))[0]

    assert products(jax.grad(loss), trees) == {n: updated * k for n, k in PASS.items()}


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_one_pass_says_what_two_say(critic):
    """Scores, loss, metrics and gradients are those of whole rows, read once for each head."""
    algorithm, trees, frozen, batch = run(critic=critic, num_epochs=2)
    apart = run(at_once=False, critic=critic, num_epochs=2)[0]

    def everything(algorithm, batch):
        fields = make_score(algorithm.needs)(trees, frozen, batch)
        fields = {name: jnp.where(batch.completion_mask, x, 0) for name, x in fields.items()}
        ready = algorithm.prepare(batch._replace(**fields), algorithm.aux)[0]
        # Off the policy, so that ratios are not 1 and the clip acts.
        ready = ready._replace(on_policy=None, old_logps=ready.old_logps + 0.2)
        ready = algorithm.weigh(ready)

        def loss(trees):
            return algorithm.loss(trees, ready, jax.random.key(0))

        return fields, jax.value_and_grad(loss, has_aux=True)(trees)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-5, atol=5e-6),
        jax.jit(lambda: everything(algorithm, batch))(),
        jax.jit(lambda: everything(apart, batch._replace(scored=None)))(),
    )


def test_the_penalty_of_one_update_is_taken_from_what_the_sampler_said():
    algorithm, trees, frozen, batch = run(num_epochs=1)
    fields = make_score(algorithm.needs)(trees, frozen, batch)
    assert set(fields) == {"values", "ref_logps"}
    metrics = algorithm.prepare(batch._replace(**fields), algorithm.aux)[2]
    kl = (batch.sampler_logps - fields["ref_logps"])[:, PROMPT:]
    np.testing.assert_allclose(metrics["kl/ref"], kl.mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="sampler_logps is missing"):
        algorithm.prepare(batch._replace(**fields, sampler_logps=None), algorithm.aux)
