"""Rotary position embedding and its scalings (RoFormer, arXiv 2104.09864).

Each pair of dimensions ``(i, i + R/2)`` of a head is rotated by the angle ``position *
inv_freq[i]``, where R is the rotary dimension and ``inv_freq[i] = theta ** (-2i / R)`` unless a
scaling changes it. The formulas of the scalings and their defaults are those of transformers'
`modeling_rope_utils`, which is the reference of the weights.

Two scalings depend on a length: `longrope` has short and long factors, `dynamic` NTK a base that
grows. Here that length is the *context*, one number for a model as it runs
(`make_model(context=...)`), never the width of a batch. Three readings exist:

* transformers looks at the longest row of the batch at hand, padding included, so a row's logits
  depend on its neighbours; decoding across the original length it throws the cache away and reads
  everything again (Phi-3), or mixes two rotations.
* The row's own length would repair the first. But a sampler does not know how long a row will
  become, its cached keys are rotated already when it crosses the original length, and the trainer
  sees the finished row: the two would differ.
* vLLM decides once, by `max_model_len`: longrope uses the long factors when that is beyond the
  original length, for rows of every length. (Its dynamic NTK is fixed too, at ``factor *
  max_position_embeddings``.)

We take vLLM's rule, because it alone gives a row the same log-probabilities in the sampler, the
trainer, the reference and every width. Logits equal those of transformers for a row alone where
both choose the same factors: with a context up to the original length for all rows, beyond it for
longrope on rows beyond it, for dynamic on a row as long as the context.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlhf_jax.errors import RlhfError

_COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_ORIGINAL = "original_max_position_embeddings"
_REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": ("factor", _ORIGINAL),
    "longrope": ("short_factor", "long_factor", _ORIGINAL),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "default": (_ORIGINAL,),
    "linear": (_ORIGINAL,),
    "dynamic": (_ORIGINAL,),
    "llama3": (),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "attention_factor"),
}
ROPE_TYPES = tuple(_REQUIRED)


class RopeError(RlhfError, ValueError):
    """RoPE parameters that cannot be read; the message names the key."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """One rotary embedding: base, scaling and rotary fraction.

    Attributes:
      theta: base wavelength.
      kind: one of `ROPE_TYPES`.
      scaling: the scaling's parameters under their names in config.json, sorted by name; lists are
        tuples.
      rotary_fraction: the leading share of every head that is rotated (Phi-4-mini: 0.75).
      max_position: the model's longest position: the original length of `dynamic`, and the context
        where none is given.
    """

    theta: float
    kind: str = "default"
    scaling: tuple[tuple[str, Any], ...] = ()
    rotary_fraction: float = 1.0
    max_position: int

    @classmethod
    def from_hf(cls, rope: Mapping[str, Any], *, theta: float, max_position: int) -> "RopeConfig":
        """Reads `rope_scaling` (transformers 4) or one dict of `rope_parameters` (transformers 5).

        Args:
          rope: the dict, possibly empty.
          theta: used when the dict has no `rope_theta`.
          max_position: `max_position_embeddings` of the model.

        Raises:
          RopeError: an unknown type, a missing, unknown or malformed parameter.
        """
        kind = rope.get("rope_type", rope.get("type")) or "default"
        if kind not in ROPE_TYPES:
            raise RopeError(
                f"rope_type {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
            )
        given = {
            key: value for key, value in rope.items() if key not in _COMMON and value is not None
        }
        if kind in ("yarn", "llama3", "longrope"):
            given.setdefault(_ORIGINAL, max_position)
        for key in _REQUIRED[kind]:
            if key not in given:
                raise RopeError(
                    f"rope_type {kind!r} needs {key!r}, which config.json does not give"
                )
        for key in sorted(given):
            if key not in _REQUIRED[kind] + _OPTIONAL[kind]:
                raise RopeError(
                    f"RoPE parameter {key}={given[key]!r} is not supported with rope_type {kind!r}"
                )
        for key, value in given.items():
            _check_numbers(key, value)
        scaling = {
            key: tuple(value) if isinstance(value, list | tuple) else value
            for key, value in given.items()
        }
        base = theta if rope.get("rope_theta") is None else rope["rope_theta"]
        if not base > 0:
            raise RopeError(f"rope_theta={base!r} must be positive")
        fraction = rope.get("partial_rotary_factor")
        fraction = 1.0 if fraction is None else float(fraction)
        if not 0 < fraction <= 1:
            raise RopeError(f"partial_rotary_factor={fraction!r} must be above 0 and at most 1")
        return cls(
            theta=float(base),
            kind=kind,
            scaling=tuple(sorted(scaling.items())),
            rotary_fraction=fraction,
            max_position=max_position,
        )

    def to_hf(self) -> dict[str, Any]:
        """The dict of transformers 5 (`rope_parameters`); a fraction of 1 is left out."""
        scaling = {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.scaling
        }
        fraction = (
            {} if self.rotary_fraction == 1.0 else {"partial_rotary_factor": self.rotary_fraction}
        )
        return {"rope_type": self.kind, "rope_theta": self.theta, **scaling, **fraction}

    @property
    def original_length(self) -> int | None:
        """Rows up to which nothing is stretched, in tokens; None: the length does not matter."""
        if self.kind == "longrope":
            return int(dict(self.scaling)[_ORIGINAL])
        return self.max_position if self.kind == "dynamic" else None

    def rotary_dim(self, head_dim: int) -> int:
        """Dimensions of a head that are rotated."""
        return int(head_dim * self.rotary_fraction)


def inverse_frequencies(rope: RopeConfig, head_dim: int, context: int) -> tuple[np.ndarray, float]:
    """Angular frequencies and the factor on cosine and sine.

    Args:
      rope: the embedding.
      head_dim: width of a head.
      context: longest row in tokens that the model is to read, see the top of this module. Beyond
        the original length `dynamic` and `longrope` use the long form for all positions of all
        rows.

    Returns:
      (float32 [rotary_dim / 2], attention factor).
    """
    dim = rope.rotary_dim(head_dim)
    p: dict[str, Any] = dict(rope.scaling)
    theta = rope.theta
    if rope.kind == "dynamic":
        seen = max(context, rope.max_position)
        theta *= (p["factor"] * seen / rope.max_position - (p["factor"] - 1)) ** (dim / (dim - 2))
    wavelengths = np.float32(theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    if rope.kind == "linear":
        return (1.0 / wavelengths / np.float32(p["factor"])).astype(np.float32), 1.0
    if rope.kind == "llama3":
        return _llama3(1.0 / wavelengths, p), 1.0
    if rope.kind == "yarn":
        return _yarn(wavelengths, p, theta, dim), _yarn_attention_factor(p)
    if rope.kind == "longrope":
        stretch = p["long_factor"] if context > p[_ORIGINAL] else p["short_factor"]
        return (1.0 / (np.asarray(stretch, np.float32) * wavelengths)).astype(
            np.float32
        ), _longrope_attention_factor(rope)
    return (1.0 / wavelengths).astype(np.float32), 1.0


def rope_tables(
    rope: RopeConfig, head_dim: int, positions: Int[Array, "B T"], *, context: int | None = None
) -> tuple[Float[Array, "B T R"], Float[Array, "B T R"]]:
    """Cosine and sine for `apply_rope`.

    Args:
      rope: the embedding.
      head_dim: width of a head.
      positions: position of every token; the leading axis may be 1 when all rows count alike.
      context: see `inverse_frequencies`; None: the model's longest position.

    Returns:
      (cos, sin), each float32 [B, T, rotary_dim]; the first half of the sine is negated.
    """
    frequencies, factor = inverse_frequencies(
        rope, head_dim, rope.max_position if context is None else context
    )
    angles = positions.astype(jnp.float32)[:, :, None] * jnp.asarray(frequencies)[None, None, :]
    cos = jnp.cos(angles) * factor
    sin = jnp.sin(angles) * factor
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def apply_rope(x: Float[Array, "B T N H"], tables: tuple[Array, Array]) -> Float[Array, "B T N H"]:
    """Rotates the leading rotary dimensions of every head, in float32.

    Args:
      x: queries or keys; gradients flow.
      tables: from `rope_tables`.

    Returns:
      Same shape and dtype as `x`.
    """
    cos, sin = tables
    rotary = cos.shape[-1]
    if rotary < x.shape[-1]:
        return jnp.concatenate([apply_rope(x[..., :rotary], tables), x[..., rotary:]], axis=-1)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    halves = wide.reshape(*x.shape[:-1], 2, rotary // 2)
    # a reversal fuses into the product; a concatenation does not
    swapped = halves[..., ::-1, :].reshape(x.shape)
    return (wide * cos[:, :, None, :] + swapped * sin[:, :, None, :]).astype(x.dtype)


def _check_numbers(key: str, value: Any) -> None:
    items = value if isinstance(value, list | tuple) else [value]
    lists = key in ("short_factor", "long_factor")
    if isinstance(value, list | tuple) != lists or not all(
        isinstance(item, int | float) for item in items
    ):
        raise RopeError(
            f"RoPE parameter {key}={value!r} must be {'a list of numbers' if lists else 'a number'}"
        )


def _llama3(frequencies: np.ndarray, p: Mapping[str, Any]) -> np.ndarray:
    original = p[_ORIGINAL]
    low = p["low_freq_factor"]
    high = p["high_freq_factor"]
    factor = p["factor"]
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = np.where(wavelengths > original / low, frequencies / factor, between)
    return np.where(wavelengths < original / high, frequencies, scaled).astype(np.float32)


def _yarn(wavelengths: np.ndarray, p: Mapping[str, Any], theta: float, dim: int) -> np.ndarray:
    def correction_dim(rotations: float) -> float:
        return dim * math.log(p[_ORIGINAL] / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = correction_dim(p.get("beta_fast") or 32)
    high = correction_dim(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        low = math.floor(low)
        high = math.ceil(high)
    low = max(low, 0)
    high = min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / ((high - low) or 0.001), 0, 1)
    return (ramp / (p["factor"] * wavelengths) + (1 - ramp) / wavelengths).astype(np.float32)


def _yarn_attention_factor(p: Mapping[str, Any]) -> float:
    def scale(weight: float) -> float:
        return 1.0 if p["factor"] <= 1 else 0.1 * weight * math.log(p["factor"]) + 1.0

    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return scale(p["mscale"]) / scale(p["mscale_all_dim"])
    return scale(1.0)


def _longrope_attention_factor(rope: RopeConfig) -> float:
    p = dict(rope.scaling)
    if "attention_factor" in p:
        return float(p["attention_factor"])
    factor = p.get("factor") or rope.max_position / p[_ORIGINAL]
    return 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(p[_ORIGINAL]))
