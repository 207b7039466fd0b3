"""Adafactor's two rules on parameters that are stacked over layers.

Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) factors the second moment of a *matrix*
(section 3) and bounds the root mean square of its update (section 6). Here the parameters of all
layers are one array with a leading layer axis, so both rules run for every layer by itself: how
parameters are stored changes no result, and a spike in one layer holds back that layer alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from rlhf_jax.types import Params

STACKED = "layers"
"""Parameters below this name lead with the layer axis."""


def scale_by_layer_factored_rms() -> optax.GradientTransformation:
    """`optax.scale_by_factored_rms` of every layer alone.

    Without this a stack of norms [layers, width] would be factored as if it were a matrix, once
    there are 128 layers.

    Returns:
      A gradient transformation; its state is an `optax.FactoredState` whose moments lead with the
      layer axis where the parameters do.
    """
    rule = optax.scale_by_factored_rms()

    def init(params: Params) -> optax.FactoredState:
        def one(path: Any, param: Array) -> optax.FactoredState:
            if not _is_stacked(path):
                return rule.init(param)
            layer = jax.eval_shape(rule.init, jax.ShapeDtypeStruct(param.shape[1:], param.dtype))
            return jax.vmap(rule.init, out_axes=_axes(layer, param.shape[1:]))(param)

        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        return _joined(jnp.zeros([], jnp.int32), [one(*item) for item in leaves], structure)

    def update(
        updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, optax.FactoredState]:
        # the rule would read their shapes and dtypes only, which are those of the gradients
        del params

        def one(
            path: Any, grad: Array, own: optax.FactoredState
        ) -> tuple[Array, optax.FactoredState]:
            def step(grad: Array, own: optax.FactoredState) -> tuple[Array, optax.FactoredState]:
                return rule.update(grad, own, grad)

            if not _is_stacked(path):
                return step(grad, own)
            layer = jax.eval_shape(rule.init, jax.ShapeDtypeStruct(grad.shape[1:], grad.dtype))
            axes = _axes(layer, grad.shape[1:])
            return jax.vmap(step, in_axes=(0, axes), out_axes=(0, axes))(grad, own)

        structure: Any  # jax's type of it has no methods for a checker
        leaves, structure = jax.tree_util.tree_flatten_with_path(updates)
        moments = [structure.flatten_up_to(tree) for tree in (state.v_row, state.v_col, state.v)]
        owns = [optax.FactoredState(state.count, *parts) for parts in zip(*moments, strict=True)]
        moved, states = zip(
            *[one(path, grad, own) for (path, grad), own in zip(leaves, owns, strict=True)],
            strict=True,
        )
        return structure.unflatten(moved), _joined(
            optax.safe_increment(state.count), list(states), structure
        )

    return optax.GradientTransformation(init, update)


def clip_by_layer_rms(threshold: float) -> optax.GradientTransformation:
    """Scales the update of a matrix or vector down to a root mean square of `threshold`, every
    layer's by itself.

    Args:
      threshold: d of arXiv:1804.04235, section 6.
    """

    def clip(path: Any, update: Array) -> Array:
        axes = tuple(range(int(_is_stacked(path)), update.ndim))
        rms = jnp.sqrt(jnp.mean(jnp.square(update), axis=axes, keepdims=True))
        return update / jnp.maximum(1.0, rms / threshold)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        del params
        return jax.tree_util.tree_map_with_path(clip, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_stacked(path: Any) -> bool:
    return STACKED in jax.tree_util.keystr(path, simple=True, separator="/").split("/")


def _axes(layer: optax.FactoredState, shape: tuple[int, ...]) -> optax.FactoredState:
    """Which moments of one layer have a layer axis: all but the count and optax's placeholders of
    shape (1,)."""
    placeholder = (1,)
    v_row, v_col = (
        None if moment.shape == placeholder else 0 for moment in (layer.v_row, layer.v_col)
    )
    return optax.FactoredState(None, v_row, v_col, 0 if layer.v.shape == shape else None)


def _joined(count: Array, states: list[optax.FactoredState], structure: Any) -> optax.FactoredState:
    trees = [structure.unflatten([state[index] for state in states]) for index in (1, 2, 3)]
    return optax.FactoredState(count, *trees)
