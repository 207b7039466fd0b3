"""The reward model on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.rewards.model import make_last_score, make_model_rewards
from rlhf_jax.sharding import make_mesh
from rlhf_jax.types import Model


def _model():
    """Its score at t is the running sum of tokens times a parameter."""

    def scores(params, tokens, mask, *, segment_ids=None):
        return params["scale"] * jnp.cumsum(jnp.where(mask, tokens, 0), axis=1).astype(jnp.float32)

    def unused(*args, **kwargs):
        raise AssertionError("only the scalar head is read")

    return Model(config=None, hidden=unused, logits=unused, token_logps=unused, scores=scores)


@pytest.mark.parametrize("mesh", [{"data": 1, "fsdp": 1}, {"data": 2, "fsdp": 4}], ids=str)
def test_score_is_read_at_the_last_present_token(mesh):
    devices = jax.devices()[: mesh["data"] * mesh["fsdp"]]
    rewards = make_model_rewards(
        _model(), {"scale": jnp.float32(0.5)}, mesh=make_mesh(mesh, devices=devices)
    )
    tokens = np.arange(1, 33, dtype=np.int32).reshape(8, 4)
    lengths = np.array([4, 3, 2, 1, 4, 1, 2, 0])
    mask = np.arange(4)[None, :] < lengths[:, None]
    expected = [
        0.5 * tokens[row, :length].sum() if length else np.nan for row, length in enumerate(lengths)
    ]
    scores = rewards(tokens, mask)
    assert isinstance(scores, np.ndarray) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.array(expected, np.float32))


def test_a_model_without_head_is_refused():
    with pytest.raises(ValueError, match="the reward model has no scalar head"):
        make_model_rewards(_model()._replace(scores=None), {}, mesh=make_mesh({}))
    with pytest.raises(
        ValueError, match=r"rows_at_once=3 must be a positive multiple of 8 \(mesh data x fsdp\)"
    ):
        make_model_rewards(_model(), {}, mesh=make_mesh({"data": 8}), rows_at_once=3)


@pytest.mark.parametrize(
    ("rows", "at_once", "passes"), [(8, 2, [2] * 4), (7, 4, [4, 4]), (3, 4, [3]), (5, None, [5])]
)
def test_microbatches_change_no_score(rows, at_once, passes):
    seen = []
    model = _model()

    def scores(params, tokens, mask, *, segment_ids=None):
        jax.debug.callback(lambda: seen.append(tokens.shape[0]))
        return model.scores(params, tokens, mask)

    mesh = make_mesh({}, devices=jax.devices()[:1])
    tokens = np.arange(1, 4 * rows + 1, dtype=np.int32).reshape(rows, 4)
    mask = np.arange(4)[None, :] < (np.arange(rows) % 5)[:, None]
    whole = make_model_rewards(model, {"scale": jnp.float32(0.5)}, mesh=mesh)(tokens, mask)
    parts = make_model_rewards(
        model._replace(scores=scores), {"scale": jnp.float32(0.5)}, mesh=mesh, rows_at_once=at_once
    )
    np.testing.assert_array_equal(parts(tokens, mask), whole)
    jax.effects_barrier()
    assert seen == passes


def test_temporaries_shrink_with_the_microbatch():
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    model, params = init_model(
        ModelConfig.from_hf({"model_type": "llama", **sizes}), jax.random.key(0), head="reward"
    )
    score = jax.jit(make_last_score(model))

    def temporaries(rows):
        shape = (rows, 64)
        compiled = score.lower(
            params, jax.ShapeDtypeStruct(shape, np.int32), jax.ShapeDtypeStruct(shape, bool)
        ).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(64) > 6 * temporaries(8)
