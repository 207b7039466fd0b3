"""Names and layouts of weights on disk: which slice of which tensor makes up which parameter."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.families import FAMILIES

LAYER = "{layer}"


@dataclass(frozen=True)
class WeightMap:
    """One parameter (of one layer) as a part of one tensor on disk.

    Attributes:
      path: keys of the parameter; below "layers" it stands for every layer.
      name: name of the tensor; `LAYER` is the layer's number.
      dims: for every dimension of the tensor, the axes of the parameter (without the layer axis)
        that are flattened into it.
      axis: dimension of the tensor along which several parameters are joined.
      offset: where this one starts there.
    """

    path: tuple[str, ...]
    name: str
    dims: tuple[tuple[int, ...], ...]
    axis: int = 0
    offset: int = 0

    @property
    def stacked(self) -> bool:
        """Whether the parameter leads with a layer axis."""
        return self.path[0] == "layers"

    def tensor_name(self, layer: int | None) -> str:
        """The tensor's name for one layer."""
        return self.name if layer is None else self.name.replace(LAYER, str(layer))

    def extent(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of this part of the tensor.

        Args:
          shape: of the parameter, without the layer axis.
        """
        return tuple(math.prod(shape[axis] for axis in axes) for axes in self.dims)

    def order(self) -> list[int]:
        """The parameter's axes in the order in which the tensor runs through them."""
        return [axis for axes in self.dims for axis in axes]


_VECTOR = ((0,),)
_SAME = ((0,), (1,))
_SWAPPED = ((1,), (0,))
_HEADS_OUT = ((1, 2), (0,))  # kernel [D, N, H] from torch's [N*H, D]
_HEADS_IN = ((2,), (0, 1))  # kernel [N, H, D] from torch's [D, N*H]
_HEADS_BIAS = ((0, 1),)


def weight_maps(config: ModelConfig, *, scalar_head: bool) -> tuple[WeightMap, ...]:
    """All parts of a checkpoint, in the order of transformers' files.

    Args:
      config: the architecture.
      scalar_head: whether there is `score`.
    """
    head = (WeightMap(("score", "kernel"), "score.weight", ((), (0,))),) if scalar_head else ()
    unembed = (
        (WeightMap(("unembed", "kernel"), "lm_head.weight", _SAME),)
        if config.lm_head and not config.tie_embeddings
        else ()
    )
    return (*LAYOUTS[FAMILIES[config.family].layout](config), *unembed, *head)


def _llama(config: ModelConfig) -> list[WeightMap]:
    layer = f"model.layers.{LAYER}."
    attn = [
        weight_map
        for ours in ("q", "k", "v")
        for weight_map in _linear(
            ("attn", ours),
            f"{layer}self_attn.{ours}_proj",
            _HEADS_OUT,
            _HEADS_BIAS,
            config.qkv_bias,
        )
    ]
    attn += _linear(("attn", "o"), f"{layer}self_attn.o_proj", _HEADS_IN, _VECTOR, config.o_bias)
    mlp = [
        weight_map
        for ours in ("gate", "up", "down")
        for weight_map in _linear(
            ("mlp", ours), f"{layer}mlp.{ours}_proj", _SWAPPED, _VECTOR, config.mlp_bias
        )
    ]
    return [*_rms_ends(), *_rms_norms(config), *attn, *mlp]


def _phi3(config: ModelConfig) -> list[WeightMap]:
    layer = ("layers", "attn")
    qkv = f"model.layers.{LAYER}.self_attn.qkv_proj.weight"
    gate_up = f"model.layers.{LAYER}.mlp.gate_up_proj.weight"
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    return [
        *_rms_ends(),
        *_rms_norms(config),
        WeightMap((*layer, "q", "kernel"), qkv, _HEADS_OUT),
        WeightMap((*layer, "k", "kernel"), qkv, _HEADS_OUT, offset=queries),
        WeightMap((*layer, "v", "kernel"), qkv, _HEADS_OUT, offset=queries + keys),
        WeightMap(
            (*layer, "o", "kernel"), f"model.layers.{LAYER}.self_attn.o_proj.weight", _HEADS_IN
        ),
        WeightMap(("layers", "mlp", "gate", "kernel"), gate_up, _SWAPPED),
        WeightMap(
            ("layers", "mlp", "up", "kernel"), gate_up, _SWAPPED, offset=config.intermediate_size
        ),
        WeightMap(
            ("layers", "mlp", "down", "kernel"),
            f"model.layers.{LAYER}.mlp.down_proj.weight",
            _SWAPPED,
        ),
    ]


def _gpt2(config: ModelConfig) -> list[WeightMap]:
    layer = f"transformer.h.{LAYER}."
    width = config.hidden_size
    parts = [
        WeightMap(("embed", "embedding"), "transformer.wte.weight", _SAME),
        WeightMap(("position", "embedding"), "transformer.wpe.weight", _SAME),
    ]
    for ours, theirs in (("attn_norm", "ln_1"), ("mlp_norm", "ln_2")):
        parts.append(WeightMap(("layers", ours, "scale"), f"{layer}{theirs}.weight", _VECTOR))
        parts.append(WeightMap(("layers", ours, "bias"), f"{layer}{theirs}.bias", _VECTOR))
    for i, ours in enumerate(("q", "k", "v")):  # Conv1D: [in, out]
        path = ("layers", "attn", ours)
        parts.append(
            WeightMap(
                (*path, "kernel"),
                f"{layer}attn.c_attn.weight",
                ((0,), (1, 2)),
                axis=1,
                offset=i * width,
            )
        )
        parts.append(
            WeightMap((*path, "bias"), f"{layer}attn.c_attn.bias", _HEADS_BIAS, offset=i * width)
        )
    parts += _linear(("attn", "o"), f"{layer}attn.c_proj", ((0, 1), (2,)), _VECTOR, True)
    parts += _linear(("mlp", "up"), f"{layer}mlp.c_fc", _SAME, _VECTOR, True)
    parts += _linear(("mlp", "down"), f"{layer}mlp.c_proj", _SAME, _VECTOR, True)
    parts.append(WeightMap(("final_norm", "scale"), "transformer.ln_f.weight", _VECTOR))
    parts.append(WeightMap(("final_norm", "bias"), "transformer.ln_f.bias", _VECTOR))
    return parts


def _linear(
    path: tuple[str, ...],
    name: str,
    kernel: tuple[tuple[int, ...], ...],
    bias: tuple[tuple[int, ...], ...],
    has_bias: bool,
) -> list[WeightMap]:
    parts = [WeightMap(("layers", *path, "kernel"), f"{name}.weight", kernel)]
    return (
        [*parts, WeightMap(("layers", *path, "bias"), f"{name}.bias", bias)] if has_bias else parts
    )


def _rms_ends() -> list[WeightMap]:
    return [
        WeightMap(("embed", "embedding"), "model.embed_tokens.weight", _SAME),
        WeightMap(("final_norm", "scale"), "model.norm.weight", _VECTOR),
    ]


def _rms_norms(config: ModelConfig) -> list[WeightMap]:
    names = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if config.post_norms:
        names |= {"mlp_norm": "pre_feedforward_layernorm"}
        names |= {
            "attn_post_norm": "post_attention_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    layer = f"model.layers.{LAYER}."
    parts = [
        WeightMap(("layers", ours, "scale"), f"{layer}{theirs}.weight", _VECTOR)
        for ours, theirs in names.items()
    ]
    if config.qk_norm:
        for ours in ("q_norm", "k_norm"):
            parts.append(
                WeightMap(
                    ("layers", "attn", ours, "scale"), f"{layer}self_attn.{ours}.weight", _VECTOR
                )
            )
    return parts


LAYOUTS: dict[str, Callable[[ModelConfig], list[WeightMap]]] = {
    "llama": _llama,
    "phi3": _phi3,
    "gpt2": _gpt2,
}
"""`Family.layout` -> the parts of its trunk."""
