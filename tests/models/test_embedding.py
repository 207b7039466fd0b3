"""Token lookup: the same rows and gradients on a mesh; foreign ids are not silent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import make_model
from rlhf_jax.models.adapter import init_model
from rlhf_jax.models.embedding import lookup
from rlhf_jax.runs.plan.collectives import traffic
from rlhf_jax.sharding import AXIS_RULES, batch_sharding, infer_shardings, make_mesh
from tests.models.tiny import tiny

TABLE = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, 16, (8, 5)).astype(np.int32)


MESHES = [
    {"fsdp": 8},
    {"data": 2, "fsdp": 4},
    {"fsdp": 4, "tensor": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 8},
]


@pytest.mark.parametrize("sizes", [None, *MESHES])
def test_rows_and_gradients(sizes):
    mesh = None if sizes is None else make_mesh(sizes)
    weights = jnp.arange(4.0)[None, None, :]
    rows, pull = jax.vjp(jax.jit(lambda table: lookup(table, TOKENS, mesh)), TABLE)
    assert np.array_equal(rows, TABLE[TOKENS])
    counts = np.bincount(TOKENS.ravel(), minlength=16)
    (grads,) = pull(jnp.broadcast_to(weights, rows.shape))
    np.testing.assert_allclose(grads, counts[:, None] * np.arange(4.0), rtol=1e-6)


@pytest.mark.parametrize("sizes", [None, {"fsdp": 4, "tensor": 2}, {"data": 8}])
def test_a_token_outside_the_vocabulary_is_nan(sizes):
    mesh = None if sizes is None else make_mesh(sizes)
    tokens = TOKENS.copy()
    tokens[2, 3] = 16
    rows = np.asarray(jax.jit(lambda table: lookup(table, tokens, mesh))(TABLE))
    assert np.isnan(rows[2, 3]).all() and np.isnan(rows).sum() == 4


def test_a_vocabulary_that_does_not_divide_is_looked_up_whole():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    rows = jax.jit(lambda table: lookup(table, TOKENS % 15, mesh))(TABLE[:15])
    assert np.array_equal(rows, TABLE[:15][TOKENS % 15])


# Divided over tensor and fsdp, where the tokens or the table travel; over tensor alone; whole.
@pytest.mark.parametrize("vocab", [64, 16, 12, 15])
@pytest.mark.parametrize("sizes", MESHES)
def test_gradients_of_repeated_and_foreign_tokens(sizes, vocab):
    """Against a count in NumPy; a token outside the vocabulary has no row to change."""
    table = np.random.default_rng(3).standard_normal((vocab, 4)).astype(np.float32)
    tokens = np.random.default_rng(4).integers(0, vocab, (8, 5)).astype(np.int32)
    tokens[:, 1] = 3
    tokens[1, 2], tokens[2, 4] = vocab, -1
    weights = np.random.default_rng(2).standard_normal((*tokens.shape, 4)).astype(np.float32)
    expected = np.zeros((vocab, 4))
    known = (tokens >= 0) & (tokens < vocab)
    np.add.at(expected, tokens[known], weights[known])

    @jax.jit
    def both(table, tokens, weights):
        rows, pull = jax.vjp(lambda table: lookup(table, tokens, make_mesh(sizes)), table)
        return rows, pull(weights)[0]

    rows, gradient = both(table, tokens, weights)
    np.testing.assert_array_equal(rows[known], table[tokens[known]])
    assert np.isnan(rows[~known]).all()
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [300, 1])
def test_gradients_are_added_up_in_float32(length):
    """The same token again and again in bfloat16: each of them counts, as on one device."""
    tokens = jnp.full((8, length), 5)
    ones = jnp.ones((8, length, 4), jnp.bfloat16)

    def gradient(mesh):
        def rows(table):
            return lookup(table, tokens, mesh, jnp.bfloat16)

        out, pull = jax.vjp(jax.jit(rows), jnp.asarray(TABLE))
        assert out.dtype == jnp.bfloat16
        return np.asarray(pull(ones)[0])

    found = gradient(make_mesh({"data": 2, "fsdp": 4}))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, gradient(None))
    assert (found[5] == 8 * length).all()


def test_one_device_is_a_lookup_and_a_cast():
    """Bit by bit: nothing of the mesh is in it."""

    def plain(table):
        return jnp.take(table, TOKENS, axis=0).astype(jnp.bfloat16)

    mesh = make_mesh({}, devices=jax.devices()[:1])
    cotangent = jax.random.normal(jax.random.key(0), (8, 5, 4)).astype(jnp.bfloat16)
    out, pull = jax.vjp(lambda table: lookup(table, TOKENS, mesh, jnp.bfloat16), TABLE)
    expected, pull_plain = jax.vjp(plain, jnp.asarray(TABLE))
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(pull(cotangent)[0], pull_plain(cotangent)[0])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        # The table over 4; its gradient to shards, and these over 2.
        (
            512,
            {
                ("all-gather", "f32", 512 * 64, 4),
                ("reduce-scatter", "f32", 512 * 64, 4),
                ("all-reduce", "f32", 128 * 64, 2),
            },
        ),
        # Sixteen token numbers over 4; their states back, and the gradients of these.
        (
            4,
            {
                ("all-gather", "s32", 16, 4),
                ("reduce-scatter", "f32", 16 * 64, 4),
                ("all-gather", "f32", 16 * 64, 4),
                ("all-reduce", "f32", 128 * 64, 2),
            },
        ),
    ],
)
def test_no_table_is_summed_over_all_devices(length, expected):
    mesh = make_mesh({"data": 2, "fsdp": 4})
    assert AXIS_RULES["vocab"] == ("tensor", "fsdp")
    table = jax.ShapeDtypeStruct((512, 64), jnp.float32)
    shardings = infer_shardings({"embed": {"embedding": table}}, mesh)["embed"]["embedding"]

    def gradient(table, tokens, cotangent):
        out, pull = jax.vjp(lambda t: lookup(t, tokens, mesh, jnp.bfloat16), table)
        return out, pull(cotangent)[0]

    rows = batch_sharding(mesh)
    program = jax.jit(
        gradient, in_shardings=(shardings, rows, rows), out_shardings=(rows, shardings)
    )
    tokens = jax.ShapeDtypeStruct((8, length), jnp.int32)
    cotangent = jax.ShapeDtypeStruct((8, length, 64), jnp.bfloat16)
    found = traffic(program.lower(table, tokens, cotangent).compile().as_text(), 8).collectives
    # CPUs widen what is bfloat16 on the way; the TPU's compiler is asked elsewhere.
    widened = {(c.kind, c.arrays[0].dtype, c.bytes // 4, c.group) for c in found}
    assert widened == expected


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES)
def test_a_tied_table_gets_the_gradients_of_both_its_uses(sizes):
    """Of a whole model whose head reads the table too, against one device."""
    config = tiny("qwen2", tie_word_embeddings=True)
    assert "unembed" not in jax.eval_shape(lambda: init_model(config, jax.random.key(0))[1])
    tokens = jax.random.randint(jax.random.key(1), (8, 12), 0, config.vocab_size)
    mask = jnp.ones(tokens.shape, bool)

    def gradient(mesh):
        model, params = init_model(config, jax.random.key(0), mesh=mesh)

        def loss(params):
            return make_model(config, mesh=mesh).token_logps(params, tokens, mask)[0].sum()

        return jax.jit(jax.grad(loss))(params)["embed"]["embedding"]

    alone = np.asarray(gradient(None))
    # Sums over the whole batch: where terms cancel, their rounding is that of the largest.
    bound = 1e-5 * np.abs(alone).max()
    np.testing.assert_allclose(gradient(make_mesh(sizes)), alone, rtol=1e-4, atol=bound)
