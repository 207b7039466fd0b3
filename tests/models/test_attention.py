"""Implementations of attention against the reference: values, gradients, sharding, memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.models.attention import attention, blocked
from tests.conftest import quick

H = 8


def inputs(batch=2, length=100, heads=4, kv_heads=2, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(batch, length, n, H) for n in (heads, kv_heads, kv_heads, heads)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def documents(batch, length):
    """Packed documents of length 29, the last columns padding."""
    ids = np.tile(np.arange(length) // 29 + 1, (batch, 1))
    ids[:, length - length // 7 :] = 0
    return jnp.asarray(ids)


def shared_prompts(batch, length):
    """A prompt of 11 tokens and completions of 23 that share it, again and again."""
    place = np.arange(length) % 57
    round_ = np.arange(length) // 57 * 10
    own = np.where(place < 11, 0, (place - 11) // 23 + 1)
    rows = {
        "segment_ids": round_ + own + 1,
        "prefix_ids": np.where(own > 0, round_ + 1, -1),
        "positions": np.where(own > 0, 11 + (place - 11) % 23, place),
    }
    return {name: jnp.asarray(np.tile(row, (batch, 1))) for name, row in rows.items()}


def results(implementation, q, k, v, cotangent, **options):
    def run(q, k, v):
        out, pull = jax.vjp(
            lambda *a: attention(*a, scale=H**-0.5, implementation=implementation, **options),
            q,
            k,
            v,
        )
        return out, *pull(cotangent)

    return jax.jit(run)(q, k, v)


def assert_close(a, b, tolerance):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.isfinite(a).all()
    assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 0.1)


CASES = {
    "grouped": (dict(), dict()),
    "one token": (dict(length=1), dict()),
    "one head each": (dict(heads=2, kv_heads=2, length=64), dict()),
    "long": (dict(batch=1, length=260, heads=2, kv_heads=1), dict()),
    "window": (dict(), dict(window=37)),
    "window of one": (dict(length=70), dict(window=1)),
    "softcap": (dict(), dict(softcap=1.5)),
    "segments": (dict(), dict(segment_ids=documents(2, 100))),
    "shared prompts": (dict(), shared_prompts(2, 100)),
    "shared prompts, window": (dict(), dict(window=15, softcap=2.0, **shared_prompts(2, 100))),
    "all at once": (dict(), dict(segment_ids=documents(2, 100), window=20, softcap=2.0)),
}


@pytest.mark.parametrize("case", quick(CASES, ("grouped", "segments", "window", "shared prompts")))
def test_equals_the_reference(case):
    sizes, options = CASES[case]
    arrays = inputs(**sizes)
    expected = results("xla", *arrays, **options)
    others = ["blocked"] if "softcap" in options else ["blocked", "dot_product"]
    for name in others:
        for a, b in zip(results(name, *arrays, **options), expected, strict=True):
            assert_close(a, b, 1e-5)


def test_reference_equals_the_definition():
    """Token by token, in float64 NumPy."""
    q, k, v, _ = (np.asarray(x, np.float64) for x in inputs(length=12))
    ids = np.asarray(documents(2, 12))
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = [s for s in range(t + 1) if t - s < 5 and ids[b, s] == ids[b, t]]
        scores = 3.0 * np.tanh(0.4 * np.array([q[b, t, n] @ k[b, s, n // 2] for s in seen]) / 3.0)
        weights = np.exp(scores - scores.max())
        out[b, t, n] = sum(
            w * v[b, s, n // 2] for w, s in zip(weights / weights.sum(), seen, strict=True)
        )
    q, k, v, _ = inputs(length=12)
    for name in ("xla", "blocked"):
        options = dict(
            segment_ids=jnp.asarray(ids), window=5, softcap=3.0, scale=0.4, implementation=name
        )
        assert_close(
            jax.jit(lambda q, k, v, options=options: attention(q, k, v, **options))(q, k, v),
            out,
            1e-5,
        )


@pytest.mark.parametrize("window", [None, 15])
def test_a_shared_prompt_is_as_good_as_one_of_its_own(window):
    """Completion behind prompt, in a row each, against both behind one prompt."""
    q, k, v, _ = inputs(batch=1, length=57)
    rows = shared_prompts(1, 57)
    packed = attention(q, k, v, scale=0.4, window=window, implementation="xla", **rows)
    for start in (11, 34):
        columns = np.r_[0:11, start : start + 23]
        own = [x[:, columns] for x in (q, k, v)]
        out = attention(*own, scale=0.4, window=window, implementation="xla")
        assert_close(packed[:, columns], out, 1e-5)


def test_a_prefix_needs_its_company():
    q, k, v, _ = inputs(length=12)
    ids = jnp.zeros((2, 12), jnp.int32)
    with pytest.raises(ValueError, match="pass all three or none"):
        attention(q, k, v, scale=1.0, prefix_ids=ids, segment_ids=ids)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        arrays = inputs(length=100, dtype=jnp.float64)
        for a, b in zip(
            results("blocked", *arrays, softcap=2.0),
            results("xla", *arrays, softcap=2.0),
            strict=True,
        ):
            assert a.dtype == jnp.float64
            assert_close(a, b, 1e-12)


def test_bf16_is_as_close_to_float32_as_the_reference_is():
    arrays = inputs(length=100, dtype=jnp.bfloat16)
    exact = results("xla", *(x.astype(jnp.float32) for x in arrays))
    for a, b in zip(results("blocked", *arrays), exact, strict=True):
        assert a.dtype == jnp.bfloat16
        assert_close(a, b, 1e-2)


@pytest.mark.parametrize("implementation", ["blocked", "dot_product", "xla"])
def test_packed_documents_do_not_see_each_other(implementation):
    """Changing one document changes nothing in another: exactly 0, values and gradients."""
    q, k, v, cotangent = inputs()
    ids = documents(2, 100)
    other = (ids != 2)[:, :, None, None]
    changed = [jnp.where(other, x, x + 3.0) for x in (q, k, v)]
    before = results(implementation, q, k, v, cotangent, segment_ids=ids)
    after = results(implementation, *changed, cotangent, segment_ids=ids)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(jnp.where(other, a, 0), jnp.where(other, b, 0))
    assert np.abs(after[0] - before[0]).max() > 0.1


def test_future_is_invisible():
    q, k, v, _ = inputs()
    for name in ("blocked", "xla"):
        run = jax.jit(lambda q, k, v, name=name: attention(q, k, v, scale=1.0, implementation=name))
        full, changed = run(q, k, v), run(q, k.at[:, 70:].add(9.0), v.at[:, 70:].add(9.0))
        np.testing.assert_array_equal(full[:, :70], changed[:, :70])


def test_under_vmap_and_checkpoint():
    q, k, v, cotangent = inputs(batch=1, length=80)

    def loss(q):
        mixed = attention(q, k, v, scale=0.3, implementation="blocked")
        return (mixed * cotangent).sum()

    batch = jnp.stack([q, 2 * q])
    together = jax.jit(jax.vmap(jax.grad(loss)))(batch)
    again = jnp.stack([jax.jit(jax.grad(jax.checkpoint(loss)))(x) for x in batch])
    np.testing.assert_allclose(together, again, rtol=1e-5, atol=1e-6)


def test_scores_are_never_held_whole():
    """Temporary memory of a gradient at T=4096 is a small part of one [B, N, T, T]."""
    q, k, v, cotangent = (jax.ShapeDtypeStruct((1, 4096, n, 32), jnp.float32) for n in (8, 2, 2, 8))

    def run(q, k, v, c):
        return jax.vjp(lambda *a: attention(*a, scale=0.1, implementation="blocked"), q, k, v)[1](c)

    temp = jax.jit(run).lower(q, k, v, cotangent).compile().memory_analysis().temp_size_in_bytes
    assert temp < 8 * 4096 * 4096 * 4 / 4


def test_sharded_without_gathering_batch_or_sequence():
    """Batch over data and fsdp, heads over tensor: no collective at all, forward or backward."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    arrays = inputs(batch=4, length=96)
    expected = results("blocked", *arrays)
    heads = NamedSharding(mesh, P(("data", "fsdp"), None, "tensor"))
    sharded = [jax.device_put(x, heads) for x in arrays]

    def run(q, k, v, c):
        out, pull = jax.vjp(
            lambda *a: attention(*a, scale=H**-0.5, implementation="blocked"), q, k, v
        )
        return out, *pull(c)

    compiled = jax.jit(run, out_shardings=(heads,) * 4).lower(*sharded).compile()
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute", compiled.as_text())
    for a, b in zip(compiled(*sharded), expected, strict=True):
        assert_close(a, b, 1e-5)


