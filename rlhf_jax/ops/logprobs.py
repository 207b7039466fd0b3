"""Log-probabilities and entropy from logits, aligned to the token predicted (column 0 is 0).

Training uses `fused_token_logps`, which never holds the logits; these are the plain forms, for
small vocabularies and tests.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from rlhf_jax.ops.precision import promote

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before `exp`: exp(20) = 4.9e8, whose square is still finite in
float32."""


def token_logps(logits: Float[Array, "B T V"], tokens: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Log-probability of each token given the ones before it.

        logps[:, t] = log softmax(logits[:, t-1])[tokens[:, t]],   logps[:, 0] = 0

    Divide the logits by the sampling temperature first when the result enters a ratio.

    Args:
      logits: logits[:, t] predicts token t+1; bf16 and f16 are promoted. Gradients flow.
      tokens: token ids in [0, V).

    Returns:
      Log-probabilities, nats, aligned to the token predicted.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import token_logps
      >>> print(token_logps(jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 2]])).round(4))
      [[ 0.     -1.3863 -1.3863]]
    """
    (logits,) = promote(logits)
    taken = jnp.take_along_axis(logits[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
    return _align(taken - jax.nn.logsumexp(logits[:, :-1], axis=-1))


def token_entropy(logits: Float[Array, "B T V"]) -> Float[Array, "B T"]:
    """Entropy of the distribution each token was drawn from.

        H[:, t] = - sum_v p_v log p_v,   p = softmax(logits[:, t-1]),   H[:, 0] = 0

    Summed as p log p: logsumexp - sum(p * logits), which verl uses, loses its digits when logits
    are large.

    Args:
      logits: logits[:, t] predicts token t+1; -inf (a forbidden token) counts as p = 0. Gradients
        flow.

    Returns:
      Entropy, nats, aligned to the token predicted.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import token_entropy
      >>> print(token_entropy(jnp.zeros((1, 2, 4))).round(4))
      [[0.     1.3863]]
    """
    (logits,) = promote(logits)
    logps = jax.nn.log_softmax(logits[:, :-1], axis=-1)
    logps = jnp.where(jnp.isneginf(logps), 0, logps)
    probs = jnp.where(jnp.isneginf(logits[:, :-1]), 0, jnp.exp(logps))
    return _align(-jnp.sum(probs * logps, axis=-1))


def log_ratio(
    logps: Float[Array, "*shape"], other_logps: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The difference of log-probabilities, clamped to +-20 so that its `exp` stays finite.

        d = clip(logps - other_logps, -20, 20)

    The papers have no clamp; verl, OpenRLHF and Tunix clamp to +-20, TRL does not. Beyond the clamp
    the gradient is 0: one token whose probability changed by e^20 is a fault of the sampler or of
    the data, not a direction to follow.

    Args:
      logps: log π, nats. Gradients flow.
      other_logps: log-probabilities of the other policy, nats; not differentiated.

    Returns:
      d, nats.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import log_ratio
      >>> print(log_ratio(jnp.array([-1.0, -1.0]), jnp.array([-2.0, -51.0])))
      [ 1. 20.]
    """
    logps, other_logps = promote(logps, other_logps)
    return jnp.clip(logps - lax.stop_gradient(other_logps), -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _align(x: Float[Array, "B S"]) -> Float[Array, "B T"]:
    """Puts a column of zeros first."""
    return jnp.pad(x, ((0, 0), (1, 0)))
