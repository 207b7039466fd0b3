"""PPO: from rewards to advantages, the controller, the critic, the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import PPOConfig, ppo, ppo_loss
from rlhf_jax.algorithms.forward import values as values_of
from tests.contract.fakes import make_batch, make_model, make_params
from tests.oracles import policy as oracle


@pytest.fixture(scope="module")
def rollout():
    return make_batch("prompts", 1)


def prepare(batch, aux=None, **options):
    algorithm = ppo.make(PPOConfig(**options), make_model())
    return algorithm.prepare(batch, algorithm.aux if aux is None else aux)


def by_hand(
    batch, *, kl_coef=0.05, penalty=0.0, clip=None, whiten_rewards=False, whiten=True, lam=0.95
):
    """Advantages, returns and per-token KL with the oracles, float64."""
    rewards = np.asarray(batch.rewards, np.float64)
    graded = ~np.isnan(rewards)
    trained = np.asarray(batch.completion_mask) & graded[:, None]
    kl = np.asarray(batch.old_logps, np.float64) - np.asarray(batch.ref_logps, np.float64)
    scores = np.where(graded, rewards, 0.0) - penalty * np.asarray(batch.truncated)
    shaped = oracle.shaped_rewards(scores, kl, trained, kl_coef, clip)
    if whiten_rewards:
        shaped = oracle.whiten(shaped, trained, shift_mean=False)
    advantages, returns = oracle.gae(
        shaped, np.asarray(batch.values, np.float64), trained, 1.0, lam
    )
    return (oracle.whiten(advantages, trained) if whiten else advantages), returns, kl


@pytest.mark.parametrize(
    ("options", "oracle_options"),
    [
        ({}, {}),
        ({"missing_eos_penalty": 1.0}, {"penalty": 1.0}),
        ({"missing_eos_penalty": 1.0, "score_clip": 0.5}, {"penalty": 1.0, "clip": 0.5}),
        ({"whiten_rewards": True, "gae_lambda": 0.8}, {"whiten_rewards": True, "lam": 0.8}),
        ({"whiten_advantages": False}, {"whiten": False}),
        ({"kl_target": 6.0, "kl_coef": 0.2}, {"kl_coef": 0.2}),
    ],
)
def test_prepare_matches_oracle(rollout, options, oracle_options):
    batch, _, metrics = prepare(rollout, **options)
    advantages, returns, kl = by_hand(rollout, **oracle_options)
    np.testing.assert_allclose(batch.advantages, advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.returns, returns, rtol=1e-4, atol=1e-5)
    mask = np.asarray(rollout.completion_mask)
    np.testing.assert_allclose(metrics["kl/ref"], kl[mask].mean(), rtol=1e-4, atol=1e-6)
    per_row = np.where(mask, kl, 0.0).sum(1)[mask.any(1)]
    np.testing.assert_allclose(metrics["kl/ref_sequence"], per_row.mean(), rtol=1e-4, atol=1e-6)


def test_no_kl_needs_no_reference(rollout):
    algorithm = ppo.make(PPOConfig(kl_coef=0.0), make_model())
    assert set(algorithm.needs) == {"old_logps", "values"}
    batch, aux, metrics = algorithm.prepare(rollout._replace(ref_logps=None), algorithm.aux)
    advantages, _, _ = by_hand(rollout, kl_coef=0.0)
    np.testing.assert_allclose(batch.advantages, advantages, rtol=1e-4, atol=1e-5)
    assert aux == {} and "kl/ref" not in metrics


def test_adaptive_coefficient_lives_in_aux(rollout):
    algorithm = ppo.make(PPOConfig(kl_coef=0.1, kl_target=1.0, kl_horizon=100), make_model())
    np.testing.assert_allclose(algorithm.aux["kl_coef"], 0.1)
    far = rollout._replace(
        ref_logps=jnp.where(rollout.completion_mask, rollout.old_logps - 5.0, 0.0)
    )
    _, aux, metrics = jax.jit(algorithm.prepare)(far, algorithm.aux)
    rows = int(rollout.completion_mask.any(1).sum())
    assert rows == 15 and float(metrics["kl/coef"]) == pytest.approx(0.1)
    np.testing.assert_allclose(aux["kl_coef"], 0.1 * (1 + 0.2 * rows / 100), rtol=1e-6)
    near = rollout._replace(ref_logps=rollout.old_logps)
    _, aux, metrics = algorithm.prepare(near, aux)
    np.testing.assert_allclose(aux["kl_coef"], 0.1 * (1 + 0.03) * (1 - 0.03), rtol=1e-6)
    np.testing.assert_allclose(metrics["kl/coef"], 0.103, rtol=1e-6)


def test_fixed_coefficient_has_no_state(rollout):
    _, aux, metrics = prepare(rollout, kl_coef=0.3)
    assert aux == {} and float(metrics["kl/coef"]) == pytest.approx(0.3)


def test_values_are_aligned_with_the_token_they_precede():
    """values[:, t] is the head read at token t-1: the state in which token t is chosen."""
    model, params, batch = make_model(), make_params(0), make_batch("prompts", 1)
    scores = model.scores(params, batch.tokens, batch.mask)
    values = values_of(model, "policy")({"policy": params}, batch)
    np.testing.assert_array_equal(values[:, 1:], scores[:, :-1])
    assert (values[:, 0] == 0).all()


def test_separate_and_shared_critic(rollout):
    model, params = make_model(), make_params(0)
    apart, together = PPOConfig(), PPOConfig(critic="shared")
    assert [tree.head for tree in apart.models.trained.values()] == [None, "reward"]
    assert [tree.head for tree in together.models.trained.values()] == ["value"]

    def f(params, config):
        algorithm = ppo.make(config, model)
        batch, _, _ = algorithm.prepare(rollout, algorithm.aux)
        return algorithm.loss(params, algorithm.weigh(batch), jax.random.key(0))[0]

    same = jax.grad(f)({"policy": params, "critic": params}, apart)
    shared = jax.grad(f)({"policy": params}, together)["policy"]
    jax.tree.map(
        lambda p, c, s: np.testing.assert_allclose(p + c, s, rtol=1e-4, atol=1e-6),
        same["policy"],
        same["critic"],
        shared,
    )
    assert (same["policy"]["score"]["kernel"] == 0).all() and (
        same["critic"]["unembed"]["kernel"] == 0
    ).all()


def ppo_arrays(seed=11):
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 6)) < 0.7
    return [rng.normal(size=(4, 6)) for _ in range(7)], oracle.loss_weights(mask, "token")


@pytest.mark.parametrize("jit", [False, True])
def test_loss_matches_oracle(jit):
    (logps, old, advantages, values, old_values, returns, entropy), weights = ppo_arrays()
    policy, _ = oracle.surrogate(logps, old, advantages, weights)
    value = oracle.value_loss(values, old_values, returns, weights, 0.2)
    wanted = policy + 0.1 * value - 0.01 * (weights * entropy).sum()
    arrays = [
        jnp.asarray(x, jnp.float32)
        for x in (logps, old, advantages, weights, values, old_values, returns)
    ]

    def f(*xs):
        return ppo_loss(*xs, entropy=jnp.asarray(entropy, jnp.float32), entropy_coef=0.01)

    loss, metrics = (jax.jit(f) if jit else f)(*arrays)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        [metrics["loss/policy"], metrics["loss/value"]], [policy, value], rtol=1e-5
    )
    np.testing.assert_allclose(
        metrics["policy/entropy"], (weights * entropy).sum(), rtol=1e-5, atol=1e-7
    )


def test_gradients_flow_through_logps_values_and_entropy_only():
    (logps, old, advantages, values, old_values, returns, entropy), weights = ppo_arrays()
    arrays = [
        jnp.asarray(x, jnp.float32)
        for x in (logps, old, advantages, weights, values, old_values, returns, entropy)
    ]

    def f(*xs, coef=0.01):
        return ppo_loss(*xs[:7], entropy=xs[7], entropy_coef=coef)[0]

    gradients = jax.grad(f, argnums=tuple(range(8)))(*arrays)
    assert [bool((g != 0).any()) for g in gradients] == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    np.testing.assert_allclose(gradients[7], -0.01 * weights, rtol=1e-6)
    without = jax.grad(lambda *xs: f(*xs, coef=0.0), argnums=7)(*arrays)
    assert (without == 0).all()


def test_entropy_is_optional_but_a_bonus_needs_it():
    one = jnp.ones((1, 1))
    _, metrics = ppo_loss(one, one, one, one, one, one, one)
    assert "policy/entropy" not in metrics
    with pytest.raises(
        ValueError, match="entropy_coef=0.1 needs entropy: pass it, or set entropy_coef=0"
    ):
        ppo_loss(one, one, one, one, one, one, one, entropy_coef=0.1)


def test_explained_variance(rollout):
    batch, _, metrics = prepare(rollout, gae_lambda=1.0, whiten_advantages=False)
    perfect = rollout._replace(values=jnp.where(rollout.completion_mask, batch.returns, 0.0))
    assert float(metrics["value/explained_variance"]) < 0.9
    np.testing.assert_allclose(
        prepare(perfect, gae_lambda=1.0)[2]["value/explained_variance"], 1.0, atol=1e-5
    )
    flat = rollout._replace(
        rewards=jnp.zeros_like(rollout.rewards), values=jnp.zeros_like(rollout.values)
    )
    assert float(prepare(flat, kl_coef=0.0)[2]["value/explained_variance"]) == 0.0


def test_ungraded_rows_carry_no_weight(rollout):
    """Row 1 is NaN: nothing in it reaches advantages, returns or weights, and its values do not
    matter."""
    algorithm = ppo.make(PPOConfig(), make_model())
    batch, _, _ = algorithm.prepare(rollout, algorithm.aux)
    other, _, _ = algorithm.prepare(
        rollout._replace(values=rollout.values.at[1].set(1e6)), algorithm.aux
    )
    for a in (batch.advantages, batch.returns, algorithm.weigh(batch).weights):
        assert (a[1] == 0).all() and jnp.isfinite(a).all()
    np.testing.assert_array_equal(batch.advantages, other.advantages)


def test_one_completion(rollout):
    one = jax.tree.map(lambda x: x[:1], rollout)
    algorithm = ppo.make(PPOConfig(kl_target=1.0), make_model())
    batch, aux, metrics = algorithm.prepare(one, algorithm.aux)
    assert jnp.isfinite(batch.advantages).all() and all(
        jnp.isfinite(v) for v in (*metrics.values(), aux["kl_coef"])
    )


def test_sequence_aggregation(rollout):
    algorithm = ppo.make(PPOConfig(aggregation="sequence"), make_model())
    sums = algorithm.weigh(rollout).weights.sum(1)
    # 16 rows, one filler, one ungraded
    np.testing.assert_allclose(sums[sums > 0], 1 / 14, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kl_target": 1.0, "kl_coef": 0.0},
            "kl_target=1.0 needs a coefficient to adapt: set kl_coef > 0",
        ),
        (
            {"critic": "shared", "critic_warmup": 5},
            "critic_warmup=5 is for a critic of its own: set critic=separate",
        ),
        ({"gamma": 1.5}, "gamma=1.5 is out of range"),
        ({"dual_clip": 0.5}, "dual_clip=0.5 is out of range"),
        ({"value_clip": 0.0}, "value_clip=0.0 is out of range"),
        ({"missing_eos_penalty": -1.0}, "missing_eos_penalty=-1.0 is out of range"),
        ({"num_epochs": 0}, "num_epochs=0 is out of range"),
        ({"temperature": 0.0}, "temperature=0.0 is out of range"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**options)
