"""Stored numbers as arrays, and how near ours must come to them."""

import jax.numpy as jnp
import numpy as np


def array(x):
    return jnp.asarray(x, jnp.float32)


def boolean(x):
    return jnp.asarray(x, bool)


def close(got, wanted, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=rtol, atol=atol)
