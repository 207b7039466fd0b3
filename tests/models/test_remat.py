"""What layers keep for the backward pass, by count of numbers and by the choice for a device."""

import jax
import pytest

from rlhf_jax.models import init_model, make_model, remat
from tests.models.tiny import ragged, tiny


@pytest.fixture(scope="module")
def qwen():
    config = tiny("qwen3", num_hidden_layers=2)
    return config, init_model(config, jax.random.key(0))[1]


def kept(config, params, name, layers="scan"):
    tokens, mask = ragged()
    model = make_model(config, layers=layers, remat=name)
    residuals = jax.eval_shape(
        lambda p: jax.vjp(lambda p: model.hidden(p, tokens, mask), p)[1], params
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


def test_bytes_are_those_of_the_program(qwen):
    config, params = qwen
    shape = ragged()[0].shape
    whole = {name: kept(config, params, name) for name in ("products", "save_attention", "full")}
    counted = {name: remat.kept_bytes(name, config, shape, 4, mesh=None) for name in whole}
    for name in ("products", "save_attention"):
        assert whole[name] - whole["full"] == counted[name] - counted["full"]
    assert whole["products"] < kept(config, params, "none")


def test_a_scan_keeps_no_copy_of_its_weights(qwen):
    """Parameters are residuals as they are stored; kernels in another shape would be a copy."""
    config, params = qwen
    tokens, mask = ragged()
    model = make_model(config, layers="scan", remat="products")
    jaxpr = jax.make_jaxpr(
        lambda p: jax.vjp(lambda p: model.hidden(p, tokens, mask), p)[1](
            jax.numpy.ones((*tokens.shape, config.hidden_size))
        )
    )(params)
    forward = next(eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "scan")
    kernel = params["layers"]["mlp"]["up"]["kernel"].size
    assert kernel not in {out.aval.size for out in forward.outvars}


@pytest.mark.parametrize(
    "room, chosen", [(1e12, "products"), (4 * 20_000, "save_attention"), (4 * 2_000, "full")]
)
def test_auto_goes_by_the_memory_of_a_device(qwen, monkeypatch, room, chosen):
    monkeypatch.setattr(remat, "_device_memory", lambda mesh: room)
    arguments = (qwen[0], (2, 9), 4)
    assert remat.choose(*arguments, mesh=None, unrolled=False) == chosen
    assert remat.choose(*arguments, mesh=None, unrolled=True) == "none"


def test_auto_divides_by_the_mesh(qwen):
    config = qwen[0]
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"))
    alone = remat.kept_bytes("products", config, (8, 16), 4, mesh=None)
    shared = remat.kept_bytes("products", config, (8, 16), 4, mesh=mesh)
    assert alone / 8 < shared < alone / 4
