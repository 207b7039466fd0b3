"""What only a device can show. Skipped where JAX sees no GPU; there:

JAX_PLATFORMS=cuda,cpu python -m pytest tests/gpu -p no:xdist -o addopts=
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.models.attention import attention
from rlhf_jax.rollout import SamplingParams, make_generator
from rlhf_jax.sharding import MeshConfig, make_mesh

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="needs a GPU (JAX_PLATFORMS=cuda,cpu)"
)

SHAPE = dict(
    model_type="qwen2",
    vocab_size=512,
    hidden_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=512,
    max_position_embeddings=512,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)


def arrays(rows, length, width, dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    return [
        jax.random.normal(key, (rows, length, n, width)).astype(dtype)
        for key, n in zip(keys, (6, 2, 2, 6), strict=True)
    ]


def packed(rows, length):
    return jnp.tile(jnp.arange(length) // 91 + 1, (rows, 1))


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(window=100),
        dict(segment_ids=packed(2, 512)),
        dict(segment_ids=packed(2, 512), window=40),
        dict(segment_ids=packed(2, 512), reach=91),
    ],
    ids=lambda options: "+".join(options) or "causal",
)
def test_cudnn_is_the_plain_form_forward_and_backward(options, width):
    def out_and_grads(implementation, dtype):
        *qkv, cotangent = arrays(2, 512, width, dtype)
        with jax.default_matmul_precision("highest"):
            out, back = jax.vjp(
                lambda q, k, v: attention(
                    q, k, v, scale=width**-0.5, implementation=implementation, **options
                ),
                *qkv,
            )
            return [x.astype(jnp.float32) for x in (out, *back(cotangent))]

    exact = out_and_grads("xla", jnp.float32)
    found = out_and_grads("cudnn", jnp.bfloat16)
    for ours, true in zip(found, exact, strict=True):
        error = jnp.linalg.norm(ours - true) / jnp.linalg.norm(true)
        assert error < 1e-2, "bfloat16 operands lie between 1e-3 and 1e-2"


def test_packed_documents_see_nothing_of_one_another():
    q, k, v, _ = arrays(2, 512, 64, jnp.bfloat16)
    ids = packed(2, 512)

    def run(k, v):
        return attention(q, k, v, segment_ids=ids, scale=0.125, implementation="cudnn")

    first = (ids == 1)[..., None, None]
    before = run(k, v).astype(jnp.float32)
    moved = run(jnp.where(first, 7.0, k), jnp.where(first, -3.0, v)).astype(jnp.float32)
    np.testing.assert_array_equal(jnp.where(first, 0, before), jnp.where(first, 0, moved))


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_greedy_tokens_are_the_trainers_best(compute):
    """Sampled by the decoder, judged by the whole forward pass in float32."""
    mesh = make_mesh(MeshConfig())
    model, params = init_model(
        ModelConfig.from_hf(SHAPE), jax.random.key(0), compute_dtype=compute, mesh=mesh
    )
    draw = np.random.default_rng(0)
    lengths = draw.integers(5, 40, 8).astype(np.int32)
    prompts = draw.integers(2, 512, (8, 40)).astype(np.int32)
    prompts = np.where(np.arange(40) < 40 - lengths[:, None], 0, prompts)
    sizes = dict(max_new_tokens=64, eos_ids=(), pad_id=0, group_size=1)
    generator = make_generator(model, mesh=mesh, prompt_buckets=(40,), slots=None, **sizes)
    rollout, _ = generator(
        params, prompts, lengths, jax.random.key(1), SamplingParams(temperature=0.0)
    )
    exact, weights = init_model(ModelConfig.from_hf(SHAPE), jax.random.key(0))
    regrets = []
    for row in range(8):
        ids = rollout.tokens[row][np.asarray(rollout.mask[row])][None]
        with jax.default_matmul_precision("highest"):
            logits = exact.logits(weights, jnp.asarray(ids), jnp.ones_like(ids, bool))
            logps = jax.nn.log_softmax(logits[0].astype(jnp.float32))
        chosen = np.asarray(logps)[np.arange(ids.shape[1] - 1), ids[0, 1:]]
        regrets.append((np.asarray(logps).max(-1)[:-1] - chosen)[-64:])
    assert np.mean(regrets) < (1e-6 if compute == "float32" else 2e-2)