def test_auto_is_blocked_on_cpu():
    q, k, v, _ = inputs(length=20)
    texts = [
        jax.jit(
            lambda q, k, v, name=name: attention(
                q, k, v, scale=0.3, softcap=5.0, implementation=name
            )
        )
        .lower(q, k, v)
        .as_text()
        for name in ("auto", "blocked", "xla")
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(implementation="flash"), "attention='flash' is unknown; allowed: auto, blocked"),
        (dict(implementation="dot_product", softcap=3.0), "cannot apply softcap=3.0"),
        (dict(implementation="splash"), "'splash' cannot do this: it runs on a TPU, and this is a"),
        (dict(implementation="cudnn"), "'cudnn' cannot do this: it runs on a GPU, and this is a"),
        (dict(window=0), "window 0 must be at least 1"),
        (dict(softcap=-1.0), "softcap -1.0 must be positive"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    q, k, v, _ = inputs(length=4)
    with pytest.raises(ValueError, match=message) as error:
        attention(q, k, v, scale=1.0, **options)
    assert "\n" not in str(error.value)


def test_heads_must_divide():
    q, k, v, _ = inputs(length=4, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="4 query heads are not a multiple of 3"):
        attention(q, k, v, scale=1.0)


def test_blocks_inside_groups_are_walked_by_a_loop(monkeypatch):
    """The same numbers with tiles so small that every group loops over blocks of 16 queries."""
    arrays = inputs(length=128)
    options = dict(segment_ids=documents(2, 128), window=50)
    expected = results("xla", *arrays, **options)
    monkeypatch.setattr(blocked, "_FORWARD_TILE", 1)
    monkeypatch.setattr(blocked, "_BACKWARD_TILE", 1)
    for a, b in zip(results("blocked", *arrays, **options), expected, strict=True):
        assert_close(a, b, 1e-5)
