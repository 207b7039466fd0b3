"""`make_step` and `make_score`: what every loop runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import ALGORITHMS, GRPOConfig, PPOConfig, SFTConfig
from rlhf_jax.ops import loss_weights, weighted_sum
from rlhf_jax.sharding import make_mesh
from rlhf_jax.training import (
    OptimizerConfig,
    make_optimizers,
    make_rate,
    make_score,
    make_step,
    make_train_state,
)
from rlhf_jax.types import Algorithm, PairBatch, Trained
from tests.contract.fakes import make_batch, make_model, make_params

KEY = jax.random.key(0)
SGD = OptimizerConfig(
    name="sgd", momentum=0.0, learning_rate=0.1, schedule="constant", max_grad_norm=None
)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def state_of(tx, aux=None, **trees):
    return make_train_state(trees or {"policy": make_params(0)}, tx, KEY, aux=aux)


def test_an_offline_step_is_one_update():
    algorithm = ALGORITHMS["sft"](SFTConfig(), make_model())
    tx, batch = optax.sgd(0.5), make_batch("text")
    state, metrics = jax.jit(make_step(algorithm, tx))(state_of(tx), {}, batch, KEY)
    weighed = algorithm.weigh(batch)
    (loss, _), gradient = jax.value_and_grad(algorithm.loss, has_aux=True)(
        {"policy": make_params(0)}, weighed, KEY
    )
    np.testing.assert_allclose(metrics["loss/total"], loss, rtol=1e-6)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, {"policy": make_params(0)}, gradient)
    close(state.params, expected)
    assert int(state.step) == 1


def test_prepare_sees_the_whole_batch_and_keeps_its_state():
    """Advantages are given once, before the minibatches; the algorithm's own state moves on."""
    seen = []
    algorithm = ALGORITHMS["grpo"](GRPOConfig(group_size=4, num_minibatches=2), make_model())

    def prepare(batch, aux):
        seen.append(batch.tokens.shape[0])
        batch, _, metrics = algorithm.prepare(batch, {})
        return batch, {"calls": aux["calls"] + 1}, metrics | {"calls": aux["calls"] + 1}

    counted = dataclasses.replace(algorithm, prepare=prepare)
    tx = optax.sgd(0.1)
    step = jax.jit(make_step(counted, tx))
    state = state_of(tx, aux={"calls": jnp.zeros(())})
    for number in (1, 2):
        state, metrics = step(state, {}, make_batch("prompts"), KEY)
        assert float(metrics["calls"]) == float(state.aux["calls"]) == number
    assert seen == [16] and int(state.step) == 4


def adapter_of(base, adapter):
    """A base with an addition to its embedding."""
    return {**base, "embed": {"embedding": base["embed"]["embedding"] + adapter["delta"]}}


def test_a_role_may_be_trained_and_frozen():
    """An adapter: the policy is base and adapter together, the reference the base alone."""
    config = GRPOConfig(group_size=4, kl_coef=0.1)
    algorithm = ALGORITHMS["grpo"](config, make_model())
    base, tx = make_params(0), optax.sgd(0.5)
    adapter = {"delta": jnp.zeros_like(base["embed"]["embedding"])}

    def assemble(trained, frozen):
        policy = adapter_of(frozen["base"], trained["policy"])
        return {"policy": policy, "ref": frozen["base"]}

    batch = make_batch("prompts")._replace(ref_logps=None)
    score = make_score(algorithm.needs, assemble=assemble)
    fields = score({"policy": adapter}, {"base": base}, batch)
    assert set(fields) == {"ref_logps"}
    state, metrics = jax.jit(make_step(algorithm, tx, assemble=assemble))(
        state_of(tx, policy=adapter), {"base": base}, batch._replace(**fields), KEY
    )
    assert float(metrics["kl/ref"]) == pytest.approx(0.0, abs=1e-6)
    assert (state.params["policy"]["delta"] != 0).any()
    full, _ = jax.jit(make_step(algorithm, tx))(
        state_of(tx, policy=base), {}, batch._replace(**fields), KEY
    )
    moved = full.params["policy"]["embed"]["embedding"] - base["embed"]["embedding"]
    close(state.params["policy"]["delta"], moved)


def test_two_streams_of_weights():
    """A policy loss and an imitation loss in one step, each averaged over its own tokens."""
    model = make_model()

    def loss(trees, batch, key):
        logps, _ = model.token_logps(trees["policy"], batch.tokens, batch.mask)
        imitated = -weighted_sum(logps, batch.weights["imitation"])
        learnt = -weighted_sum(logps * batch.rewards[:, None], batch.weights["policy"])
        return imitated + learnt, {"loss/imitation": imitated, "loss/policy": learnt}

    def weigh(batch):
        completion = batch.completion_mask & ~batch.truncated[:, None]
        streams = {"imitation": batch.mask, "policy": completion}
        return batch._replace(weights={k: loss_weights(m, "token") for k, m in streams.items()})

    algorithm = Algorithm(loss=loss, weigh=weigh)
    batch = make_batch("prompts")
    batch = batch._replace(rewards=jnp.nan_to_num(batch.rewards))
    tx = optax.sgd(0.5)
    whole, metrics = jax.jit(make_step(algorithm, tx))(state_of(tx), {}, batch, KEY)
    parts, other = jax.jit(make_step(algorithm, tx, num_microbatches=4))(
        state_of(tx), {}, batch, KEY
    )
    close(whole.params, parts.params)
    close(metrics, other)
    weighed = weigh(batch)
    sums = [float(stream.sum()) for stream in weighed.weights.values()]
    np.testing.assert_allclose(sums, 1.0, rtol=1e-6)
    counted = int(weighed.weights["imitation"].astype(bool).sum())
    counted += int(weighed.weights["policy"].astype(bool).sum())
    assert int(algorithm.elements(weighed)) == counted


