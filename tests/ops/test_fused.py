"""`fused_token_logps` against materialised logits: values, gradients, memory, sharding."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.bench.fused_logps import compile_sides
from rlhf_jax.ops.fused import fused_token_logps, fused_token_stats

B, T, D, V = 4, 9, 16, 301


def plain(hidden, unembed, tokens, temperature=1.0, softcap=None):
    """The definition, through [B, T, V]."""
    z = jnp.einsum("btd,vd->btv", hidden, unembed)
    z = (z if softcap is None else softcap * jnp.tanh(z / softcap)) / temperature
    log_probs = jax.nn.log_softmax(z[:, :-1])
    logps = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=2)[..., 0]
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
    return tuple(jnp.pad(x, ((0, 0), (1, 0))) for x in (logps, entropy))


def inputs(dtype=jnp.float32, vocab=V):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (B, T, D), dtype)
    unembed = jax.random.normal(keys[1], (vocab, D), dtype)
    tokens = jax.random.randint(keys[2], (B, T), 0, vocab)
    cotangents = tuple(jax.random.normal(key, (B, T)) for key in keys[3:])
    return hidden, unembed, tokens, cotangents


def results(fn, hidden, unembed, cotangents):
    """Values, and gradients of a random combination of both outputs."""
    value = jax.jit(fn)(hidden, unembed)
    grads = jax.jit(
        jax.grad(
            lambda h, w: sum((x * c).sum() for x, c in zip(fn(h, w), cotangents, strict=True)),
            (0, 1),
        )
    )
    return *value, *grads(hidden, unembed)


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize(
    "temperature, softcap, block",
    [
        (1.3, 5.0, 100),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(1.0, None, None), (0.7, None, 64), (1.0, 2.0, 300)]
        ),
    ],
)
def test_equals_the_plain_form(temperature, softcap, block):
    hidden, unembed, tokens, cotangents = inputs()
    fused = results(
        lambda h, w: fused_token_logps(
            h, w, tokens, temperature=temperature, softcap=softcap, block=block
        ),
        hidden,
        unembed,
        cotangents,
    )
    expected = results(
        lambda h, w: plain(h, w, tokens, temperature, softcap), hidden, unembed, cotangents
    )
    for a, b in zip(fused, expected, strict=True):
        assert relative(a, b) < 1e-5


def test_float64_stays_float64():
    with jax.enable_x64(True):
        hidden, unembed, tokens, cotangents = inputs(jnp.float64)
        fused = results(
            lambda h, w: fused_token_logps(h, w, tokens, temperature=0.5),
            hidden,
            unembed,
            cotangents,
        )
        expected = results(lambda h, w: plain(h, w, tokens, 0.5), hidden, unembed, cotangents)
        for a, b in zip(fused, expected, strict=True):
            assert a.dtype == jnp.float64
            assert relative(a, b) < 1e-12


def test_bf16_operands_have_float32_statistics():
    hidden, unembed, tokens, cotangents = inputs(jnp.bfloat16)
    fused = results(
        lambda h, w: fused_token_logps(h, w, tokens, block=64), hidden, unembed, cotangents
    )
    exact = results(
        lambda h, w: plain(h, w, tokens),
        hidden.astype(jnp.float32),
        unembed.astype(jnp.float32),
        cotangents,
    )
    assert [x.dtype for x in fused] == [jnp.float32, jnp.float32, jnp.bfloat16, jnp.bfloat16]
    for a, b in zip(fused[:2], exact[:2], strict=True):
        assert relative(a, b) < 1e-5
    for a, b in zip(fused[2:], exact[2:], strict=True):
        assert relative(a, b) < 1e-2


def test_large_logits_do_not_overflow():
    hidden, unembed, tokens, _ = inputs()
    logps, entropy = jax.jit(lambda h: fused_token_logps(h, unembed, tokens, block=64))(
        hidden * 1e4
    )
    expected, expected_entropy = plain(hidden * 1e4, unembed, tokens)
    assert relative(logps, expected) < 1e-5
    np.testing.assert_allclose(entropy, expected_entropy, atol=1e-5)


def test_temperature_and_softcap_may_be_traced():
    hidden, unembed, tokens, _ = inputs()
    traced = jax.jit(
        lambda t, c: fused_token_logps(hidden, unembed, tokens, temperature=t, softcap=c)
    )(0.7, 5.0)
    for a, b in zip(traced, plain(hidden, unembed, tokens, 0.7, 5.0), strict=True):
        assert relative(a, b) < 1e-5


def test_scored_columns_equal_the_full_result_and_others_are_zero():
    hidden, unembed, tokens, cotangents = inputs()
    scored = jnp.array([[1, 5, 8], [3, -1, -1], [-1, -1, -1], [8, 2, -1]])
    kept = np.zeros((B, T), bool)
    for row, columns in enumerate(np.asarray(scored)):
        kept[row, columns[columns >= 0]] = True
    masked = tuple(c * kept for c in cotangents)
    fused = results(
        lambda h, w: fused_token_logps(h, w, tokens, scored=scored, block=64),
        hidden,
        unembed,
        cotangents,
    )
    expected = results(lambda h, w: plain(h, w, tokens), hidden, unembed, masked)
    for a, b in zip(fused[:2], expected[:2], strict=True):
        np.testing.assert_allclose(a, b * kept, rtol=1e-5, atol=1e-5)
        assert not np.asarray(a)[~kept].any()
    for a, b in zip(fused[2:], expected[2:], strict=True):
        assert relative(a, b) < 1e-5


def test_rows_without_cotangent_leak_nothing_even_when_nan():
    hidden, unembed, tokens, _ = inputs()
    weights = jnp.ones((B, T)).at[2].set(0).at[:, 6:].set(0)
    poisoned = hidden.at[2].set(jnp.nan).at[:, 5:].set(jnp.nan)

    def loss(h, w):
        logps, entropy = fused_token_logps(h, w, tokens, block=64)
        return sum(jnp.where(weights > 0, x, 0).sum() for x in (logps, entropy))

    gradients = jax.jit(jax.grad(loss, (0, 1)))
    clean, dirty = (gradients(h, unembed) for h in (hidden, poisoned))
    for a, b in zip(dirty, clean, strict=True):
        np.testing.assert_array_equal(a, b)


def test_token_ids_outside_the_vocabulary_are_clipped():
    hidden, unembed, tokens, _ = inputs()
    wild = tokens.at[0, 3].set(-100).at[1, 4].set(V + 7)
    tame = tokens.at[0, 3].set(0).at[1, 4].set(V - 1)
    run = jax.jit(lambda tokens: fused_token_logps(hidden, unembed, tokens)[0])
    np.testing.assert_array_equal(run(wild), run(tame))


def test_vmap_over_unembeddings():
    hidden, unembed, tokens, _ = inputs()
    stacked = jnp.stack([unembed, -unembed])
    run = jax.jit(lambda w: fused_token_logps(hidden, w, tokens, block=64)[0])
    for a, w in zip(jax.jit(jax.vmap(run))(stacked), stacked, strict=True):
        np.testing.assert_allclose(a, run(w), rtol=1e-5, atol=1e-5)


def flops(fn):
    hidden, unembed, tokens, _ = inputs()
    return jax.jit(fn).lower(hidden, unembed, tokens).compile().cost_analysis()["flops"]


def test_unused_entropy_costs_nothing():
    """Its accumulator is gone from the compiled loop, both ways, also as a stopped metric."""

    def both(h, w, t):
        return fused_token_logps(h, w, t, block=100)

    def with_metric(h, w, t):
        logps, entropy = both(h, w, t)
        return logps.sum(), jax.lax.stop_gradient(entropy).mean()

    assert flops(lambda h, w, t: both(h, w, t)[0]) < flops(both)
    logps_only = flops(jax.grad(lambda h, w, t: both(h, w, t)[0].sum(), (0, 1)))
    metric = flops(jax.grad(with_metric, (0, 1), has_aux=True))
    differentiated = flops(jax.grad(lambda h, w, t: sum(x.sum() for x in both(h, w, t)), (0, 1)))
    assert logps_only < metric < differentiated


@pytest.mark.parametrize("softcap, block", [(None, None), (5.0, 100)])
def test_without_entropy_the_same_numbers_for_less(softcap, block):
    """Also where everything is returned from one compiled function, so that nothing is dropped.

    Two programs: a processor may contract a product and a sum in one and not in the other, so they
    agree to rounding, not to the bit.
    """
    hidden, unembed, tokens, (cotangent, _) = inputs()

    def run(entropy):
        def loss(h, w, t):
            logps, found = fused_token_logps(h, w, t, softcap=softcap, block=block, entropy=entropy)
            return (logps * cotangent).sum(), (logps, found)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)

    ((_, (logps, found)), grads) = jax.jit(run(True))(hidden, unembed, tokens)
    ((_, (alone, nothing)), same) = jax.jit(run(False))(hidden, unembed, tokens)
    assert found is not None and nothing is None
    for a, b in zip((logps, *grads), (alone, *same), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)
    assert flops(run(False)) < flops(run(True))
    size = [len(str(jax.make_jaxpr(run(e))(hidden, unembed, tokens))) for e in (False, True)]
    assert size[0] < size[1]


def test_frozen_unembedding_skips_its_product():
    both = flops(jax.grad(lambda h, w, t: fused_token_logps(h, w, t)[0].sum(), (0, 1)))
    hidden_only = flops(jax.grad(lambda h, w, t: fused_token_logps(h, w, t)[0].sum(), 0))
    assert both - hidden_only > 0.9 * 2 * B * T * D * V


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def test_without_entropy_on_a_mesh(mesh):
    hidden, unembed, tokens, (cotangent, _) = inputs(vocab=302)

    def run(h, w, entropy):
        return (fused_token_logps(h, w, tokens, mesh=mesh, entropy=entropy)[0] * cotangent).sum()

    found = [
        jax.jit(jax.value_and_grad(run, (0, 1)), static_argnums=2)(hidden, unembed, e)
        for e in (True, False)
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("use_scored", [False, True])
def test_sharded_equals_one_device(mesh, use_scored):
    hidden, unembed, tokens, cotangents = inputs(vocab=302)
    scored = jnp.array([[1, 5, 8], [3, -1, -1], [-1, -1, -1], [8, 2, -1]]) if use_scored else None

    def run(h, w, mesh):
        return fused_token_logps(
            h, w, tokens, scored=scored, mesh=mesh, block=64, softcap=5.0, temperature=0.8
        )

    expected = results(lambda h, w: run(h, w, None), hidden, unembed, cotangents)
    rows, vocab = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P("tensor"))
    sharded = results(
        lambda h, w: run(h, w, mesh),
        jax.device_put(hidden, rows),
        jax.device_put(unembed, vocab),
        cotangents,
    )
    for a, b in zip(sharded, expected, strict=True):
        assert relative(a, b) < 1e-5


def collective_shapes(text):
    found = re.findall(
        r"= (.*?) "
        r"(?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(",
        text,
    )
    return [
        tuple(int(n) for n in dims.split(",") if n)
        for result in found
        for dims in re.findall(r"\[([\d,]*)\]", result)
    ]


def test_no_collective_holds_logits(mesh):
    """Only row statistics and the gradients of states and weight cross devices."""
    vocab = 304
    hidden, unembed, tokens, _ = inputs(vocab=vocab)
    rows, shards = (
        NamedSharding(mesh, P(("data", "fsdp"))),
        NamedSharding(mesh, P(("tensor", "fsdp"))),
    )
    args = (
        jax.device_put(hidden, rows),
        jax.device_put(unembed, shards),
        jax.device_put(tokens, rows),
    )
    step = jax.jit(
        jax.grad(lambda h, w, t: fused_token_logps(h, w, t, mesh=mesh)[0].sum(), (0, 1)),
        out_shardings=(rows, shards),
    )
    shapes = collective_shapes(step.lower(*args).compile().as_text())
    assert shapes
    # gathered over fsdp; summed and scattered over fsdp
    weights = {(vocab // 2, D), (vocab // 4, D)}
    for shape in shapes:
        assert shape in weights or not {vocab, vocab // 2, vocab // 4} & set(shape), shape


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens": jnp.zeros((B, T + 1), jnp.int32)}, "shapes disagree"),
        ({"scored": jnp.zeros((B + 1, 2), jnp.int32)}, "scored has shape"),
    ],
)
def test_wrong_shapes_are_one_line(change, message):
    hidden, unembed, tokens, _ = inputs()
    unchecked = inspect.unwrap(fused_token_logps)  # the tests' own shape checks would come first
    with pytest.raises(ValueError, match=message) as error:
        unchecked(hidden, unembed, **({"tokens": tokens} | change))
    assert "\n" not in str(error.value)


def test_what_does_not_divide_over_the_mesh_is_an_error(mesh):
    hidden, unembed, tokens, _ = inputs()
    with pytest.raises(ValueError, match="vocabulary of 301 does not divide"):
        fused_token_logps(hidden, unembed, tokens, mesh=mesh)
    with pytest.raises(ValueError, match="batch of 3 rows does not divide"):
        fused_token_logps(hidden[:3], unembed[:300], tokens[:3], mesh=mesh)


@pytest.mark.slow
def test_memory_at_the_size_of_qwen():
    """Compiled only, nothing runs: N=2048, D=896, V=151936 float32."""
    sides = compile_sides(2048, 896, 151936, "float32")
    plain_bytes, fused_bytes = (
        sides[name].memory_analysis().temp_size_in_bytes for name in ("plain", "fused")
    )
    assert plain_bytes >= 20 * fused_bytes


@pytest.mark.parametrize("block", [7, 64])
@pytest.mark.parametrize("is_scored", [False, True])
def test_which_tokens_are_the_likeliest(block, is_scored):
    """As the argmax of all logits, in chunks; no gradient, and no other value."""
    draw = np.random.default_rng(3)
    hidden = jnp.asarray(draw.normal(size=(3, 6, 5)), jnp.float32)
    unembed = jnp.asarray(draw.normal(size=(40, 5)), jnp.float32)
    logits = np.asarray(hidden @ unembed.T)
    tokens = draw.integers(0, 40, (3, 6))
    tokens[:, 1::2] = logits.argmax(-1)[:, :-1:2]  # each column predicts the next one
    scored = jnp.asarray([[1, 3, -1], [2, 4, 5], [1, 2, 3]]) if is_scored else None
    options = {"scored": scored, "block": block}
    found = fused_token_stats(hidden, unembed, jnp.asarray(tokens), top=True, **options)
    wanted = np.zeros(tokens.shape)
    for row, column in np.ndindex(tokens.shape):
        if column and (scored is None or column in np.asarray(scored[row])):
            wanted[row, column] = logits[row, column - 1].argmax() == tokens[row, column]
    np.testing.assert_array_equal(found.top, wanted)
    assert 0 < wanted.sum() < wanted.size
    plain = fused_token_logps(hidden, unembed, jnp.asarray(tokens), **options)
    np.testing.assert_array_equal(found.logps, plain[0])
    np.testing.assert_array_equal(found.entropy, plain[1])
    slope = jax.grad(
        lambda x: fused_token_stats(x, unembed, jnp.asarray(tokens), top=True, **options).top.sum()
    )(hidden)
    assert (slope == 0).all()
