"""Our losses and advantages against values of TRL, verl and transformers (see make_*.py)."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import ops
from rlhf_jax.algorithms import DPOConfig, dpo, dpo_loss, grpo_loss, pairwise_reward_loss, sft_loss
from rlhf_jax.types import Model, PairBatch
from tests.golden.arrays import array, boolean, close

HERE = pathlib.Path(__file__).parent
TRL, VERL = (json.loads((HERE / f"{name}.json").read_text()) for name in ("trl", "verl"))


def test_versions_are_recorded():
    assert TRL["versions"]["trl"] == "1.16.0" and TRL["versions"]["transformers"] == "5.23.0"
    assert len(VERL["versions"]["verl"]) == 40
    for made in (TRL, VERL):
        assert pathlib.Path(HERE, pathlib.Path(made["made_by"]).name).is_file()


@pytest.mark.parametrize(
    "case", TRL["dpo"], ids=lambda c: f"{c['options']['loss_type']}-{c['options']['beta']}"
)
def test_trl_dpo(case):
    """Through `make`, whose model hands out TRL's log-probabilities: all of the loss's steps."""
    logps, mask = (
        np.pad(case["logps"], ((0, 0), (1, 0))),
        np.pad(case["completion_mask"], ((0, 0), (1, 0))),
    )
    pairs = len(logps) // 2

    def paired(x):
        x = np.asarray(x)
        return np.stack([x[:pairs], x[pairs:]], axis=1)

    def token_logps(
        params, tokens, mask, *, segment_ids=None, scored=None, temperature=1.0, entropy=True
    ):
        return params["logps"].reshape(tokens.shape), jnp.zeros(tokens.shape)

    model = Model(config=None, hidden=None, logits=None, token_logps=token_logps)
    algorithm = dpo.make(DPOConfig(**case["options"]), model)
    batch = algorithm.weigh(
        PairBatch(
            tokens=jnp.zeros((pairs, 2, logps.shape[1]), jnp.int32),
            mask=jnp.ones((pairs, 2, logps.shape[1]), bool),
            completion_mask=boolean(paired(mask)),
            valid=jnp.ones(pairs, bool),
            ref_logps=array(paired(case["ref"])),
        )
    )
    step = jax.jit(jax.value_and_grad(algorithm.loss, has_aux=True))
    (loss, metrics), gradient = step(
        {"policy": {"logps": array(paired(logps))}}, batch, jax.random.key(0)
    )
    close(loss, case["loss"])
    close(
        gradient["policy"]["logps"][..., 1:],
        paired(np.asarray(case["gradient"]) * case["completion_mask"]),
    )
    # TRL reports sums there; ours are per token, like the loss
    if case["options"]["loss_type"] != "ipo":
        close(metrics["rewards/chosen"], case["metrics"]["rewards/chosen"])
        close(metrics["rewards/margin"], case["metrics"]["rewards/margins"])
        close(metrics["rewards/accuracy"], case["metrics"]["rewards/accuracies"])


@pytest.mark.parametrize("case", TRL["cdpo"], ids=lambda c: str(c["options"]["label_smoothing"]))
def test_trl_cdpo(case):
    """Pair by pair: the weight picks one."""
    chosen, rejected = array(case["chosen"]), array(case["rejected"])
    for weights, wanted in zip(jnp.eye(len(chosen)), case["losses"], strict=True):
        loss, _ = dpo_loss(chosen, rejected, 0 * chosen, 0 * chosen, weights, **case["options"])
        close(loss, wanted)


@pytest.mark.parametrize("case", TRL["reward"], ids=["plain", "margin", "margin-centred"])
def test_trl_reward(case):
    chosen, rejected = array(case["chosen"]), array(case["rejected"])
    margin = None if case["margin"] is None else array(case["margin"])
    weights = jnp.full(len(chosen), 1 / len(chosen))

    def f(c, r):
        return pairwise_reward_loss(c, r, weights, margin=margin, center_coef=case["center_coef"])

    (loss, metrics), gradient = jax.value_and_grad(f, argnums=(0, 1), has_aux=True)(
        chosen, rejected
    )
    close(loss, case["loss"])
    close(jnp.concatenate(gradient), case["gradient"])
    close(metrics["rewards/accuracy"], case["accuracy"])


def grpo_name(case):
    options = case["options"]
    kl = "unbiased_kl" if options.get("use_bias_correction_kl") else "kl"
    return f"{options['loss_type']}-{options['importance_sampling_level']}-{kl}{options['beta']}"


@pytest.mark.parametrize("case", TRL["grpo"], ids=grpo_name)
def test_trl_grpo(case):
    options, mask = case["options"], boolean(case["mask"])
    mode = {"grpo": "sequence", "dr_grpo": "constant"}.get(options["loss_type"], "token")
    weights = ops.loss_weights(mask, mode, constant=mask.shape[1] if mode == "constant" else None)
    advantages = jnp.broadcast_to(array(case["advantages"])[:, None], mask.shape)

    def f(logps):
        return grpo_loss(
            logps,
            array(case["old"]),
            advantages,
            weights,
            ref_logps=array(case["ref"]) if options["beta"] else None,
            kl_coef=options["beta"],
            kl_unbiased=options.get("use_bias_correction_kl", False),
            clip_low=options["epsilon_low"],
            clip_high=options["epsilon_high"],
            level=options["importance_sampling_level"],
            surrogate="cispo" if options["loss_type"] == "cispo" else "clip",
            max_ratio=options["epsilon_high"] if options["loss_type"] == "cispo" else 5.0,
        )

    (loss, metrics), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))(array(case["logps"]))
    close(loss, case["loss"])
    close(gradient, np.asarray(case["gradient"]) * case["mask"])
    if mode == "token" and options["loss_type"] != "cispo":  # TRL's metrics are token means
        close(metrics["policy/clip_fraction_low"], case["metrics"]["clip_ratio/low_mean"])
        close(metrics["policy/clip_fraction_high"], case["metrics"]["clip_ratio/high_mean"])


@pytest.mark.parametrize("case", TRL["grpo_advantages"], ids=lambda c: c["scale"])
def test_trl_group_advantages(case):
    """None is NaN: outside the statistics, advantage 0."""
    rewards = array([np.nan if r is None else r for r in case["rewards"]]).reshape(
        -1, case["group_size"]
    )
    got = ops.group_advantages(rewards, normalize_std=case["scale"] == "group")
    close(got.reshape(-1), case["advantages"], rtol=1e-4)


def test_transformers_sft():
    (case,) = TRL["sft"]
    tokens, trained = jnp.asarray(case["tokens"]), boolean(case["trained"])
    weights = ops.loss_weights(ops.predicted_mask(trained))

    def f(logits):
        return sft_loss(ops.token_logps(logits, tokens), weights)[0]

    loss, gradient = jax.value_and_grad(f)(array(case["logits"]))
    close(loss, case["loss"])
    close(gradient, case["gradient"])


def test_trl_overlong_and_whitening():
    case = TRL["overlong"]
    got = ops.overlong_penalty(
        jnp.asarray(case["lengths"]), max_len=case["max_len"], buffer_len=case["buffer_len"]
    )
    close(got, case["penalties"])
    case = TRL["whiten"]
    for shift_mean in (True, False):
        got = ops.masked_whiten(array(case["x"]), boolean(case["mask"]), shift_mean=shift_mean)
        close(got, np.asarray(case["whitened"][str(shift_mean)]) * case["mask"])


@pytest.mark.parametrize("case", VERL["gae"], ids=lambda c: f"{c['gamma']}-{c['gae_lambda']}")
def test_verl_gae(case):
    mask = boolean(case["mask"])
    advantages, returns = ops.gae(
        array(case["rewards"]),
        array(case["values"]),
        mask,
        gamma=case["gamma"],
        gae_lambda=case["gae_lambda"],
    )
    close(returns, np.asarray(case["returns"]) * case["mask"])
    close(ops.masked_whiten(advantages, mask), np.asarray(case["whitened"]) * case["mask"])


def test_verl_group_advantages():
    (case,) = VERL["groups"]
    rewards = array(case["rewards"])
    close(ops.group_advantages(rewards, eps=1e-6), case["grpo"])
    close(ops.group_advantages(rewards, normalize_std=False), case["dr_grpo"])
    close(ops.leave_one_out_advantages(rewards), case["rloo"])


@pytest.mark.parametrize(
    "case",
    VERL["policy"],
    ids=lambda c: f"{c['loss_name']}-{c['aggregation']}-{c['options']['clip_ratio']}",
)
def test_verl_policy_loss(case):
    options, mask = case["options"], boolean(case["mask"])
    low, high = (
        options.get(name, options["clip_ratio"]) for name in ("clip_ratio_low", "clip_ratio_high")
    )
    weights = ops.loss_weights(mask, "token" if case["aggregation"] == "token-mean" else "sequence")

    def f(logps):
        fixed = (array(case["old"]), array(case["advantages"]), weights)
        if case["loss_name"] == "cispo":
            return ops.cispo_loss(logps, *fixed, min_ratio=1 - low, max_ratio=1 + high)
        level, dual = (
            ("sequence", None)
            if case["loss_name"] == "gspo"
            else ("token", options["clip_ratio_c"])
        )
        return ops.clipped_surrogate_loss(
            logps, *fixed, clip_low=low, clip_high=high, dual_clip=dual, level=level
        )

    (loss, metrics), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))(array(case["logps"]))
    close(loss, case["loss"])
    close(gradient, np.asarray(case["gradient"]) * case["mask"])
    if case["aggregation"] == "token-mean":
        close(metrics["policy/clip_fraction"], case["metrics"]["actor/pg_clipfrac"])
    if "policy/dual_clip_fraction" in metrics and case["aggregation"] == "token-mean":
        close(metrics["policy/dual_clip_fraction"], case["metrics"]["actor/pg_clipfrac_lower"])


@pytest.mark.parametrize("case", VERL["value"], ids=lambda c: str(c["clip"]))
def test_verl_value_loss(case):
    weights = ops.loss_weights(boolean(case["mask"]))

    def f(values):
        return ops.clipped_value_loss(
            values, array(case["old"]), array(case["returns"]), weights, clip=case["clip"]
        )

    (loss, metrics), gradient = jax.value_and_grad(f, has_aux=True)(array(case["values"]))
    close(loss, case["loss"])
    close(gradient, np.asarray(case["gradient"]) * case["mask"])
    close(metrics["value/clip_fraction"], case["clip_fraction"])


@pytest.mark.parametrize("case", VERL["kl"], ids=lambda c: c["kind"])
def test_verl_kl_estimates(case):
    close(ops.kl_estimate(array(case["logps"]), array(case["ref"]), case["kind"]), case["estimate"])


@pytest.mark.parametrize("case", VERL["kl_penalty"], ids=lambda c: str(c["target"]))
def test_verl_kl_shaped_rewards_and_controller(case):
    old = array(case["old"])
    kl = ops.kl_estimate(old, array(case["ref"]), "k1")
    got = ops.kl_shaped_rewards(
        array(case["scores"]), kl, jnp.ones(old.shape, bool), kl_coef=case["kl_coef"]
    )
    close(got, case["rewards"])
    close(kl.mean(), case["current_kl"])
    coef = ops.adaptive_kl_coef(
        case["kl_coef"], kl.mean(), old.shape[0], target=case["target"], horizon=case["horizon"]
    )
    close(coef, case["next_coef"])


def test_verl_overlong_masked_mean_whitening_and_entropy():
    (case,) = VERL["overlong"]
    options = {name: case[name] for name in ("max_len", "buffer_len", "factor")}
    close(ops.overlong_penalty(jnp.asarray(case["lengths"]), **options), case["penalties"])
    (case,) = VERL["masked"]
    x, mask = array(case["x"]), boolean(case["mask"])
    close(ops.masked_mean(x, mask), case["mean"])
    for shift_mean in (True, False):
        got = ops.masked_whiten(x, mask, shift_mean=shift_mean)
        close(got, np.asarray(case["whitened"][str(shift_mean)]) * case["mask"])
    close(ops.token_entropy(array(case["logits"]))[:, 1:], np.asarray(case["entropy"])[:, :-1])