def test_score_keeps_the_order():
    model, batch = make_model(), make_batch("prompts")

    def logps(trees, batch):
        return model.token_logps(trees["policy"], batch.tokens, batch.mask)[0]

    params = make_params(0)
    split = make_score({"old_logps": logps}, num_microbatches=4)
    found = split({"policy": params}, {}, batch)["old_logps"]
    np.testing.assert_allclose(found, logps({"policy": params}, batch), rtol=1e-6)
    gradient = jax.grad(lambda p: split({"policy": p}, {}, batch)["old_logps"].sum())(params)
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))
    assert make_score({})({"policy": params}, {}, batch) == {}


def test_a_tree_that_is_not_there_is_named():
    algorithm = ALGORITHMS["grpo"](GRPOConfig(group_size=4, kl_coef=0.1), make_model())
    with pytest.raises(ValueError, match=r"^this run has no tree 'ref', only policy: "):
        make_score(algorithm.needs)({"policy": make_params(0)}, {}, make_batch("prompts"))


def test_rows_of_an_older_policy_keep_the_samplers_log_probabilities():
    algorithm = ALGORITHMS["grpo"](GRPOConfig(group_size=4, num_epochs=2), make_model())
    batch = make_batch("prompts")._replace(on_policy=jnp.arange(16) < 8)
    fields = make_score(algorithm.needs)({"policy": make_params(0)}, {}, batch)
    np.testing.assert_array_equal(fields["old_logps"][8:], batch.sampler_logps[8:])
    assert (fields["old_logps"][:8] != batch.sampler_logps[:8]).any()


def test_critic_has_its_own_rate_and_a_head_start():
    config = PPOConfig(critic_learning_rate=1.0, critic_warmup=2)
    trained = config.models.trained
    tx = make_optimizers(SGD, trained, total_steps=4)
    rate = make_rate(SGD, trained, total_steps=4)
    params = {"policy": {"w": jnp.ones(2)}, "critic": {"w": jnp.ones(2)}}
    state, gradient = tx.init(params), jax.tree.map(jnp.ones_like, params)
    policy, critic, rates = [], [], []
    for _ in range(4):
        rates.append(float(rate(state)))
        updates, state = tx.update(gradient, state, params)
        policy.append(float(updates["policy"]["w"][0]))
        critic.append(float(updates["critic"]["w"][0]))
    np.testing.assert_allclose(policy, [0.0, 0.0, -0.1, -0.1], rtol=1e-6)
    np.testing.assert_allclose(rates, [0.0, 0.0, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(critic, [-1.0] * 4, rtol=1e-6)
    with pytest.raises(ValueError, match="the policy rests in the first 4 of 4 updates"):
        make_optimizers(SGD, {"policy": Trained(hold=4)}, total_steps=4)


def test_each_tree_clips_its_own_gradient():
    config = dataclasses.replace(SGD, max_grad_norm=1.0)
    tx = make_optimizers(config, {"policy": Trained(), "critic": Trained()})
    params = {"policy": {"w": jnp.zeros(1)}, "critic": {"w": jnp.zeros(1)}}
    gradient = {"policy": {"w": jnp.array([0.5])}, "critic": {"w": jnp.array([1e3])}}
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["policy"]["w"], [-0.05], rtol=1e-6)
    np.testing.assert_allclose(updates["critic"]["w"], [-0.1], rtol=1e-6)


def test_decay_patterns_see_the_name_below_the_role():
    config = dataclasses.replace(SGD, weight_decay=0.5, decay_exclude=("^embed/",))
    tx = make_optimizers(config, {"policy": Trained()})
    params = {"policy": make_params(0)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    assert (updates["policy"]["embed"]["embedding"] == 0).all()
    assert (updates["policy"]["unembed"]["kernel"] != 0).any()


def test_the_rate_is_reported_for_the_update_that_was_made():
    config = dataclasses.replace(SGD, schedule="linear")
    trained = {"policy": Trained()}
    tx = make_optimizers(config, trained, total_steps=4)
    rate = make_rate(config, trained, total_steps=4)
    algorithm = ALGORITHMS["sft"](SFTConfig(), make_model())
    step = jax.jit(make_step(algorithm, tx, learning_rate=rate))
    state, found = state_of(tx), []
    for _ in range(3):
        state, metrics = step(state, {}, make_batch("text"), KEY)
        found.append(float(metrics["lr"]))
    np.testing.assert_allclose(found, [0.1, 0.075, 0.05], rtol=1e-6)


def test_rows_that_do_not_divide_are_refused_before_they_are_traced():
    """Six pairs in two microbatches over four shards: less than a pair a shard."""
    mesh = make_mesh({"data": 2, "fsdp": 2}, devices=jax.devices()[:4])

    def never(trees, batch, *rest):
        raise AssertionError("traced")

    algorithm = Algorithm(loss=never, weigh=lambda batch: batch)
    rows = PairBatch(
        *(jnp.zeros((12, 2, 4), dtype) for dtype in (int, bool, bool)), jnp.ones(12, bool)
    )
    message = r"batch size=12 must be a multiple of 8 \(mesh data x fsdp = 4, num_microbatches = 2"
    tx = optax.sgd(0.1)
    step = jax.jit(make_step(algorithm, tx, num_microbatches=2, mesh=mesh))
    with pytest.raises(ValueError, match=message):
        step(state_of(tx), {}, rows, KEY)
    score = make_score({"ref_logps": never}, num_microbatches=2, mesh=mesh)
    with pytest.raises(ValueError, match=message):
        score({}, {}, rows)
