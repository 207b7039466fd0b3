"""What a layer keeps of its forward pass for the backward pass; the rest is computed again.

Matrix products and attention are dear to compute again, and what lies between them (norms,
activations, rotations, casts) costs less to compute again than to write and to read. They are named
where they are made (`checkpoint_name` in `modules` and `attention`), and the policies choose by
name.
"""

import functools
import logging
import math
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.sharding.mesh import BATCH_AXES
from rlhf_jax.target import agreed_memory, own_memory, target_memory

_POLICIES = jax.checkpoint_policies
_ATTENTION = ("attention", "attention_lse")
POLICIES: dict[str, Any] = {
    "none": None,
    "products": _POLICIES.save_only_these_names("product", *_ATTENTION),
    "dots": _POLICIES.dots_saveable,
    "dots_no_batch": _POLICIES.dots_with_no_batch_dims_saveable,
    "save_attention": _POLICIES.save_only_these_names(*_ATTENTION),
    "full": _POLICIES.nothing_saveable,
}
"""Name -> policy of `jax.checkpoint`."""
REMAT = ("auto", *POLICIES)

ACTIVATIONS = 4
"""`choose` gives all layers together one part in so many of a device's memory: the rest is for
parameters, gradients and moments, the head and the buffers of the compiler."""

_FEW = 16
"""Layers."""
_OF_PRODUCTS = {"none": 3.2, "dots": 1.3, "dots_no_batch": 0.85}
"""What policies that do not choose by name keep, as a multiple of "products": 3.1 to 3.9, 1.25 to
1.4 and 0.8 to 0.9 of qwen3, gemma2, gpt2 and SmolLM2."""

_log = logging.getLogger(__name__)


def choose(
    config: ModelConfig, shape: tuple[int, int], itemsize: int, *, mesh: Mesh | None, unrolled: bool
) -> str:
    """What "auto" means for one shape of rows.

    Few unrolled layers keep everything, which costs no copy into a stack of all layers. Otherwise
    "products", and where those are more than a quarter of a device's memory "save_attention", then
    "full". Only the size of the memory is read, not what is free: on the same machine a run that
    goes on makes the same choice.

    Args:
      config: the architecture.
      shape: rows and tokens, over all devices.
      itemsize: bytes of an activation.
      mesh: that rows and heads are divided over; None: one device.
      unrolled: whether the layers are.

    Returns:
      A key of `POLICIES`.
    """
    if unrolled and config.num_layers <= _FEW:
        return "none"
    room = device_memory(mesh)
    kept = {
        name: kept_bytes(name, config, shape, itemsize, mesh=mesh)
        for name in ("products", "save_attention")
    }
    name = next((name for name, size in kept.items() if size <= room / ACTIVATIONS), "full")
    _tell(name, shape, config.num_layers, kept.get(name))
    return name


def kept_bytes(
    name: str, config: ModelConfig, shape: tuple[int, int], itemsize: int, *, mesh: Mesh | None
) -> int:
    """Bytes that all layers keep on one device.

    Args:
      name: a key of `POLICIES`. Exact of "products", "save_attention" and "full"; of the others an
        estimate.
      config: the architecture.
      shape: rows and tokens, over all devices.
      itemsize: bytes of an activation.
      mesh: that rows and heads are divided over.
    """
    if name in _OF_PRODUCTS:
        products = kept_bytes("products", config, shape, itemsize, mesh=mesh)
        return round(_OF_PRODUCTS[name] * products)
    sizes = {} if mesh is None else dict(mesh.shape)
    rows = -(-math.prod(shape) // math.prod(sizes.get(axis, 1) for axis in BATCH_AXES))
    attention = config.num_heads * (config.head_dim + 1)
    products = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    products += config.intermediate_size * (2 if config.gated_mlp else 1)
    # Of a token: what is divided over `tensor`, and what every device of it holds whole.
    divided = {"products": attention + products, "save_attention": attention}.get(name, 0)
    # The layer's input; of the products attention's, and the MLP's where a norm reads it.
    whole = config.hidden_size
    if name == "products":
        whole += config.hidden_size * (2 if config.post_norms else 1)
    of_token = -(-divided // sizes.get("tensor", 1)) + whole
    return config.num_layers * rows * of_token * itemsize


def device_memory(mesh: Mesh | None) -> float:
    """Bytes of one device, those of CPUs shared by all; infinite where it does not say. The same in
    all processes of a run.

    Args:
      mesh: that it is one of; None: the first device.
    """
    for known in (target_memory(), agreed_memory()):
        if known is not None:
            return known
    return own_memory(jax.devices()[0] if mesh is None else mesh.devices.flat[0])


@functools.cache  # a model is traced for many purposes: once is enough
def _tell(name: str, shape: tuple[int, int], layers: int, kept: int | None) -> None:
    size = "" if kept is None else f", which keep {kept / 1e9:.2f} GB a device"
    _log.info("remat=auto: %s for %d layers of %d x %d tokens%s", name, layers, *shape, size)
