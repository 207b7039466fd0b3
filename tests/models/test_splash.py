"""Splash attention, its kernels run as plain operations on CPU, against the plain form."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from rlhf_jax.models.attention import attention, choice
from rlhf_jax.models.attention.plain import Static, plain
from rlhf_jax.models.attention.splash import refusal, splash
from rlhf_jax.models.documents import Documents
from rlhf_jax.models.remat import POLICIES
from rlhf_jax.sharding import make_mesh
from tests.conftest import quick

H = 16


def inputs(rows=1, length=256, heads=4, kv_heads=2, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(rows, length, n, H) for n in (heads, kv_heads, kv_heads, heads)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def documents(rows, length):
    """Packed documents of 90 tokens; no border is one of a block."""
    return Documents(jnp.tile(jnp.arange(length) // 90 + 1, (rows, 1)))


def results(function, q, k, v, cotangent):
    out, pull = jax.vjp(function, q, k, v)
    return out, *pull(cotangent)


def both(arrays, ids, static, mesh=None):
    """(splash, plain): output and gradients of each."""
    kernels = jax.jit(
        lambda *a: results(
            lambda q, k, v: splash(q, k, v, ids, static, mesh=mesh, interpret=True), *a
        )
    )
    exact = jax.jit(lambda *a: results(lambda q, k, v: plain(q, k, v, ids, static), *a))
    return kernels(*arrays), exact(*arrays)


CASES = {
    "grouped heads": (dict(), None, Static(None, None, None, 0.25)),
    "a head each": (dict(kv_heads=4, length=128), None, Static(None, None, None, 0.25)),
    "documents": (dict(), documents(1, 256), Static(None, None, None, 0.25)),
    "window": (dict(), None, Static(100, 100, None, 0.25)),
    "softcap": (dict(length=128), None, Static(None, None, 2.0, 0.4)),
    "all at once": (dict(heads=2, kv_heads=1), documents(1, 256), Static(70, 70, 2.0, 0.4)),
}


@pytest.mark.parametrize("case", quick(CASES, ("all at once",)))
def test_equals_the_plain_form(case):
    sizes, ids, static = CASES[case]
    for name, a, b in zip("o q k v".split(), *both(inputs(**sizes), ids, static), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_bf16_is_as_close_to_float32_as_the_plain_form_is():
    static = Static(None, None, None, H**-0.5)
    narrow = inputs(length=128, dtype=jnp.bfloat16)
    exact = both([x.astype(jnp.float32) for x in narrow], None, static)[1]
    for ours, theirs, right in zip(*both(narrow, None, static), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        error = np.abs(np.asarray(ours, np.float64) - right).max()
        usual = np.abs(np.asarray(theirs, np.float64) - right).max()
        assert error <= 1.5 * usual


@pytest.mark.slow
def test_each_device_computes_its_own_rows_and_heads():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    ids = documents(4, 128)
    arrays = inputs(rows=4, length=128)
    for a, b in zip(*both(arrays, ids, Static(None, None, None, 0.25), mesh), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("policy, kept", [("save_attention", True), ("full", False)])
def test_remat_keeps_what_the_backward_pass_reads(policy, kept, capsys):
    q, k, v, _ = inputs(length=128)
    static = Static(None, None, None, 0.25)

    def layer(q, k, v):
        return splash(q, k, v, None, static, interpret=True).sum()

    print_saved_residuals(jax.checkpoint(layer, policy=POLICIES[policy]), q, k, v)
    # Beside the arguments and what the mask says of its few blocks:
    kept_lines = [line for line in capsys.readouterr().out.splitlines() if "argument" not in line]
    shapes = sorted(line.split()[0] for line in kept_lines if line.startswith("f32"))
    # output [B, N, T, H] and log-sum-exp [B, N, T].
    assert shapes == (["f32[1,4,128,16]", "f32[1,4,128]"] if kept else [])


@pytest.mark.parametrize(
    ("sizes", "prefix", "mesh", "reason"),
    [
        (dict(length=192), False, None, "rows of 192 tokens are no multiple of 128"),
        (dict(dtype=jnp.float16), False, None, "not float16"),
        (dict(), True, None, r"share a prompt \(training.share_prompt\)"),
        (dict(rows=2), False, {"fsdp": 4}, "2 rows do not divide over mesh data x fsdp = 4"),
        (dict(), False, {"tensor": 4}, "2 key/value heads do not divide over mesh tensor = 4"),
    ],
)
def test_what_it_cannot_do_has_a_reason(sizes, prefix, mesh, reason, monkeypatch, caplog):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    choice._tell.cache_clear()
    q, k, v, _ = inputs(**sizes)
    ids = jnp.zeros(q.shape[:2], jnp.int32)
    packed = dict(segment_ids=ids, prefix_ids=ids, positions=ids) if prefix else {}
    options = dict(scale=0.25, mesh=None if mesh is None else make_mesh(mesh), **packed)
    with pytest.raises(ValueError, match=f"attention='splash' cannot do this: .*{reason}"):
        attention(q, k, v, implementation="splash", **options)
    # Left to itself the plain form is taken, and said once.
    with caplog.at_level(logging.INFO):
        outs = [attention(q, k, v, **options) for _ in range(2)]
    assert outs[0].shape == q.shape
    assert caplog.text.count("attention=auto: dot_product") == 1


def test_auto_is_splash_on_a_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(choice, "splash", lambda q, *rest, mesh: q + 1)
    q, k, v, _ = inputs()
    np.testing.assert_array_equal(attention(q, k, v, scale=0.25), q + 1)
    assert refusal(q, k, documents(1, 256), None) is None
