"""Parameters: names, shapes, fresh values, heads; and the same numbers on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import abstract_params, init_model, make_model
from rlhf_jax.sharding import batch_sharding, infer_shardings, make_mesh, tree_bytes_per_device
from tests.models.tiny import FAMILY_NAMES, max_difference, tiny


def paths(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_parameter_names_and_shapes():
    tree = abstract_params(tiny("qwen2", tie_word_embeddings=False), "value")
    shapes = {
        jax.tree_util.keystr(p, simple=True, separator="/"): s.shape
        for p, s in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert shapes == {
        "embed/embedding": (64, 32),
        "unembed/kernel": (64, 32),
        "final_norm/scale": (32,),
        "score/kernel": (32,),
        "layers/attn_norm/scale": (3, 32),
        "layers/mlp_norm/scale": (3, 32),
        "layers/attn/q/kernel": (3, 32, 4, 16),
        "layers/attn/q/bias": (3, 4, 16),
        "layers/attn/k/kernel": (3, 32, 2, 16),
        "layers/attn/k/bias": (3, 2, 16),
        "layers/attn/v/kernel": (3, 32, 2, 16),
        "layers/attn/v/bias": (3, 2, 16),
        "layers/attn/o/kernel": (3, 4, 16, 32),
        "layers/mlp/gate/kernel": (3, 32, 48),
        "layers/mlp/up/kernel": (3, 32, 48),
        "layers/mlp/down/kernel": (3, 48, 32),
    }


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_parameter_has_a_sharding_rule(family):
    for head in (None, "reward", "value"):
        tree = abstract_params(tiny(family), head, "bfloat16")
        shardings = infer_shardings(
            tree, make_mesh({"fsdp": 2, "tensor": 2}, devices=jax.devices()[:4])
        )
        assert paths(tree) == paths(shardings)
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("bfloat16")}


def test_fresh_weights_do_not_depend_on_the_head():
    config = tiny("gemma2")
    _, plain = init_model(config, jax.random.key(1))
    _, scored = init_model(config, jax.random.key(1), head="value")
    _, other = init_model(config, jax.random.key(2))
    assert paths(scored) - paths(plain) == {"score/kernel"}
    assert (np.asarray(scored.pop("score")["kernel"]) == 0).all()
    assert max_difference(plain, scored) == 0
    assert max_difference(plain, other) > 0.1
    assert (np.asarray(plain["layers"]["attn_norm"]["scale"]) == 0).all(), (
        "Gemma stores the scale minus one"
    )
    assert abs(float(jnp.std(plain["layers"]["mlp"]["up"]["kernel"])) - 0.2) < 0.02


def test_a_reward_model_has_no_language_model_head():
    config = tiny("llama")
    model = make_model(config, head="reward")
    assert "unembed" not in abstract_params(config, "reward") and not model.config.lm_head
    assert make_model(config).scores is None
    with pytest.raises(ValueError, match="no language-model head"):
        model.logits({}, np.zeros((1, 2), np.int32), np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="pass head='reward'"):
        make_model(model.config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layers", "sizes"),
    [
        pytest.param("qwen3", "scan", {"fsdp": 8}, marks=pytest.mark.slow),
        ("gemma2", "unroll", {"fsdp": 4, "tensor": 2}),
        pytest.param("gpt2", "scan", {"data": 2, "fsdp": 2, "tensor": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_mesh_changes_nothing(family, layers, sizes):
    config = tiny(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 2})
    tokens = np.random.default_rng(0).integers(1, 64, (8, 16)).astype(np.int32)
    mask = np.arange(16)[None, :] < np.arange(8, 16)[:, None]

    def outcome(mesh):
        model, params = init_model(config, jax.random.key(0), mesh=mesh, layers=layers)

        def loss(params, tokens, mask):
            logps, _ = model.token_logps(params, tokens, mask)
            return jnp.where(mask, logps, 0.0).sum() / mask.sum()

        place = {} if mesh is None else {"out_shardings": (None, infer_shardings(params, mesh))}
        batch = (
            (tokens, mask) if mesh is None else jax.device_put((tokens, mask), batch_sharding(mesh))
        )
        return params, jax.jit(jax.value_and_grad(loss), **place)(params, *batch)

    single, (loss, grads) = outcome(None)
    mesh = make_mesh(sizes)
    params, (mesh_loss, mesh_grads) = outcome(mesh)
    assert max_difference(single, params) == 0
    assert abs(float(loss - mesh_loss)) < 1e-5
    assert max_difference(grads, mesh_grads) < 1e-5
    held = tree_bytes_per_device(params)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert max(held.values()) < 1.25 * whole / (mesh.size // mesh.shape["data"])
