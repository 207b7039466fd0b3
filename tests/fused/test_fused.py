"""Runs in one program: the same figures as stepping by hand, several seeds at once, and dynamic
sampling of a fixed shape."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import (
    ALGORITHMS,
    DAPOConfig,
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    SFTConfig,
    make_algorithm,
)
from rlhf_jax.data import PromptBatch, byte_tokenizer
from rlhf_jax.fused import (
    FusedConfig,
    GenerationShape,
    PromptSet,
    encode_answers,
    exact_answer,
    make_collect,
    make_evaluate,
    make_fused_fit,
    make_fused_loop,
    make_prompt_set,
    with_traced,
)
from rlhf_jax.models import init_model
from rlhf_jax.rollout import SamplingParams, generate
from rlhf_jax.training import (
    OptimizerConfig,
    make_optimizer,
    make_score,
    make_step,
    make_train_state,
)
from rlhf_jax.types import PairBatch, PolicyBatch, Rollout, TokenBatch
from tests.contract.fakes import make_batch, make_model, make_params
from tests.models.tiny import tiny

VOCAB, EOS, WANTED = 12, 10, 3
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Compiling these small programs takes far longer than running them."""
SHAPE = GenerationShape(max_new_tokens=4, eos_id=EOS, pad_id=11)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 16,
    "use_sliding_window": False,
}
CONFIG = tiny("qwen2", **SIZES)
KEY = jax.random.key(7)
GRPO = GRPOConfig(group_size=4, num_minibatches=2, kl_coef=0.1)


def share_of_wanted(rollout, answers):
    """The share of the completion's tokens that are the wanted one."""
    length = rollout.completion_mask.sum(axis=1)
    return ((rollout.tokens == WANTED) & rollout.completion_mask).sum(axis=1) / length


