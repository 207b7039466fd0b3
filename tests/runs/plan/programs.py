"""The programs of a run, lowered on abstract arrays for slices of TPUs that are not there.

Call them while `compiling_for` a TPU: which attention, how many layers are unrolled and what the
compiler is told depend on the platform.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.algorithms import (
    DPOConfig,
    SFTConfig,
    make_algorithm,
)
from rlhf_jax.models import ModelConfig, abstract_params, make_model
from rlhf_jax.rollout import SamplingParams
from rlhf_jax.rollout.programs import Settings, Slots, make_programs
from rlhf_jax.runs.offline import jitted
from rlhf_jax.sharding import batch_sharding, infer_shardings, make_mesh, replicated, row_shards
from rlhf_jax.training import (
    OptimizerConfig,
    abstract_sharded_state,
    make_optimizers,
    make_rate,
    make_step,
)
from rlhf_jax.types import PairBatch, TokenBatch
from tests.topologies import absent_devices

_QWEN = dict(model_type="qwen2", rms_norm_eps=1e-6, rope_theta=1e6, max_position_embeddings=32768)
_LLAMA = dict(model_type="llama", rms_norm_eps=1e-5, rope_theta=5e5, max_position_embeddings=8192)


def _shape(family, width, layers, heads, kv_heads, inner, vocabulary, **more):
    return family | dict(
        hidden_act="silu",
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        **more,
    )


MODELS = {
    # Two layers of the 8B model: of much smaller ones gradients are summed whole, several in one.
    "llama-small": _shape(_LLAMA, 4096, 2, 32, 8, 14336, 32768),
    # Two layers of Qwen2.5-7B, with its whole vocabulary.
    "qwen-small": _shape(_QWEN, 3584, 2, 28, 4, 18944, 152064),
}
ALGORITHMS = {
    "sft": SFTConfig(),
    "dpo": DPOConfig(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A program to compile."""

    topology: str = "v6e:8x8"
    mesh: tuple[tuple[str, int], ...] = (("data", 4), ("fsdp", 16))
    model: str = "llama-small"
    depth: int | None = None
    algorithm: str = "sft"
    rows: int = 256
    length: int = 2048
    micro: int = 4
    remat: str = "full"
    layers: str = "auto"
    attention: str = "auto"
    moments: str = "float32"
    scored: int | None = None
    prompt: int = 512
    new: int = 1024
    chunk: int = 16
    slots: int = 512


def mesh_of(case):
    return make_mesh(dict(case.mesh), devices=absent_devices(case.topology))


def config_of(case):
    depth = {} if case.depth is None else {"num_hidden_layers": case.depth}
    return ModelConfig.from_hf(MODELS[case.model] | depth)


def placed(tree, mesh):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree,
        infer_shardings(tree, mesh),
    )


def _model(case, mesh, head=None):
    return make_model(
        config_of(case),
        mesh=mesh,
        head=head,
        compute_dtype="bfloat16",
        remat=case.remat,
        layers=case.layers,
        attention=case.attention,
    )


def _batch(case, mesh):
    """A batch of abstract rows."""

    def row(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((case.rows, *shape), dtype, sharding=batch_sharding(mesh))

    length = case.length
    scored = None if case.scored is None else (case.scored,)
    if case.algorithm == "sft":
        mask = row(length, dtype=bool)
        return TokenBatch(row(length), mask, mask, scored=scored and row(*scored))
    mask = row(2, length, dtype=bool)
    return PairBatch(
        row(2, length),
        mask,
        mask,
        row(dtype=bool),
        scored=scored and row(2, *scored),
        ref_logps=row(2, dtype=jnp.float32),
    )


def _parts(case, mesh):
    """(algorithm, abstract trees by role, trained roles)."""
    section = ALGORITHMS[case.algorithm]
    trained = section.models.trained
    model = _model(case, mesh)
    trees = {}
    roles = []
    for role, tree in trained.items():
        trees[role] = placed(abstract_params(config_of(case), tree.head, "float32"), mesh)
        if role != "policy":
            roles.append((role, _model(case, mesh, tree.head or "reward")))
    algorithm = make_algorithm(section, model._replace(roles=tuple(roles)))
    return algorithm, trees, trained


def lower_update(case):
    """The update of a run."""
    mesh = mesh_of(case)
    algorithm, trees, trained = _parts(case, mesh)
    rule = OptimizerConfig(moment_dtype=case.moments)
    tx = make_optimizers(rule, trained, total_steps=1000)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, shardings = abstract_sharded_state(trees, tx, key, mesh=mesh, aux=dict(algorithm.aux))
    update = make_step(
        algorithm,
        tx,
        num_microbatches=case.micro,
        mesh=mesh,
        learning_rate=make_rate(rule, trained, total_steps=1000),
    )
    step = jitted(update, shardings=(shardings, replicated(mesh)))
    return step.lower(state, {}, _batch(case, mesh))


def lower_rollout(case, part="chunk"):
    """A program of a rollout: "chunk", sixteen tokens of every slot; "prefill", a quarter of the
    prompts; "whole", the completions from start to end."""
    mesh = mesh_of(case)
    model = _model(case, mesh)
    params = placed(abstract_params(config_of(case), None, "bfloat16"), mesh)
    settings = Settings(
        mesh=mesh,
        max_new_tokens=case.new,
        eos_ids=(2,),
        pad_id=0,
        group_size=8,
        buckets=(case.prompt,),
        slots=case.slots,
        chunk=case.chunk,
        shards=row_shards(mesh),
    )
    programs = make_programs(model, settings)

    def host(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct(shape, dtype)

    def pinned(cache):
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            cache,
            cache.shardings(mesh),
        )

    prompts = case.slots // 8
    key = jax.eval_shape(lambda: jax.random.key(0))
    draws = (key, SamplingParams(1.0, 1.0, 0, 0.0))
    steps = ("sample",)
    tokens = host(prompts, case.prompt)
    if part == "whole":
        limits = host(case.slots)
        return programs.whole.lower(params, tokens, host(prompts), limits, *draws, steps=steps)
    pool = pinned(jax.eval_shape(lambda p, t: programs.empty_pool(p, t, prompts), params, tokens))
    if part == "prefill":
        read = (host(prompts // 4, case.prompt), host(prompts // 4))
        return programs.prefill.lower(params, pool, *read, 0, *draws, steps=steps)
    ring = pinned(jax.eval_shape(lambda pool: programs.empty(pool, case.slots, case.new), pool))
    slots = Slots(*(host(case.slots) for _ in range(6)), host(case.slots, dtype=bool))
    return programs.chunk.lower(params, pool, ring, 0, slots, *draws, steps=steps)
