"""Estimators of KL(policy || reference) from sampled tokens, and the adaptive coefficient."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from rlhf_jax.ops.checks import check_choice, check_range
from rlhf_jax.ops.logprobs import log_ratio
from rlhf_jax.ops.precision import Scalar, promote

KL_KINDS = ("k1", "k2", "k3")


def kl_estimate(
    logps: Float[Array, "B T"], ref_logps: Float[Array, "B T"], kind: str = "k3"
) -> Float[Array, "B T"]:
    """Per-token estimate of KL(policy || reference) from tokens drawn from the policy.

        d = logps - ref_logps
        k1 = d        k2 = d^2 / 2        k3 = exp(-d) + d - 1

    Schulman, "Approximating KL Divergence" (joschu.net/blog/kl-approx.html, 2020); k3 as a loss is
    eq. 4 of GRPO (arXiv:2402.03300). k1 and k3 are unbiased; k2 and k3 are never negative. As a
    *loss*, k2 has the expected gradient of KL(policy || ref), k3 that of KL(ref || policy), and k1
    has expected gradient 0 on-policy: use k1 only inside a reward. Difference: in k3, d is clamped
    to +-20 (see `log_ratio`; the paper and TRL have no clamp, verl also caps the result at 10).

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow.
      ref_logps: the same tokens under the reference, at the same temperature, nats; not
        differentiated.
      kind: "k1", "k2" or "k3".

    Returns:
      The estimate, nats. No mask is applied: zero both inputs where it is False (`masked`).

    Raises:
      ValueError: unknown kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import kl_estimate
      >>> print(kl_estimate(jnp.array([[-1.0, -2.0]]), jnp.array([[-2.0, -4.0]]), "k2"))
      [[0.5 2. ]]
    """
    check_choice("kind", kind, KL_KINDS)
    if kind == "k3":
        difference = log_ratio(logps, ref_logps)
        return jnp.expm1(-difference) + difference
    difference = _difference(logps, ref_logps)
    return difference if kind == "k1" else difference**2 / 2


def adaptive_kl_coef(
    kl_coef: Scalar,
    current_kl: Scalar,
    n_steps: Scalar | Int[Array, ""],
    *,
    target: float,
    horizon: int = 10_000,
    max_error: float = 0.2,
) -> Float[Array, ""]:
    """One step of the controller that holds the KL near a target.

        coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * n_steps / horizon)

    Ziegler et al. 2019 (arXiv:1909.08593), section 2.2, with K_beta * batch = n_steps / horizon as
    in their code, TRL and verl. Pure: the coefficient lives in the train state and is checkpointed
    with it (verl loses it on resume).

    Args:
      kl_coef: current coefficient, > 0. Not meant to be differentiated.
      current_kl: measured KL in the same unit as target. Here nats per completion, as in the paper
        (verl's is per token).
      n_steps: completions in this batch.
      target: wanted KL, > 0.
      horizon: completions after which a full error of 0.2 has changed the coefficient by about 20%.
      max_error: the clip, 0.2 in the paper.

    Returns:
      The new coefficient, a scalar.

    Raises:
      ValueError: target or horizon not positive.

    Example:
      >>> from rlhf_jax.ops import adaptive_kl_coef
      >>> print(f"{adaptive_kl_coef(0.1, 12.0, 1000, target=6.0):.4f}")
      0.1020
    """
    check_range("target", target, above=0)
    check_range("horizon", horizon, above=0)
    kl_coef, current_kl, n_steps = promote(kl_coef, current_kl, n_steps)
    error = jnp.clip(current_kl / target - 1, -max_error, max_error)
    return kl_coef * (1 + error * n_steps / horizon)


def _difference(logps: Float[Array, "B T"], ref_logps: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """logps - ref_logps without the clamp of `log_ratio`: k1 and k2 need none."""
    logps, ref_logps = promote(logps, ref_logps)
    return logps - lax.stop_gradient(ref_logps)