@pytest.fixture(scope="module")
def policy():
    return init_model(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def prompts():
    lengths = np.tile([2, 3], 4).astype(np.int32)
    tokens = np.random.default_rng(0).integers(0, 10, (8, 3)).astype(np.int32)
    return PromptSet(
        jnp.asarray(np.where(np.arange(3)[None, :] < lengths[:, None], tokens, 11)),
        jnp.asarray(lengths),
    )


def loop(config, model, tx=None, num_steps=2, batch_size=4, **options):
    size = FusedConfig(
        num_steps=num_steps, batch_size=batch_size, eval_every=options.pop("eval_every", 0)
    )
    options = {"shape": SHAPE, "reward": share_of_wanted} | options
    algorithm = make_algorithm(config, model)
    tx = optax.sgd(0.5) if tx is None else tx
    return make_fused_loop(algorithm, model, tx, size=size, **options)


def close(a, b, tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


def by_hand(model, params, prompts, config, num_steps):
    """The same run through the public pieces, one jitted call after another."""
    algorithm, tx = ALGORITHMS["grpo"](config, model), optax.sgd(0.5)
    step = quick_jit(make_step(algorithm, tx))
    sample = quick_jit(
        functools.partial(
            generate,
            model,
            sampling=SamplingParams(),
            max_new_tokens=4,
            eos_id=EOS,
            pad_id=11,
            group_size=config.group_size,
        )
    )
    score = quick_jit(make_score(algorithm.needs))
    frozen = {"ref": params}
    state, seen = make_train_state({"policy": params}, tx, jax.random.split(KEY)[0]), []
    for _ in range(num_steps):
        key, collect_key, update_key = jax.random.split(state.key, 3)
        order_key, sample_key = jax.random.split(collect_key)
        rows = jax.random.permutation(order_key, 8)[:4]
        rollout = sample(
            state.params["policy"],
            prompts.tokens[rows],
            prompts.lengths[rows],
            jax.random.fold_in(sample_key, 0),
        )
        batch = PolicyBatch(
            rollout.tokens,
            rollout.mask,
            rollout.completion_mask,
            share_of_wanted(rollout, None),
            rollout.truncated,
            sampler_logps=rollout.logps,
            on_policy=jnp.ones(16, bool),
        )
        batch = batch._replace(**score(state.params, frozen, batch))
        state, metrics = step(state._replace(key=key), frozen, batch, update_key)
        seen.append(metrics)
    return state, seen


@pytest.fixture(scope="module")
def single(policy, prompts):
    model, params = policy
    return quick_jit(loop(GRPO, model))({"policy": params}, prompts, None, KEY)


@pytest.mark.slow
def test_fused_is_stepping_by_hand(policy, prompts, single):
    state, history = single
    expected, seen = by_hand(*policy, prompts, GRPO, 2)
    close(state.params, expected.params, 1e-6)
    assert (
        int(state.step) == 4
        and (jax.random.key_data(state.key) == jax.random.key_data(expected.key)).all()
    )
    for name, values in history.steps.items():
        np.testing.assert_allclose(
            values, [step[name] for step in seen], rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert history.steps["sampler/logp_diff_max"].max() < 1e-5
    assert history.evaluations == {}


@pytest.mark.slow
def test_vmapped_seeds_and_learning_rates_are_single_runs(policy, prompts, single):
    """To rounding, which sampling lets grow with the steps: not bit by bit."""
    model, params = policy

    def experiment(learning_rate, key):
        tx = OptimizerConfig(name="sgd", momentum=0.0, schedule="constant", max_grad_norm=None)
        tx = make_optimizer(with_traced(tx, learning_rate=learning_rate))
        return loop(GRPO, model, tx)({"policy": params}, prompts, None, key)

    settings = jnp.array([0.5, 0.5, 0.0]), jnp.stack([KEY, jax.random.key(8), KEY])
    state, history = quick_jit(jax.vmap(experiment))(*settings)
    close(jax.tree.map(lambda x: x[0], state.params), single[0].params, 1e-4)
    close(jax.tree.map(lambda x: x[0], history.steps), single[1].steps, 1e-4)
    close(jax.tree.map(lambda x: x[2], state.params), {"policy": params}, 0)
    assert not np.allclose(history.steps["rewards/mean"][0], history.steps["rewards/mean"][1])


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_traced_coefficients_give_the_loss_of_plain_numbers(name):
    model, params = make_model(), make_params(0)
    config = GRPOConfig(group_size=4) if name == "grpo" else PPOConfig(critic="shared")
    values = {"kl_coef": 0.3, "clip_high": 0.01, "clip_low": 0.02}

    def loss(config):
        algorithm = ALGORITHMS[name](config, model)
        batch, _, _ = algorithm.prepare(make_batch("prompts"), dict(algorithm.aux))
        return algorithm.loss({"policy": params}, algorithm.weigh(batch), KEY)[0]

    traced = quick_jit(lambda **values: loss(with_traced(config, **values)))(**values)
    assert float(traced) == pytest.approx(
        float(loss(dataclasses.replace(config, **values))), rel=1e-5
    )
    assert float(traced) != pytest.approx(float(loss(config)), rel=1e-2)


def ppo(policy, critic):
    """(config, model, parameters) of PPO with a critic of its own or on the policy's trunk."""
    model, params = policy
    config = PPOConfig(
        group_size=4, num_epochs=2, num_minibatches=2, critic=critic, kl_coef=0.01, kl_target=10.0
    )
    if critic == "shared":
        shared, tree = init_model(CONFIG, jax.random.key(0), head="value")
        return config, shared, {"policy": tree}
    critic_model, critic_params = init_model(CONFIG, jax.random.key(1), head="reward")
    return (
        config,
        model._replace(roles=(("critic", critic_model),)),
        {"policy": params, "critic": critic_params},
    )


DAPO = DAPOConfig(
    group_size=4,
    num_minibatches=2,
    max_new_tokens=4,
    overlong_buffer_len=0,
    max_generation_batches=2,
)


@pytest.mark.slow
def test_grpo_learns_to_say_one_token_and_is_evaluated_on_the_way(policy, prompts):
    model, params = policy
    evaluate = make_evaluate(model, share_of_wanted, SHAPE, samples=2)
    run = loop(
        GRPOConfig(group_size=4),
        model,
        optax.adam(0.03),
        num_steps=30,
        eval_every=15,
        evaluate=evaluate,
    )
    _, history = quick_jit(run)({"policy": params}, prompts, prompts, KEY)
    rewards, evaluations = history.steps["rewards/mean"], history.evaluations
    assert rewards.shape == (30,) and rewards[:3].mean() < 0.4 and rewards[-3:].mean() > 0.9
    assert set(evaluations) == {"eval/greedy", "eval/mean@2", "eval/pass@2"}
    assert evaluations["eval/greedy"].shape == (3,) and evaluations["eval/greedy"][-1] > 0.9
    assert evaluations["eval/mean@2"][0] < 0.4 and evaluations["eval/pass@2"][-1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_ppo_learns_to_say_one_token(policy, prompts, critic):
    config, model, params = ppo(policy, critic)
    state, history = quick_jit(loop(config, model, optax.adam(0.03), num_steps=15, batch_size=8))(
        params, prompts, None, KEY
    )
    rewards = history.steps["rewards/mean"]
    assert rewards[:2].mean() < 0.4 and rewards[-3:].mean() > 0.9
    assert int(state.step) == 15 * 2 * 2
    assert (
        history.steps["kl/coef"][0] == pytest.approx(0.01) and float(state.aux["kl_coef"]) != 0.01
    )


@pytest.mark.slow
def test_dapo_learns_to_say_one_token_from_mixed_groups_only(policy, prompts):
    """With rewards that do not differ there is no group to learn from, and then nothing moves,
    weight decay included."""
    model, params = policy

    def starts_as_wanted(rollout, is_given):
        said = jnp.argmax(rollout.completion_mask, axis=1)
        first = jnp.take_along_axis(rollout.tokens, said[:, None], axis=1)[:, 0]
        return ((first == WANTED) | is_given).astype(jnp.float32)

    run = quick_jit(
        loop(
            DAPO, model, optax.adamw(0.03, weight_decay=0.1), num_steps=16, reward=starts_as_wanted
        )
    )
    state, history = run(
        {"policy": params}, prompts._replace(answers=jnp.zeros(8, bool)), None, KEY
    )
    steps = history.steps
    solved, failed = (
        steps[f"data/groups_all_{kind}"] / steps["data/groups_generated"]
        for kind in ("right", "wrong")
    )
    assert (
        failed[0] > solved[0]
        and solved[-2:].mean() > 0.5 > failed[-2:].mean()
        and steps["data/groups_kept"].max() == 4
    )
    assert (steps["data/generation_batches"] <= 2).all()
    state, history = run({"policy": params}, prompts._replace(answers=jnp.ones(8, bool)), None, KEY)
    close(state.params, {"policy": params}, 0)
    assert history.steps["data/groups_kept"].tolist() == [0] * 16 and int(state.step) == 32


RIGHT, WRONG, MIXED = 0, 1, 2


def graded_by_kind(rollout, kinds):
    """All right, all wrong, or every other completion right."""
    return jnp.where(kinds == MIXED, jnp.arange(kinds.shape[0]) % 2, kinds == RIGHT).astype(
        jnp.float32
    )


@pytest.fixture(scope="module")
def collected(policy, prompts):
    """Kinds of the 8 prompts -> what dynamic sampling collects in at most 2 batches of 4
    prompts."""
    model, params = policy
    collect = quick_jit(
        make_collect(DAPO.sampling, model, batch_size=4, shape=SHAPE, reward=graded_by_kind)
    )

    def run(kinds):
        asked = prompts._replace(
            tokens=prompts.tokens.at[:, 0].set(jnp.arange(8)), answers=jnp.array(kinds)
        )
        batch, metrics = collect(params, asked, KEY)
        return jax.tree.map(np.asarray, batch), {
            name.removeprefix("data/"): float(x) for name, x in metrics.items()
        }

    return run


def first_tokens(batch):
    """Number of the prompt of every group that is not filler."""
    return batch.tokens[batch.mask[:, 0], 0].reshape(-1, 4)[:, 0]


def test_dynamic_sampling_takes_the_first_mixed_groups(collected):
    order = np.asarray(jax.random.permutation(jax.random.split(KEY)[0], 8))
    kinds = np.full(8, MIXED)
    kinds[order[[1, 3]]] = RIGHT, WRONG
    batch, counts = collected(kinds)
    assert first_tokens(batch).tolist() == order[[0, 2, 4, 5]].tolist()
    assert batch.rewards.reshape(4, 4).tolist() == [[0, 1, 0, 1]] * 4
    assert batch.on_policy.all() and (batch.completion_mask.sum(1) > 0).all()
    assert counts == {
        "generation_batches": 2,
        "groups_generated": 8,
        "groups_kept": 4,
        "groups_all_right": 1,
        "groups_all_wrong": 1,
    }
    _, counts = collected(np.full(8, MIXED))
    assert counts["generation_batches"] == 1 and counts["groups_kept"] == 4


def test_too_few_mixed_groups_leave_filler_without_weight(policy, collected):
    kinds = np.full(8, RIGHT)
    kinds[5] = MIXED
    batch, counts = collected(kinds)
    assert (
        counts["generation_batches"] == 2
        and counts["groups_kept"] == 1
        and counts["groups_all_right"] == 7
    )
    assert first_tokens(batch).tolist() == [5]
    assert (
        np.isnan(batch.rewards[4:]).all()
        and not batch.completion_mask[4:].any()
        and not batch.mask[4:].any()
    )
    algorithm = ALGORITHMS["dapo"](DAPO, policy[0])
    scored = jax.tree.map(jnp.asarray, batch._replace(old_logps=batch.sampler_logps))
    weighed = algorithm.weigh(algorithm.prepare(scored, {})[0])
    assert (
        float(weighed.weights[:4].sum()) == pytest.approx(1.0)
        and not np.asarray(weighed.weights[4:]).any()
    )
    assert not np.asarray(weighed.advantages[4:]).any()


@pytest.mark.slow
def test_fit_trains_offline_algorithms(policy):
    """SFT learns a fixed row; DPO with the reference in the step opens a margin."""
    model, params = policy
    tokens = jnp.tile(jnp.array([[1, 2, 3, 4]]), (8, 1))
    everything, completion = (
        jnp.ones((8, 4), bool),
        jnp.tile(jnp.array([[False, False, True, True]]), (8, 1)),
    )
    size = FusedConfig(num_steps=20, batch_size=4, eval_every=10)

    def evaluate(params, held_out, key):
        return {
            "eval/logp": model.token_logps(params, held_out, jnp.ones_like(held_out, bool))[0][0, 3]
        }

    fit = make_fused_fit(
        ALGORITHMS["sft"](SFTConfig(), model), optax.adam(0.03), size=size, evaluate=evaluate
    )
    state, history = quick_jit(fit)(
        {"policy": params}, TokenBatch(tokens, everything, completion), tokens[:1], KEY
    )
    assert history.steps["loss/total"].shape == (20,) and history.steps["loss/total"][-1] < 0.5
    assert history.evaluations["eval/logp"][-1] > history.evaluations["eval/logp"][0] + 1

    pairs = jnp.stack([tokens, tokens.at[:, 3].set(5)], axis=1)
    two = [jnp.stack([x, x], axis=1) for x in (everything, completion)]
    dpo = ALGORITHMS["dpo"](DPOConfig(reference="online"), model)
    fit = make_fused_fit(dpo, optax.adam(0.03), size=dataclasses.replace(size, eval_every=0))
    everyone = PairBatch(pairs, *two, valid=jnp.ones(8, bool))
    _, history = quick_jit(fit)({"policy": params}, everyone, None, KEY)
    margins = history.steps["rewards/margin"]
    assert margins[0] == 0 and margins[-1] > 0.3
    # cached from the start before the first step, in the same program
    once = ALGORITHMS["dpo"](DPOConfig(), model)
    fit = make_fused_fit(once, optax.adam(0.03), size=dataclasses.replace(size, eval_every=0))
    _, history = quick_jit(fit)({"policy": params}, everyone, None, KEY)
    np.testing.assert_allclose(history.steps["rewards/margin"], margins, rtol=1e-4, atol=1e-5)


def test_fit_prepares_every_batch(policy):
    """An offline algorithm with a state of its own trains with it."""
    model, params = policy
    sft = ALGORITHMS["sft"](SFTConfig(), model)

    def prepare(batch, aux):
        count = {"count": aux["count"] + 1}
        return batch, count, count

    counting = dataclasses.replace(sft, prepare=prepare, aux={"count": jnp.zeros(())})
    tokens = jnp.ones((8, 4), jnp.int32)
    everything = jnp.ones((8, 4), bool)
    fit = make_fused_fit(counting, optax.sgd(0.1), size=FusedConfig(num_steps=3, batch_size=4))
    data = TokenBatch(tokens, everything, everything)
    state, history = quick_jit(fit)({"policy": params}, data, None, KEY)
    assert float(state.aux["count"]) == 3 and history.steps["count"].tolist() == [1, 2, 3]


def test_answers_are_compared_token_for_token_with_eos():
    tokenizer = byte_tokenizer()
    batch = PromptBatch(
        np.arange(2), np.ones((2, 3), np.int32), np.array([2, 3]), ["", ""], {"answer": [7, "12"]}
    )
    prompts = make_prompt_set(batch, tokenizer)
    eos, pad = tokenizer.eos_id, tokenizer.pad_id
    assert prompts.answers.tokens.tolist() == [[ord("7"), eos, pad], [ord("1"), ord("2"), eos]]
    assert prompts.answers.lengths.tolist() == [2, 3]
    # text, then EOS (and more), or cut
    completions = [("7", [2]), ("7", [2, 9]), ("77", [2]), ("1", [2]), ("7", [])]
    rows, spans = [], []
    for text, ending in completions:
        ids = [1, 1, *text.encode(), *([eos] if ending[:1] else []), *ending[1:]]
        rows.append((ids + [pad] * 6)[:6])
        spans.append([False] * 2 + [True] * (len(ids) - 2) + [False] * (6 - len(ids)))
    rollout = Rollout(
        jnp.array(rows), jnp.array(spans), jnp.array(spans), jnp.zeros((5, 6)), jnp.zeros(5, bool)
    )
    assert exact_answer(rollout, encode_answers(["7"] * 5, tokenizer)).tolist() == [1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="column='solution'.*answer"):
        make_prompt_set(batch, tokenizer, column="solution")


def test_wrong_options_are_one_line_errors(policy):
    model, _ = policy
    with pytest.raises(ValueError, match="eval_every=3 must divide num_steps=10"):
        FusedConfig(num_steps=10, batch_size=1, eval_every=3)
    with pytest.raises(ValueError, match="batch_size=0"):
        FusedConfig(num_steps=1, batch_size=0)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        GenerationShape(max_new_tokens=0, eos_id=0, pad_id=0)
    with pytest.raises(ValueError, match="eval_every=1 and no evaluate function"):
        loop(GRPO, model, eval_every=1)
    with pytest.raises(ValueError, match="eval_every=0 and an evaluate function"):
        loop(GRPO, model, evaluate=lambda params, held_out, key: {})
    for option in ({"retire_pass_rate": 0.9}, {"on_cap": "raise"}, {"accuracy_reward": "math"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}=.*online loop only"):
            loop(dataclasses.replace(DAPO, **option), model)
    with pytest.raises(ValueError, match="GRPOConfig.group_size decides what is compiled"):
        with_traced(GRPO, group_size=jnp.ones(()))
    with pytest.raises(ValueError, match="did you mean 'clip_high'"):
        with_traced(GRPO, clip_hgh=jnp.ones(()))
    assert GRPO.kl_coef == 0.1 and with_traced(GRPO, kl_coef=0.5).kl_coef == 0.5
