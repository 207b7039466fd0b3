"""From a configuration to `Model`, a NamedTuple of pure functions of a nested dict of arrays.

`make_model` is the whole public face of a decoder: it merges parameters with the graphs of
`modules` inside of traced functions, and everything outside sees arrays only. `init_model` draws
fresh weights, each from a key that its name decides.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.decode import make_decode, make_lay_out, make_prefill
from rlhf_jax.models.modules import Block, EmbeddingAndHead
from rlhf_jax.models.transformer import Execution, make_hidden, merge_outer
from rlhf_jax.ops.fused import fused_token_stats
from rlhf_jax.sharding import constrain, infer_shardings
from rlhf_jax.types import Key, Model, Params, Reading

HEADS = (None, "reward", "value")


def make_model(
    config: ModelConfig,
    *,
    mesh: Mesh | None = None,
    compute_dtype: str | None = None,
    remat: str = "auto",
    layers: str = "auto",
    attention: str = "auto",
    head: str | None = None,
    context: int | None = None,
) -> Model:
    """The pure functions of a decoder, without parameters.

    Args:
      config: the architecture.
      mesh: device mesh that activations are pinned to; None outside one.
      compute_dtype: "float32" or "bfloat16": activations and kernels at use; None: the dtype of the
        parameters. Norms, RoPE, softmax and the statistics of the logits are float32 in any case.
      remat: what layers keep for the backward pass: "none" (everything), "full" (only their input),
        "products", "dots", "dots_no_batch", "save_attention"; "auto": see `models.remat.choose`.
      layers: "scan", "unroll" or "auto".
      attention: implementation of attention, see `rlhf_jax.models.attention`.
      head: None; "reward": a scalar model without a language-model head (as
        `...ForSequenceClassification`); "value": a scalar head beside the language-model head, if
        the configuration has one.
      context: longest row in tokens that the model is to read, prompt and completion together: what
        longrope and dynamic NTK are set for (`rlhf_jax.models.rope` says why it is one number and
        not the width of a batch). None: the longest position of the configuration, as vLLM's
        `max_model_len`. Other scalings do not read it.

    Returns:
      The model; `model.config.lm_head` is False for a reward model.

    Raises:
      ValueError: an unknown name, or a scalar configuration (`lm_head=False`) without a head.
    """
    execution = Execution(
        mesh=mesh,
        compute_dtype=compute_dtype,
        remat=remat,
        layers=layers,
        attention=attention,
        context=context,
    )
    config = _with_head(config, head)
    outer_graph, block = _graphs(config, head is not None)
    hidden = make_hidden(config, execution, outer_graph, block)
    table = _make_table(config, mesh)

    def logits(params: Params, tokens: Array, mask: Array, **documents: Any) -> Array:
        _check_predicts(config)
        return unembed_with(params, hidden(params, tokens, mask, **documents), None)

    def unembed(
        state: Float[Array, "B T D"], kernel: Array, over: str | None
    ) -> Float[Array, "B T V"]:
        wide = jnp.promote_types(state.dtype, jnp.float32)
        raw = jnp.einsum("btd,vd->btv", state, kernel, preferred_element_type=wide)
        raw = constrain(raw, mesh, ("batch", "seq", over))
        cap = config.logits_softcap
        return raw if cap is None else cap * jnp.tanh(raw / cap)

    def unembed_with(
        params: Params, state: Array, over: str | None = "logits"
    ) -> Float[Array, "B T V"]:
        return unembed(state, table(params, state.dtype), over)

    read = _make_read(config, mesh, outer_graph, hidden, table)

    def token_logps(
        params: Params, tokens: Array, mask: Array, *, top: bool = False, **options: Any
    ) -> tuple[Any, ...]:
        found = read(params, tokens, mask, top=top, **options)
        return found[:3] if top else found[:2]

    def scores(params: Params, tokens: Array, mask: Array, **documents: Any) -> Array:
        state = hidden(params, tokens, mask, **documents)
        return merge_outer(outer_graph, params).score(state)

    prefill = decode = lay_out = None
    if config.lm_head:
        parts = (config, execution, outer_graph, block, unembed_with)
        prefill = make_prefill(*parts)
        decode = make_decode(*parts)
        lay_out = make_lay_out(config, execution)
    head_scores = None if head is None else scores
    functions = (config, hidden, logits, token_logps, head_scores, prefill, decode)
    return Model(*functions, lay_out=lay_out, tells_top=True, read=read)


def _check_predicts(config: ModelConfig) -> None:
    if not config.lm_head:
        raise ValueError(
            "this model has a scalar head and no language-model head; load it with head=None or "
            "head='value'"
        )


def _make_read(
    config: ModelConfig,
    mesh: Mesh | None,
    outer_graph: nnx.GraphDef,
    hidden: Callable[..., Array],
    table: Callable[[Params, jnp.dtype], Float[Array, "V D"]],
) -> Callable[..., Reading]:
    """Builds `Model.read`, one pass for both heads."""

    def read(
        params: Params,
        tokens: Array,
        mask: Array,
        *,
        logps: bool = True,
        values: bool = False,
        scored: Array | None = None,
        temperature: float = 1.0,
        entropy: bool = True,
        top: bool = False,
        **documents: Any,
    ) -> Reading:
        tokens, mask = map(jnp.asarray, (tokens, mask))
        if logps:
            _check_predicts(config)
        # No more is computed than is scored; where that is everything, nothing needs to be picked.
        picked = None
        if scored is not None and scored.shape[1] < tokens.shape[1]:
            picked = scored
        columns = None if picked is None else jnp.maximum(picked - 1, 0)
        state = hidden(params, tokens, mask, columns=columns, **documents)
        found: dict[str, Array | None] = {}
        if logps:
            stats = fused_token_stats(
                state,
                table(params, state.dtype),
                tokens,
                temperature=temperature,
                softcap=config.logits_softcap,
                scored=scored,
                mesh=mesh,
                entropy=entropy,
                top=top,
                gathered=picked is not None,
            )
            found = stats._asdict()
        if values:
            scores = merge_outer(outer_graph, params).score(state)
            found["values"] = _one_later(scores, picked, tokens.shape[1])
        known = _predictable(mask, documents.get("segment_ids"))
        return Reading(
            **{
                name: each if each is None else jnp.where(known, each, 0.0)
                for name, each in found.items()
            }
        )

    return read


def _make_table(
    config: ModelConfig, mesh: Mesh | None
) -> Callable[[Params, jnp.dtype], Float[Array, "V D"]]:
    """(parameters, dtype) -> the table that states are multiplied with."""
    name, leaf = ("embed", "embedding") if config.tie_embeddings else ("unembed", "kernel")

    def table(params: Params, dtype: jnp.dtype) -> Float[Array, "V D"]:
        cast = params[name][leaf].astype(dtype)
        # Pinned as it is stored: it is gathered in the type that is computed in. Compilers for GPUs
        # else gather first and cast then.
        return constrain(cast, mesh, ("vocab", None)) if _divides(config, mesh) else cast

    return table


def _divides(config: ModelConfig, mesh: Mesh | None) -> bool:
    """Whether the vocabulary is divided over a mesh as rules have it."""
    return mesh is not None and config.vocab_size % (mesh.shape["tensor"] * mesh.shape["fsdp"]) == 0


def abstract_params(config: ModelConfig, head: str | None = None, dtype: str = "float32") -> Params:
    """Shapes and dtypes of the parameters, nothing allocated.

    Args:
      config: the architecture.
      head: as for `make_model`.
      dtype: of every leaf.

    Returns:
      Nested dict of `jax.ShapeDtypeStruct`; leaves under "layers" lead with the layer axis.
    """
    outer_graph, block = _abstract(_with_head(config, head), head is not None)

    def struct(lead: tuple[int, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(lead + leaf.shape, jnp.dtype(dtype))

    tree = jax.tree.map(lambda leaf: struct((), leaf), _plain(nnx.state(outer_graph)))
    tree["layers"] = jax.tree.map(
        lambda leaf: struct((config.num_layers,), leaf), _plain(nnx.state(block))
    )
    return tree


def init_model(
    config: ModelConfig,
    key: Key,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    replicate: Sequence[str] = (),
    compute_dtype: str | None = None,
    remat: str = "auto",
    layers: str = "auto",
    attention: str = "auto",
    head: str | None = None,
    context: int | None = None,
) -> tuple[Model, Params]:
    """A model with fresh weights: normal of `config.initializer_range`, norms 1, biases and head 0.

    Args:
      config: the architecture.
      key: every parameter draws from this key and its own name, so one more head changes no other
        value.
      dtype: of the parameters.
      mesh: parameters are created in shards on it.
      replicate: names of parameters to keep whole on every device, see
        `rlhf_jax.sharding.infer_shardings`.
      compute_dtype, remat, layers, attention, head, context: as for `make_model`.

    Returns:
      (model, params).
    """
    model = make_model(
        config,
        mesh=mesh,
        compute_dtype=compute_dtype,
        remat=remat,
        layers=layers,
        attention=attention,
        head=head,
        context=context,
    )
    structs = abstract_params(config, head, dtype)
    shardings = (
        jax.tree.map(lambda _: None, structs)
        if mesh is None
        else infer_shardings(structs, mesh, replicate=replicate)
    )

    def value(
        path: tuple[Any, ...], struct: jax.ShapeDtypeStruct, sharding: NamedSharding | None
    ) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith(("scale", "bias")) or name == "score/kernel":
            one = name.endswith("scale") and config.norm != "rms_plus_one"
            return jnp.full(struct.shape, float(one), struct.dtype, device=sharding)
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return _normal(
            own, config.initializer_range, shape=struct.shape, dtype=struct.dtype, sharding=sharding
        )

    return model, jax.tree_util.tree_map_with_path(value, structs, shardings)


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "sharding"))
def _normal(
    key: Key,
    deviation: float,
    *,
    shape: tuple[int, ...],
    dtype: Any,
    sharding: NamedSharding | None,
) -> Array:
    """One parameter; one small program per shape compiles far faster than one program for all."""
    drawn = (deviation * jax.random.normal(key, shape, jnp.float32)).astype(dtype)
    return drawn if sharding is None else jax.lax.with_sharding_constraint(drawn, sharding)


def _one_later(scores: Array, scored: Array | None, width: int) -> Float[Array, "B T"]:
    """What was read at a token, in the column of the token after it.

    Args:
      scores: [B, T], or [B, S] of the tokens before `scored`.
      scored: columns [B, S]; -1 is filler.
      width: T.
    """
    if scored is None:
        return jnp.pad(scores[:, :-1], ((0, 0), (1, 0)))
    spread = jax.vmap(lambda v, c: jnp.zeros(width, v.dtype).at[c].set(v, mode="drop"))
    return spread(scores, jnp.where(scored >= 1, scored, width))


def _predictable(mask: Array, segment_ids: Array | None) -> Array:
    """Present tokens that have a token before them in their own document."""
    follows = mask[:, :-1] if segment_ids is None else segment_ids[:, 1:] == segment_ids[:, :-1]
    return mask & jnp.concatenate([jnp.zeros_like(mask[:, :1]), follows], axis=1)


def _with_head(config: ModelConfig, head: str | None) -> ModelConfig:
    if head not in HEADS:
        raise ValueError(
            f"head={head!r} is unknown; allowed: {', '.join(str(name) for name in HEADS)}"
        )
    if head is None and not config.lm_head:
        raise ValueError(
            "the configuration is that of a scalar model (...ForSequenceClassification); pass "
            "head='reward'"
        )
    return dataclasses.replace(config, lm_head=False) if head == "reward" else config


def _abstract(config: ModelConfig, scalar_head: bool) -> tuple[Any, Any]:
    with nnx.use_eager_sharding(False):
        return nnx.eval_shape(
            lambda: EmbeddingAndHead(config, scalar_head=scalar_head)
        ), nnx.eval_shape(lambda: Block(config))


def _graphs(config: ModelConfig, scalar_head: bool) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    outer_graph, block = _abstract(config, scalar_head)
    return nnx.split(outer_graph)[0], nnx.split(block)[0]


def _plain(state: Any) -> dict[str, Any]:
    """An NNX state as a plain nested dict of its values."""
    return {
        name: _plain(item) if hasattr(item, "items") else item.get_value()
        for name, item in state.items()
    }
