"""The reward model on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.rewards.model import make_model_rewards
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
    rewards = make_model_rewards(_model(), {"scale": jnp.float32(0.5)}, mesh=make_mesh(mesh, devices=devices))
    tokens = np.arange(1, 33, dtype=np.int32).reshape(8, 4)
    lengths = np.array([4, 3, 2, 1, 4, 1, 2, 0])
    mask = np.arange(4)[None, :] < lengths[:, None]
    expected = [0.5 * tokens[row, :length].sum() if length else np.nan for row, length in enumerate(lengths)]
    scores = rewards(tokens, mask)
    assert isinstance(scores, np.ndarray) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.array(expected, np.float32))


def test_a_model_without_head_is_refused():
    with pytest.raises(ValueError, match="the reward model has no scalar head"):
        make_model_rewards(_model()._replace(scores=None), {}, mesh=make_mesh({}))
