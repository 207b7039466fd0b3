"""Float promotion: bf16 and f16 become float32, float64 stays float64."""

from typing import TypeAlias

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Scalar: TypeAlias = float | Float[Array, ""]
"""A coefficient: a Python number, or a traced scalar (a schedule, or `vmap` over settings)."""


def promote(*arrays: ArrayLike) -> tuple[Array, ...]:
    """All arrays in one float type: float64 if any of them is, else float32.

    Losses, advantages and KL estimates are sums of differences of nearly equal numbers: bf16 has 8
    bits for them.

    Args:
      arrays: any dtype (integers too), any shape. Gradients flow through.

    Returns:
      The arrays in float32 or float64.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops.precision import promote
      >>> x, y = promote(jnp.ones(2, jnp.bfloat16), jnp.arange(2))
      >>> print(x.dtype, y.dtype)
      float32 float32
    """
    cast = [jnp.asarray(x) for x in arrays]
    dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in cast) else jnp.float32
    return tuple(x.astype(dtype) for x in cast)


def default_float() -> jnp.dtype:
    """The float type where no float input decides: float32, or float64 under `jax.enable_x64`.

    Returns:
      The dtype.

    Example:
      >>> from rlhf_jax.ops.precision import default_float
      >>> print(default_float())
      float32
    """
    return jnp.zeros(()).dtype
