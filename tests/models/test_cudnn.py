"""When cuDNN's attention is taken, and what it is asked. There is no GPU here: XLA answers."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.attention import attention, choice
from rlhf_jax.models.attention import cudnn as kernels
from rlhf_jax.models.attention.plain import Static, plain
from rlhf_jax.models.documents import Documents
from rlhf_jax.sharding import make_mesh
from rlhf_jax.target import Target, compiling_for

H = 16


def inputs(rows=1, length=64, heads=4, kv_heads=2, width=H, dtype=jnp.bfloat16):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(rows, length, n, width) for n in (heads, kv_heads, kv_heads)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is compiled for."""
    monkeypatch.setattr(kernels, "_is_installed", lambda: True)
    choice._tell.cache_clear()
    with compiling_for(Target("gpu")):
        yield


@pytest.fixture
def asked(monkeypatch):
    """What cuDNN is asked, which XLA computes."""
    calls = []
    whole = jax.nn.dot_product_attention

    def stand_in(*args, implementation, **options):
        calls.append(implementation)
        return whole(*args, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return calls


def packed(rows, length):
    return jnp.tile(jnp.arange(length) // 23 + 1, (rows, 1))


@pytest.mark.parametrize(
    ("options", "static"),
    [
        (dict(), Static(None, None, None, 0.25)),
        (dict(window=20), Static(20, 20, None, 0.25)),
        (dict(segment_ids=packed(4, 64)), Static(None, None, None, 0.25)),
        (dict(segment_ids=packed(4, 64), window=9), Static(9, 9, None, 0.25)),
        (dict(segment_ids=packed(4, 64), reach=23), Static(None, None, None, 0.25)),
    ],
)
@pytest.mark.parametrize("axes", [None, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_what_is_asked_is_the_plain_form(options, static, axes, gpu, asked):
    arrays = inputs(rows=4)
    mesh = None if axes is None else make_mesh(axes)
    out = attention(*arrays, scale=0.25, mesh=mesh, **options)
    ids = options.get("segment_ids")
    exact = plain(
        *(x.astype(jnp.float32) for x in arrays), None if ids is None else Documents(ids), static
    )
    assert asked == ["cudnn"], "auto takes it"
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=2e-2)


@pytest.mark.parametrize(
    ("sizes", "options", "mesh", "reason"),
    [
        (dict(dtype=jnp.float32), {}, None, r"not float32 \(model.compute_dtype\)"),
        (dict(), dict(softcap=30.0), None, "it cannot apply softcap=30.0"),
        (dict(width=12), {}, None, "heads of 12 numbers are no multiple of 8 up to 128"),
        (dict(width=256), {}, None, "heads of 256 numbers are no multiple of 8 up to 128"),
        (dict(length=63), dict(segment_ids=packed(1, 63)), None, "63 tokens are no multiple of 2"),
        (dict(rows=2), {}, {"fsdp": 4}, "2 rows do not divide over mesh data x fsdp = 4"),
        (dict(), {}, {"tensor": 4}, "2 key/value heads do not divide over mesh tensor = 4"),
    ],
)
def test_what_it_cannot_do_has_a_reason(sizes, options, mesh, reason, gpu, caplog):
    arrays = inputs(**sizes)
    options = dict(scale=0.25, mesh=None if mesh is None else make_mesh(mesh), **options)
    with pytest.raises(ValueError, match=f"attention='cudnn' cannot do this: .*{reason}"):
        attention(*arrays, implementation="cudnn", **options)
    with caplog.at_level(logging.INFO):
        outs = [attention(*arrays, **options) for _ in range(2)]
    assert outs[0].shape == arrays[0].shape
    form = "xla" if "softcap" in options else "dot_product"
    assert caplog.text.count(f"attention=auto: {form}, which holds all scores of a row") == 1
    assert "in place of cudnn: " in caplog.text


def test_a_plan_without_the_library_goes_without(monkeypatch, gpu):
    monkeypatch.setattr(kernels, "_is_installed", lambda: False)
    q, k, v = inputs()
    with pytest.raises(ValueError, match="nvidia-cudnn-cu12 is not installed"):
        attention(q, k, v, scale=0.25, implementation="cudnn")
    assert attention(q, k, v, scale=0.25).shape == q.shape


class Device:
    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize(
    ("capability", "width", "reason"),
    [
        ("7.5", 64, r"it needs compute capability 8.0 \(A100\), and this GPU has 7.5"),
        ("gfx942", 64, "the device is no NVIDIA GPU"),
        (None, 64, "the device is no NVIDIA GPU"),
        ("8.9", 256, "heads of 256 numbers are no multiple of 8 up to 128"),
        ("8.0", 128, None),
        ("9.0", 256, None),
        ("10.0", 256, None),
    ],
)
def test_the_gpu_at_hand_is_asked(capability, width, reason, monkeypatch, asked):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(capability)])
    arrays = inputs(width=width)
    if reason is None:
        attention(*arrays, scale=0.25)
        assert asked == ["cudnn"]
        return
    with pytest.raises(ValueError, match=reason):
        attention(*arrays, scale=0.25, implementation="cudnn")
