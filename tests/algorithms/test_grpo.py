"""GRPO and its relatives: Dr. GRPO, GSPO, CISPO, RLOO."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import DAPOConfig, GRPOConfig, dapo_loss, grpo, grpo_loss
from rlhf_jax.algorithms.presets import GRPO_PRESETS, departures
from tests.contract.fakes import make_batch, make_model, make_params
from tests.oracles import policy as oracle


@pytest.fixture(scope="module")
def rollout():
    return make_batch("prompts", 1)


def arrays(seed=12):
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 6)) < 0.7
    logps, old, ref = rng.normal(-1.5, 0.4, (3, 4, 6))
    return logps, old, rng.normal(size=(4, 6)), mask, ref


@pytest.mark.parametrize("mode", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["k2", "k3"])
@pytest.mark.parametrize("jit", [False, True])
def test_loss_matches_oracle(mode, kind, jit):
    logps, old, advantages, mask, ref = arrays()
    weights = oracle.loss_weights(mask, mode)
    policy, _ = oracle.surrogate(logps, old, advantages, weights)
    kl = sum(weights[i] * oracle.kl(logps[i], ref[i], kind) for i in np.ndindex(*mask.shape))

    def f(*xs):
        return grpo_loss(*xs[:4], ref_logps=xs[4], kl_coef=0.04, kl_kind=kind)

    xs = [jnp.asarray(x, jnp.float32) for x in (logps, old, advantages, weights, ref)]
    loss, metrics = (jax.jit(f) if jit else f)(*xs)
    np.testing.assert_allclose(loss, policy + 0.04 * kl, rtol=1e-5)
    np.testing.assert_allclose([metrics["loss/policy"], metrics["kl/ref"]], [policy, kl], rtol=1e-5)


def test_kl_gradient_ignores_nan_in_padding():
    logps, old, advantages, mask, ref = arrays()
    weights = oracle.loss_weights(mask, "token")
    dirty = [
        jnp.asarray(np.where(mask, x, np.nan), jnp.float32) for x in (logps, old, advantages, ref)
    ]

    def f(x):
        return grpo_loss(
            x,
            dirty[1],
            dirty[2],
            jnp.asarray(weights, jnp.float32),
            ref_logps=dirty[3],
            kl_coef=1.0,
        )[0]

    loss, gradient = jax.value_and_grad(f)(dirty[0])
    assert (
        jnp.isfinite(loss)
        and jnp.isfinite(gradient).all()
        and (np.asarray(gradient)[~mask] == 0).all()
    )


def test_k1_as_a_loss_is_refused():
    one = jnp.ones((1, 1))
    for call in (
        lambda: grpo_loss(one, one, one, one, ref_logps=one, kl_coef=0.1, kl_kind="k1"),
        lambda: GRPOConfig(kl_kind="k1"),
    ):
        with pytest.raises(
            ValueError,
            match="kl_kind='k1' as a loss has zero expected gradient on-policy .* use 'k3' or 'k2'",
        ):
            call()


def test_a_kl_needs_a_reference():
    one = jnp.ones((1, 1))
    with pytest.raises(
        ValueError, match="kl_coef=0.1 needs ref_logps: pass them, or set kl_coef=0"
    ):
        grpo_loss(one, one, one, one, kl_coef=0.1)
    assert "kl/ref" not in grpo_loss(one, one, one, one)[1]
    with pytest.raises(ValueError, match="surrogate='cispoo' is not known"):
        grpo_loss(one, one, one, one, surrogate="cispoo")


def test_no_kl_needs_no_reference(rollout):
    model = make_model()
    assert not grpo.make(GRPOConfig(), model).needs
    assert set(grpo.make(GRPOConfig(kl_coef=0.1), model).needs) == {"ref_logps"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, lambda r, v: oracle.group_advantages(r, v)),
        ({"normalize_std": False}, lambda r, v: oracle.group_advantages(r, v, std=False)),
        ({"normalize_std": "batch"}, lambda r, v: oracle.group_advantages(r, v, std="batch")),
        ({"baseline": "leave_one_out", "normalize_std": False}, oracle.leave_one_out),
    ],
)
def test_prepare_matches_oracle(rollout, options, wanted):
    algorithm = grpo.make(GRPOConfig(group_size=4, **options), make_model())
    batch, aux, metrics = jax.jit(algorithm.prepare)(rollout, {})
    rewards = np.asarray(rollout.rewards, np.float64).reshape(4, 4)
    rows = wanted(rewards, ~np.isnan(rewards)).reshape(-1)
    mask = np.asarray(rollout.completion_mask)
    np.testing.assert_allclose(
        batch.advantages, np.where(mask, rows[:, None], 0.0), rtol=1e-4, atol=1e-6
    )
    assert aux == {}
    np.testing.assert_allclose(metrics["rewards/mean"], np.nanmean(rewards), rtol=1e-5)
    np.testing.assert_allclose(
        metrics["rewards/group_std"], np.nanstd(rewards, axis=1, ddof=1).mean(), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "mode", "constant"),
    [
        ({}, "sequence", None),
        ({"aggregation": "token"}, "token", None),
        ({"aggregation": "constant", "aggregation_constant": 32}, "constant", 32),
        ({"aggregation": "constant", "max_new_tokens": 8}, "constant", 8),
    ],
)
def test_weigh_leaves_out_ungraded_rows(rollout, options, mode, constant):
    weights = grpo.make(GRPOConfig(**options), make_model()).weigh(rollout).weights
    graded = ~np.isnan(np.asarray(rollout.rewards))
    mask = np.asarray(rollout.completion_mask) & graded[:, None]
    np.testing.assert_allclose(weights, oracle.loss_weights(mask, mode, constant), rtol=1e-5)
    assert (weights[1] == 0).all()


def test_truncated_completions_leave_the_loss_and_not_their_group(rollout):
    plain, masking = (
        grpo.make(GRPOConfig(group_size=4, mask_truncated=on), make_model()) for on in (False, True)
    )
    cut = np.asarray(rollout.truncated)
    first, second = plain.prepare(rollout, {})[0], masking.prepare(rollout, {})[0]
    np.testing.assert_array_equal(first.advantages, second.advantages)
    graded = ~np.isnan(np.asarray(rollout.rewards))
    kept = np.asarray(rollout.completion_mask) & (graded & ~cut)[:, None]
    weights = masking.weigh(rollout).weights
    np.testing.assert_allclose(weights, oracle.loss_weights(kept, "sequence"), rtol=1e-5)
    assert (plain.weigh(rollout).weights[cut & graded] != 0).any()


@pytest.mark.parametrize("loss", [grpo_loss, dapo_loss])
def test_entropy_bonus(loss):
    """L - coef * sum w H, with its gradient; without a coefficient entropy is a metric alone."""
    logps, old, advantages, mask, _ = arrays()
    weights = oracle.loss_weights(mask, "token")
    entropy = np.random.default_rng(1).uniform(0.1, 2, mask.shape)
    xs = [jnp.asarray(x, jnp.float32) for x in (logps, old, advantages, weights)]

    def f(entropy, coef):
        return loss(*xs, entropy=entropy, entropy_coef=coef)

    plain, metrics = f(jnp.asarray(entropy, jnp.float32), 0.0)
    (total, more), slope = jax.value_and_grad(f, has_aux=True)(
        jnp.asarray(entropy, jnp.float32), 0.3
    )
    mean = (weights * entropy).sum()
    np.testing.assert_allclose(total, plain - 0.3 * mean, rtol=1e-5)
    np.testing.assert_allclose(slope, -0.3 * weights, rtol=1e-5, atol=1e-8)
    for found in (metrics, more):
        np.testing.assert_allclose(found["policy/entropy"], mean, rtol=1e-5)
    assert float(more["loss/policy"]) == float(metrics["loss/policy"]) == float(plain)
    with pytest.raises(ValueError, match="^entropy_coef=0.3 needs entropy: pass it, or set"):
        f(None, 0.3)


PRESETS = {
    "dr_grpo": {"normalize_std": False, "aggregation": "constant"},
    "gspo": {"level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "rloo": {"baseline": "leave_one_out", "normalize_std": False, "aggregation": "constant"},
    "cispo": {"surrogate": "cispo", "aggregation": "token"},
    "dapo_loss": {"aggregation": "token"},
    "lite_ppo": {"normalize_std": "batch", "aggregation": "token"},
}
"""By the papers; everything else stays as it is."""


def test_every_preset_is_tested():
    assert set(PRESETS) == set(GRPO_PRESETS)
    assert all("arXiv:" in preset.paper for preset in GRPO_PRESETS.values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_what_differs(name):
    config = GRPOConfig(preset=name)
    assert config == dataclasses.replace(GRPOConfig(), preset=name, **PRESETS[name])
    # written out, it reads back as it was
    assert dataclasses.replace(config) == config and departures(config) == {}


def test_a_key_that_is_given_wins():
    config = GRPOConfig(preset="gspo", clip_low=0.01, clip_high=0.2)
    assert (config.level, config.clip_low, config.clip_high) == ("sequence", 0.01, 0.2)
    assert departures(config) == {"clip_low": 0.01, "clip_high": 0.2}
    # although it is the default without a preset
    assert GRPOConfig(preset="dr_grpo", normalize_std=True).normalize_std is True


def test_clip_high_follows_clip_low():
    assert GRPOConfig(clip_low=0.1).clip_high == 0.1
    assert GRPOConfig(clip_low=0.1, clip_high=0.3).clip_high == 0.3
    assert DAPOConfig(clip_low=0.1).clip_high == 0.28


def test_a_constant_needs_the_limit():
    with pytest.raises(ValueError, match="^max_new_tokens is None: give the generation limit, or"):
        grpo.make(GRPOConfig(preset="dr_grpo"), make_model())


@pytest.mark.parametrize(
    "options",
    [
        {"level": "sequence"},
        {"surrogate": "cispo"},
        {"kl_coef": 0.1, "kl_kind": "k2"},
        {"kl_coef": 0.1, "kl_unbiased": True},
        {"dual_clip": 3.0},
        {"entropy_coef": 0.1, "entropy_metric": False},
    ],
    ids=["gspo", "cispo", "kl", "unbiased", "dual", "entropy"],
)
def test_variants_train(rollout, options):
    """Each option reaches the loss: it differs from plain GRPO, off policy."""
    params = make_params(0)

    def loss(config):
        algorithm = grpo.make(config, make_model())
        batch, _, _ = jax.jit(algorithm.prepare)(rollout, {})
        return jax.jit(algorithm.loss)(
            {"policy": params}, algorithm.weigh(batch), jax.random.key(0)
        )

    (plain, _), (other, metrics) = loss(GRPOConfig()), loss(GRPOConfig(**options))
    assert float(plain) != float(other) and jnp.isfinite(other)
    assert ("kl/ref" in metrics) == ("kl_coef" in options)


def test_equal_rewards_give_no_gradient(rollout):
    algorithm = grpo.make(GRPOConfig(), make_model())
    flat = rollout._replace(rewards=jnp.full_like(rollout.rewards, 0.1))
    batch, _, metrics = algorithm.prepare(flat, {})
    assert (batch.advantages == 0).all() and float(metrics["rewards/zero_std_groups"]) == 1.0
    batch = algorithm.weigh(batch)
    gradient = jax.jit(
        jax.grad(lambda p: algorithm.loss({"policy": p}, batch, jax.random.key(0))[0])
    )(make_params(0))
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))


def test_groups_of_one(rollout):
    batch, _, _ = grpo.make(GRPOConfig(group_size=1), make_model()).prepare(rollout, {})
    assert (batch.advantages == 0).all()


def test_groups_must_be_whole(rollout):
    with pytest.raises(
        ValueError, match="16 completions do not divide into groups: group_size=5 must divide them"
    ):
        grpo.make(GRPOConfig(group_size=5), make_model()).prepare(rollout, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"aggregation_constant": 5},
            "aggregation_constant=5 has no meaning for aggregation='sequence': set "
            "aggregation=constant",
        ),
        ({"preset": "drgrpo"}, "preset='drgrpo' is not known: .*did you mean 'dr_grpo'"),
        ({"normalize_std": "bach"}, "normalize_std='bach' of GRPOConfig is not allowed"),
        ({"entropy_coef": -0.1}, "entropy_coef=-0.1 is out of range"),
        ({"surrogate": "cispo", "level": "sequence"}, "surrogate='cispo' has a ratio per token"),
        ({"surrogate": "cispo", "dual_clip": 3.0}, "surrogate='cispo' has a ratio per token"),
        (
            {"baseline": "leave_one_out"},
            "baseline='leave_one_out' is not divided .* set normalize_std=false",
        ),
        ({"group_size": 0}, "group_size=0 is out of range"),
        ({"max_ratio": 0.2}, "max_ratio=0.2 is out of range"),
        ({"kl_kind": "k9"}, "kl_kind='k9' is not known: use one of k2, k3"),
        ({"kl_unbiased": True, "kl_coef": 0.1, "kl_kind": "k2"}, "kl_unbiased=True is for kl_kind"),
        ({"kl_unbiased": True}, "kl_unbiased=True weighs a KL loss, and kl_coef=0 has none"),
        ({"importance_cap": 0.0}, "importance_cap=0.0 is out of range"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GRPOConfig(**options)
