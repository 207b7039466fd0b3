"""The KL to the reference as a loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.ops import kl_estimate, log_ratio, masked, weighted_sum
from rlhf_jax.ops.checks import check_choice


def kl_loss(
    logps: Float[Array, "B T"],
    old_logps: Float[Array, "B T"],
    ref_logps: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    kind: str = "k3",
    unbiased: bool = False,
) -> Float[Array, ""]:
    """KL to the reference, summed with per-token weights.

        L = sum_t w_t KL_t                     GRPO eq. 4 (arXiv:2402.03300)
        unbiased:  L = sum_t w_t r_t KL_t,  r_t = exp(logps_t - old_logps_t)
                                               DeepSeek-V3.2 eq. 7 (arXiv:2512.02556, section 3.1)

    The expected gradient of k3 is that of KL(ref || policy), in which a token that the policy all
    but lost has an unbounded weight. With the ratio, whose gradient counts too, it is that of
    KL(policy || ref), also where `old_logps` are another policy's. Differences: the ratio is that
    of the token also where the policy loss has one per sequence (TRL takes the sequence's there);
    log-ratios are clamped to +-20 (see `log_ratio`).

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow.
      old_logps: the same before the update, nats; not differentiated.
      ref_logps: the same under the reference, nats; not differentiated.
      weights: non-negative, 0 on padding.
      kind: "k3" or "k2".
      unbiased: weigh by the importance ratio.

    Returns:
      The loss, nats.

    Raises:
      ValueError: see `check_kl_loss`.
    """
    check_kl_loss(kind, unbiased=unbiased)
    keep = weights != 0
    logps = masked(logps, keep)
    kl = kl_estimate(logps, masked(ref_logps, keep), kind)
    if unbiased:
        kl = jnp.exp(log_ratio(logps, masked(old_logps, keep))) * kl
    return weighted_sum(kl, weights)


def check_kl_loss(kind: str, *, unbiased: bool) -> None:
    """Refuses estimators that are none as a loss.

    Args:
      kind: an option of that name.
      unbiased: likewise.

    Raises:
      ValueError: kind "k1" or unknown; unbiased with another kind than "k3".
    """
    if kind == "k1":
        raise ValueError(
            "kl_kind='k1' as a loss has zero expected gradient on-policy and only adds noise:"
            " use 'k3' or 'k2' (k1 is right inside the reward, as in PPO)"
        )
    check_choice("kl_kind", kind, ("k2", "k3"))
    if unbiased and kind != "k3":
        raise ValueError(
            f"kl_unbiased=True is for kl_kind='k3': the gradient of kl_kind={kind!r} is that of "
            "KL(policy || reference) as it is, on-policy"
        )
