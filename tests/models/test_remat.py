"""What layers keep for the backward pass, by count of numbers and by the choice for a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import target
from rlhf_jax.models import init_model, make_model, remat
from tests.models.tiny import ragged, tiny


def made(family):
    layers = "n_layer" if family == "gpt2" else "num_hidden_layers"
    config = tiny(family, **{layers: 2})
    return config, init_model(config, jax.random.key(0))[1]


@pytest.fixture(scope="module")
def qwen():
    return made("qwen3")


def kept(config, params, name, layers="scan"):
    tokens, mask = ragged()
    model = make_model(config, layers=layers, remat=name)
    residuals = jax.eval_shape(
        lambda p: jax.vjp(lambda p: model.hidden(p, tokens, mask), p)[1], params
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2"])
def test_bytes_are_those_of_the_program(family):
    config, params = made(family)
    shape = ragged()[0].shape
    whole = {name: kept(config, params, name) for name in ("products", "save_attention", "full")}
    counted = {name: remat.kept_bytes(name, config, shape, 4, mesh=None) for name in whole}
    for name in ("products", "save_attention"):
        more = counted[name] - counted["full"]
        assert whole[name] - whole["full"] == pytest.approx(more, rel=0.05)
    for name in ("none", "dots", "dots_no_batch"):
        estimate = remat.kept_bytes(name, config, shape, 4, mesh=None) - counted["full"]
        assert kept(config, params, name) - whole["full"] == pytest.approx(estimate, rel=0.25)


def test_a_scan_over_single_layers_keeps_no_copy_of_its_weights(qwen):
    """Parameters are residuals as they are stored; kernels in another shape would be a copy."""
    config, params = qwen
    tokens, mask = ragged()
    model = make_model(config, layers="scan", remat="products")
    jaxpr = jax.make_jaxpr(
        lambda p: jax.vjp(lambda p: model.hidden(p, tokens, mask), p)[1](
            jnp.ones((*tokens.shape, config.hidden_size))
        )
    )(params)
    forward = next(eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "scan")
    kernel = params["layers"]["mlp"]["up"]["kernel"].size
    assert kernel not in {out.aval.size for out in forward.outvars}


@pytest.mark.parametrize(
    "room, chosen", [(1e12, "products"), (4 * 20_000, "save_attention"), (4 * 2_000, "full")]
)
def test_auto_goes_by_the_memory_of_a_device(qwen, monkeypatch, room, chosen):
    monkeypatch.setattr(remat, "device_memory", lambda mesh: room)
    arguments = (qwen[0], (2, 9), 4)
    assert remat.choose(*arguments, mesh=None, unrolled=False) == chosen
    assert remat.choose(*arguments, mesh=None, unrolled=True) == "none"


def test_auto_is_one_choice_of_all_processes(qwen, monkeypatch):
    """Only process 0 can ask the first device of a mesh for its memory."""
    monkeypatch.setattr(target, "_agreed", None)
    monkeypatch.setattr(remat, "own_memory", lambda device: pytest.fail("asked a device"))
    target.agree_on_memory(4 * 20_000)
    assert remat.choose(qwen[0], (2, 9), 4, mesh=None, unrolled=False) == "save_attention"


@pytest.mark.slow
def test_packed_rows_are_remembered_too(qwen):
    """Documents, shared prompts and positions reach the pass that is computed again."""
    config, params = qwen
    tokens = jnp.arange(24).reshape(2, 12) % config.vocab_size
    documents = {
        "segment_ids": jnp.array([[9, 9, 9, 1, 1, 1, 1, 2, 2, 2, 2, 0]] * 2),
        "prefix_ids": jnp.array([[-1, -1, -1, 9, 9, 9, 9, 9, 9, 9, 9, -1]] * 2),
        "positions": jnp.array([[0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 0]] * 2),
    }

    def gradient(name):
        model = make_model(config, layers="scan", remat=name)
        mask = documents["segment_ids"] > 0

        def loss(params):
            hidden = model.hidden(params, tokens, mask, longest=7, **documents)
            return jnp.sum(jnp.where(mask[..., None], hidden, 0) ** 3)

        return jax.jit(jax.grad(loss))(params)

    wanted = gradient("none")
    for name in ("products", "save_attention"):
        for a, b in zip(*map(jax.tree.leaves, (gradient(name), wanted)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_auto_divides_by_the_mesh(qwen):
    config = qwen[0]
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    alone = remat.kept_bytes("products", config, (8, 16), 4, mesh=None)
    shared = remat.kept_bytes("products", config, (8, 16), 4, mesh=mesh)
    assert alone / 8 < shared < alone / 4
