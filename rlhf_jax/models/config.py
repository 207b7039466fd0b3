"""The architecture of a decoder as one frozen, hashable record, from and to config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_jax.models.families import FAMILIES, family_of
from rlhf_jax.models.reader import ModelConfigError
from rlhf_jax.models.rope import RopeConfig

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
NORMS = ("rms", "rms_plus_one", "layer")
LAYER_TYPES = ("full", "sliding")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that the forward pass depends on.

    Attributes:
      family: `model_type` of config.json, a key of `FAMILIES`.
      vocab_size: rows of the embedding.
      hidden_size: width of the residual stream.
      num_layers: decoder blocks.
      num_heads: query heads.
      num_kv_heads: key/value heads; divides `num_heads`.
      head_dim: width of a head.
      intermediate_size: width of the MLP.
      max_position: longest position the model was made for (the number of learned positions of
        GPT-2).
      activation: one of `ACTIVATIONS`.
      gated_mlp: ``down(act(gate(x)) * up(x))`` rather than ``down(act(up(x)))``.
      norm: "rms", "rms_plus_one" (Gemma: the weight is stored minus one) or "layer" (mean, variance
        and bias).
      norm_eps: added to the variance.
      qkv_bias: biases on queries, keys and values.
      o_bias: bias on the attention output.
      mlp_bias: biases on the MLP.
      qk_norm: RMS norm of every query and key head before RoPE.
      post_norms: norms on the outputs of attention and MLP too (Gemma 2 and 3).
      tie_embeddings: the unembedding is the embedding.
      lm_head: False for a scalar model (`...ForSequenceClassification`): there is no unembedding.
      scale_embeddings: embeddings are multiplied by ``sqrt(hidden_size)``.
      query_scalar: scores are divided by its square root; None: `head_dim`.
      attention_softcap: ``cap * tanh(score / cap)`` on attention scores.
      logits_softcap: the same on the logits.
      sliding_window: tokens that a query of a "sliding" layer sees, itself included.
      layer_types: "full" or "sliding" per layer.
      rope: rotary embedding; None: learned positions (GPT-2).
      local_rope: rotary embedding of sliding layers where it differs (Gemma 3).
      initializer_range: standard deviation of fresh weights.
      bos_token_id, eos_token_id, pad_token_id: carried from config.json to config.json; the maths
        does not use them.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position: int
    activation: str = "silu"
    gated_mlp: bool = True
    norm: str = "rms"
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    tie_embeddings: bool = False
    lm_head: bool = True
    scale_embeddings: bool = False
    query_scalar: float | None = None
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    sliding_window: int | None = None
    layer_types: tuple[str, ...]
    rope: RopeConfig | None
    local_rope: RopeConfig | None = None
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "intermediate_size",
        )
        for name in (*sizes, "max_position"):
            value = self.__dict__[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelConfigError(f"{name}={value!r} must be a positive integer")
        for name, allowed in (
            ("activation", ACTIVATIONS),
            ("norm", NORMS),
            ("family", tuple(FAMILIES)),
        ):
            if self.__dict__[name] not in allowed:
                raise ModelConfigError(
                    f"{name}={self.__dict__[name]!r} is unknown; allowed: {', '.join(allowed)}"
                )
        if self.num_heads % self.num_kv_heads:
            raise ModelConfigError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}"
            )
        if len(self.layer_types) != self.num_layers:
            raise ModelConfigError(
                f"layer_types names {len(self.layer_types)} layers, but there are {self.num_layers}"
            )
        for kind in self.layer_types:
            if kind not in LAYER_TYPES:
                raise ModelConfigError(
                    f"layer type {kind!r} is not supported; allowed: {', '.join(LAYER_TYPES)}"
                )
        if "sliding" in self.layer_types and (
            self.sliding_window is None or self.sliding_window < 1
        ):
            raise ModelConfigError(
                f"sliding_window={self.sliding_window!r} must be a positive integer: there are "
                "sliding layers"
            )
        for rope in (self.rope, self.local_rope):
            _check_rope(rope, self.head_dim)

    @property
    def attention_scale(self) -> float:
        """Factor on the products of queries and keys."""
        return float(self.head_dim if self.query_scalar is None else self.query_scalar) ** -0.5

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Reads the contents of config.json, in the style of transformers 4 or 5.

        Args:
          config: the parsed JSON. Only `model_type` and the sizes are required; the rest has the
            family's defaults.

        Raises:
          ModelConfigError: an unsupported architecture (the message lists the supported ones), a
            missing size, or a key that changes the maths in a way that is not supported; the
            message names it.
        """
        try:
            family = family_of(config)
            return cls(**family.read(config))
        except ModelConfigError:
            raise
        except (
            TypeError,
            AttributeError,
            KeyError,
            ValueError,
            OverflowError,
            MemoryError,
        ) as error:
            # config.json is a stranger's: a value of another type than a reader expects must not
            # end in a traceback.
            raise ModelConfigError(
                f"config.json holds a value of the wrong kind ({type(error).__name__}: {error})"
            ) from None

    def to_hf(self) -> dict[str, Any]:
        """The contents of config.json: transformers 5 style, with the keys of 4 beside them.

        ``ModelConfig.from_hf(config.to_hf()) == config``.
        """
        family = FAMILIES[self.family]
        return {
            "architectures": [family.causal if self.lm_head else family.classifier],
            **family.write(vars(self)),
        }


def _check_rope(rope: RopeConfig | None, head_dim: int) -> None:
    if rope is None:
        return
    dim = rope.rotary_dim(head_dim)
    if dim < 2 or dim % 2:
        raise ModelConfigError(
            f"head_dim={head_dim} has {dim} rotated dimensions, which must be an even number, 2 at "
            "least: give an even head_dim; without the key it is the width over the number of heads"
        )
    for key, value in rope.scaling:
        if key in ("short_factor", "long_factor") and (
            not isinstance(value, tuple) or len(value) != dim // 2
        ):
            raise ModelConfigError(
                f"RoPE parameter {key} must list {dim // 2} numbers, got {value!r}"
            )
