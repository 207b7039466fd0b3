"""The forward pass: execution changes nothing, documents are isolated, padding is harmless."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import REMAT, init_model, make_model
from rlhf_jax.models.transformer import document_positions, layer_plan, unstack
from tests.conftest import quick
from tests.models.tiny import max_difference, noisy, ragged, tiny


def loss_and_grads(model, params, segment_ids=None):
    tokens, mask = ragged()

    def loss(params):
        logps, _ = model.token_logps(params, tokens, mask, segment_ids=segment_ids)
        return -logps.sum() / mask.sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def gemma():
    """Four layers, a scan over two periods (sliding, full); every feature but biases."""
    config = tiny("gemma3_text", final_logit_softcapping=5.0)
    model, params = init_model(config, jax.random.key(0), layers="scan", remat="none")
    params = noisy(params)
    return config, params, loss_and_grads(model, params)


@pytest.fixture(scope="module")
def qwen():
    """Two equal layers in one scan: quick to compile."""
    config = tiny("qwen3", num_hidden_layers=2)
    model, params = init_model(config, jax.random.key(0), layers="scan", remat="none")
    return config, params, loss_and_grads(model, params)


@pytest.mark.parametrize(
    "remat", quick([name for name in REMAT if name != "none"], ("products", "full"))
)
def test_remat_changes_nothing(qwen, remat):
    config, params, (loss, grads) = qwen
    other = loss_and_grads(make_model(config, layers="scan", remat=remat), params)
    assert abs(float(loss - other[0])) < 1e-6
    assert max_difference(grads, other[1]) < 1e-5


def test_remat_keeps_less(qwen):
    config, params, _ = qwen
    tokens, mask = ragged()

    def kept(remat):
        model = make_model(config, layers="unroll", remat=remat)
        residuals = jax.eval_shape(
            lambda p: jax.vjp(lambda p: model.hidden(p, tokens, mask), p)[1], params
        )
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    assert kept("full") < kept("save_attention") < kept("dots_no_batch") < kept("none")


@pytest.mark.slow
def test_unrolled_equals_scanned(gemma):
    config, params, (loss, grads) = gemma
    other = loss_and_grads(make_model(config, layers="unroll"), params)
    assert abs(float(loss - other[0])) < 1e-6
    assert max_difference(grads, other[1]) < 1e-5


def test_bfloat16_compute_keeps_float32_parameters_and_gradients(qwen):
    config, params, (loss, _) = qwen
    model = make_model(config, compute_dtype="bfloat16", layers="scan")
    tokens, mask = ragged()
    other = -jax.jit(lambda p: model.token_logps(p, tokens, mask)[0])(params).sum() / mask.sum()
    assert other.dtype == jnp.float32 and 0 < abs(float(loss - other)) < 0.02 * abs(float(loss))
    grads = jax.eval_shape(jax.grad(lambda p: model.token_logps(p, tokens, mask)[0].sum()), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
    state = jax.eval_shape(model.hidden, params, tokens, mask)
    assert state.dtype == jnp.bfloat16
    assert jax.eval_shape(model.logits, params, tokens, mask).dtype == jnp.float32


def test_token_logps_without_entropy(gemma):
    config, params, _ = gemma
    model = make_model(config)
    tokens, mask = ragged()

    def run(entropy):
        return jax.jit(lambda p: model.token_logps(p, tokens, mask, entropy=entropy))

    (logps, entropies), (alone, nothing) = run(True)(params), run(False)(params)
    assert entropies.shape == tokens.shape and nothing is None
    dropped = jax.jit(lambda p: model.token_logps(p, tokens, mask)[0])(params)
    np.testing.assert_array_equal(dropped, alone)
    # one program with the entropy in it: another fusion, and the last bit of a few values
    np.testing.assert_allclose(logps, alone, rtol=1e-6)
    work = [run(e).lower(params).compile().cost_analysis()["flops"] for e in (False, True)]
    assert work[0] < work[1]


def test_token_logps_are_those_of_the_logits(gemma):
    config, params, _ = gemma
    model = make_model(config)
    tokens, mask = ragged()

    @jax.jit
    def both(params):
        return model.logits(params, tokens, mask), *model.token_logps(
            params, tokens, mask, temperature=0.7
        )

    logits, logps, entropy = both(params)
    logits = np.asarray(logits, np.float64) / 0.7
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.zeros(tokens.shape)
    expected[:, 1:] = np.take_along_axis(table[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    expected_entropy = np.zeros(tokens.shape)
    expected_entropy[:, 1:] = -(np.exp(table) * table).sum(-1)[:, :-1]
    assert np.abs(np.asarray(logps) - expected * mask).max() < 1e-5
    assert np.abs(np.asarray(entropy) - expected_entropy * mask).max() < 1e-5
    assert np.abs(logits * 0.7).max() <= 5.0 and np.abs(logits * 0.7).max() > 1.0


def test_scored_columns_agree_with_all_columns(gemma):
    config, params, _ = gemma
    model = make_model(config)
    tokens, mask = ragged()
    scored = np.full((3, 4), -1, np.int32)
    scored[:, 0], scored[0, 1:] = 2, (5, 9, 19)

    @jax.jit
    def both(params):
        every, _ = model.token_logps(params, tokens, mask)
        return every, model.token_logps(params, tokens, mask, scored=jnp.asarray(scored))[0]

    logps, some = both(params)
    chosen = np.zeros(tokens.shape, bool)
    chosen[:, 2] = True
    chosen[0, [5, 9, 19]] = True
    np.testing.assert_allclose(
        np.asarray(some), np.where(chosen & mask, np.asarray(logps), 0.0), atol=1e-6
    )


@pytest.mark.parametrize("layers", ["unroll", "scan"])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_what_is_read_of_scored_columns_is_what_is_read_of_all(layers, remat):
    """Log-probabilities and values of one pass, and their gradients; unrolled, the last layer
    computes the scored columns alone."""
    config = tiny("gemma3_text", num_hidden_layers=2)
    model, params = init_model(config, jax.random.key(0), layers=layers, remat=remat, head="value")
    params = noisy(params)
    tokens, mask = ragged()
    scored = np.full((3, 4), -1, np.int32)
    scored[:, 0], scored[0, 1:] = 2, (5, 9, 19)
    wanted = np.zeros(tokens.shape, bool)
    for row, columns in enumerate(scored):
        wanted[row, columns[columns > 0]] = True
    wanted &= mask
    cotangents = np.random.default_rng(0).normal(size=(2, *tokens.shape)).astype(np.float32)

    def both(params, **options):
        found = model.read(params, tokens, mask, values=True, entropy=False, **options)
        pair = jnp.where(wanted, jnp.stack([found.logps, found.values]), 0)
        return (pair * cotangents).sum(), pair

    run = jax.value_and_grad(both, has_aux=True)
    every = jax.jit(run)(params)
    some = jax.jit(lambda params: run(params, scored=jnp.asarray(scored)))(params)
    np.testing.assert_allclose(every[0][1], some[0][1], rtol=1e-5, atol=1e-6)
    assert max_difference(every[1], some[1]) < 1e-5
    scores = np.asarray(jax.jit(model.scores)(params, tokens, mask))
    before = np.where(wanted[:, 1:], scores[:, :-1], 0)
    np.testing.assert_allclose(some[0][1][1][:, 1:], before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["gemma3_text", "gpt2"])
def test_packed_documents_are_isolated_exactly(family):
    model, params = init_model(
        tiny(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 2}),
        jax.random.key(0),
    )
    params = noisy(params)
    rng = np.random.default_rng(3)
    tokens = rng.integers(1, 64, (2, 24)).astype(np.int32)
    segments = np.repeat([[1, 2, 3, 0]], [9, 8, 4, 3], axis=1).repeat(2, axis=0).astype(np.int32)
    changed = np.where(segments == 2, (tokens + 1) % 64, tokens)
    mask = segments > 0

    @jax.jit
    def outputs(tokens):
        hidden = model.hidden(params, tokens, mask, segment_ids=segments)
        return hidden, model.token_logps(params, tokens, mask, segment_ids=segments)[0]

    before, after = outputs(tokens), outputs(changed)
    for x, y in zip(before, after, strict=True):
        assert np.array_equal(np.asarray(x)[segments != 2], np.asarray(y)[segments != 2])
        assert not np.array_equal(np.asarray(x)[segments == 2], np.asarray(y)[segments == 2])
    hidden, logps = map(np.asarray, before)
    assert np.isfinite(hidden).all()
    alone = jax.jit(lambda t: model.hidden(params, t, np.ones((2, 8), bool)))(tokens[:, 9:17])
    assert np.abs(np.asarray(alone) - hidden[:, 9:17]).max() < 1e-5
    assert (logps[:, [0, 9, 17]] == 0).all()


def test_padding_does_not_reach_real_tokens():
    model, params = init_model(
        tiny("mistral", num_hidden_layers=2), jax.random.key(0), head="reward"
    )
    params = noisy(params)
    tokens, mask = ragged()
    apply = jax.jit(lambda t: model.scores(params, t, mask))
    noise = np.random.default_rng(1).integers(0, 64, tokens.shape).astype(np.int32)
    before, after = np.asarray(apply(tokens)), np.asarray(apply(np.where(mask, tokens, noise)))
    assert np.array_equal(before[mask], after[mask])
    assert np.isfinite(before).all() and np.isfinite(after).all()


def test_document_positions_restart():
    segments = np.asarray([[1, 1, 1, 2, 2, 3, 0, 0], [5, 5, 5, 5, 5, 5, 5, 5]], np.int32)
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert np.asarray(document_positions(segments)).tolist() == expected


def test_layer_plan_groups_periods_and_runs():
    s, f = "sliding", "full"
    assert layer_plan((f,) * 4) == [(0, (f,), 4)]
    assert layer_plan((s, s, f, s, s, f, s)) == [(0, (s, s, f), 2), (6, (s,), 1)]
    assert layer_plan((f, f, f, s, s)) == [(0, (f,), 3), (3, (s,), 2)]
    assert layer_plan((f,)) == [(0, (f,), 1)]


def test_unstack_returns_layers_and_one_concatenated_gradient():
    stacked = {"a": jnp.arange(6.0).reshape(3, 2)}
    assert [layer["a"].tolist() for layer in unstack(stacked, 3)] == [[0, 1], [2, 3], [4, 5]]
    grads = jax.grad(
        lambda p: sum((i + 1) * layer["a"].sum() for i, layer in enumerate(unstack(p, 3)))
    )(stacked)
    assert grads["a"].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert "pad" not in str(
        jax.make_jaxpr(jax.grad(lambda p: sum(layer["a"].sum() for layer in unstack(p, 3))))(
            stacked
        )
    )


def test_rows_longer_than_learned_positions_are_refused():
    model, params = init_model(tiny("gpt2", n_positions=8), jax.random.key(0))
    tokens, mask = ragged()
    with pytest.raises(ValueError, match="20 tokens exceed the model's 8 learned positions"):
        model.hidden(params, tokens, mask)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("remat", "some"),
        ("layers", "loop"),
        ("compute_dtype", "int8"),
        ("attention", "flash"),
        ("head", "q"),
    ],
)
def test_unknown_choices_list_what_is_allowed(name, value):
    with pytest.raises(ValueError, match=rf"{name}='{value}' is unknown; allowed: ") as caught:
        make_model(tiny("llama"), **{name: value})
    assert "\n" not in str(caught.value)
