"""SFT: loss, and which tokens count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import SFTConfig, sft, sft_loss
from rlhf_jax.types import TokenBatch
from tests.contract.fakes import make_batch, make_model, make_params


def test_loss_by_hand():
    loss, metrics = sft_loss(jnp.array([[0.0, -1.0, -3.0]]), jnp.array([[0.0, 0.5, 0.5]]))
    assert (
        float(loss) == 2.0
        and float(metrics["loss/total"]) == 2.0
        and float(metrics["loss/weight"]) == 1.0
    )


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_packing_changes_nothing(aggregation):
    """Two documents in two rows or in one: the same loss; the first token of each is not
    counted."""
    algorithm = sft.make(SFTConfig(aggregation=aggregation), make_model())
    tokens = jnp.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    apart = algorithm.weigh(TokenBatch(tokens, mask, mask))
    packed_tokens, ones = jnp.array([[1, 2, 3, 4, 5, 6, 7, 8]]), jnp.ones((1, 8), bool)
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2]])
    packed = algorithm.weigh(TokenBatch(packed_tokens, ones, ones, segment_ids=segments))
    counted = np.asarray(apart.weights)[np.asarray(mask)]
    np.testing.assert_allclose(packed.weights[0], counted, rtol=1e-6)
    assert float(packed.weights[0, 0]) == 0.0 and float(packed.weights[0, 3]) == 0.0
    np.testing.assert_allclose(packed.weights.sum(), 1.0, rtol=1e-6)


def test_token_and_sequence_averages_differ_as_they_should():
    batch, model, params = make_batch("text", 3), make_model(), make_params(0)
    logps, _ = model.token_logps(params, batch.tokens, batch.mask)
    by_row = [
        np.asarray(row)[np.asarray(m)]
        for row, m in zip(logps, batch.completion_mask, strict=True)
        if m.any()
    ]
    for aggregation, wanted in (
        ("token", -np.concatenate(by_row).mean()),
        ("sequence", -np.mean([row.mean() for row in by_row])),
    ):
        algorithm = sft.make(SFTConfig(aggregation=aggregation), model)
        loss, _ = algorithm.loss({"policy": params}, algorithm.weigh(batch), jax.random.key(0))
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_nothing_to_train_on():
    algorithm = sft.make(SFTConfig(), make_model())
    batch = make_batch("text", 3)
    batch = algorithm.weigh(batch._replace(completion_mask=jnp.zeros_like(batch.completion_mask)))
    loss, metrics = algorithm.loss({"policy": make_params(0)}, batch, jax.random.key(0))
    assert float(loss) == 0.0 and float(metrics["loss/weight"]) == 0.0


def test_one_row():
    algorithm = sft.make(SFTConfig(), make_model())
    tokens, mask = jnp.array([[1, 2]]), jnp.ones((1, 2), bool)
    loss, _ = algorithm.loss(
        {"policy": make_params(0)},
        algorithm.weigh(TokenBatch(tokens, mask, mask)),
        jax.random.key(0),
    )
    logps, _ = make_model().token_logps(make_params(0), tokens, mask)
    np.testing.assert_allclose(loss, -logps[0, 1], rtol=1e-6)


def test_documents_are_counted_where_a_token_is_trained():
    """Two rows, the second with two documents of which one is only read."""
    algorithm = sft.make(SFTConfig(aggregation="sequence"), make_model())
    segments = jnp.array([[1, 1, 1, 0, 0], [1, 1, 2, 2, 2]])
    trained = jnp.array([[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]], bool)
    batch = TokenBatch(jnp.ones((2, 5), int), segments > 0, trained, segment_ids=segments)
    assert int(algorithm.elements(algorithm.weigh(batch))) == 2
    alone = batch._replace(segment_ids=None)
    assert int(algorithm.elements(algorithm.weigh(alone))) == 2


def test_token_metrics():
    """Share of trained tokens that are the argmax, and their entropy; off, nothing is computed."""
    plain = make_model()
    batch, params = make_batch("text", 3), make_params(0)
    best = np.asarray(plain.logits(params, batch.tokens, batch.mask)).argmax(-1)
    first = np.zeros(batch.tokens.shape)
    first[:, 1:] = best[:, :-1] == np.asarray(batch.tokens)[:, 1:]

    def token_logps(params, tokens, mask, *, top=False, **options):
        found = plain.token_logps(params, tokens, mask, **options)
        return (*found, jnp.asarray(first, jnp.float32)) if top else found

    model = plain._replace(token_logps=token_logps, tells_top=True)
    trees = {"policy": params}
    algorithm = sft.make(SFTConfig(), model)
    _, metrics = algorithm.loss(trees, algorithm.weigh(batch), jax.random.key(0))
    trained = np.asarray(batch.completion_mask)
    np.testing.assert_allclose(metrics["accuracy/token"], first[trained].mean(), rtol=1e-6)
    _, spread = plain.token_logps(params, batch.tokens, batch.mask)
    wanted = np.asarray(spread)[trained].mean()
    np.testing.assert_allclose(metrics["policy/entropy"], wanted, rtol=1e-5)
    for config, functions, names in (
        (SFTConfig(token_metrics=False), model, set()),
        (SFTConfig(), plain, {"policy/entropy"}),  # a model that does not tell
    ):
        algorithm = sft.make(config, functions)
        _, metrics = algorithm.loss(trees, algorithm.weigh(batch), jax.random.key(0))
        assert metrics.keys() - {"loss/total", "loss/weight"} == names
