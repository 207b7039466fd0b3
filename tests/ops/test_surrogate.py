"""clipped_surrogate_loss, cispo_loss, clipped_value_loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from rlhf_jax.ops import cispo_loss, clipped_surrogate_loss, clipped_value_loss, loss_weights
from tests.oracles import policy as oracle

ONE = jnp.ones((1, 1))

# Hand-derived, eps_low = eps_high = 0.2, one token of weight 1: (ratio, advantage, loss = -min(r A,
# clip(r) A), d loss / d logps = -r A where the plain term is the smaller one, else 0)
CLIP_TABLE = [
    (0.5, 2.0, -1.0, -1.0),  # far below, good action: not clipped, it may come back
    (0.9, 2.0, -1.8, -1.8),  # inside
    (1.1, 2.0, -2.2, -2.2),  # inside
    (1.5, 2.0, -2.4, 0.0),  # above, good action: clipped at 1.2
    (0.5, -2.0, 1.6, 0.0),  # below, bad action: clipped at 0.8
    (0.9, -2.0, 1.8, 1.8),  # inside
    (1.1, -2.0, 2.2, 2.2),  # inside
    (1.5, -2.0, 3.0, 3.0),  # above, bad action: not clipped, it may come back
]


def batch(seed=0, rows=4, width=6):
    rng = np.random.default_rng(seed)
    logps, old = rng.normal(-1.5, 0.5, (rows, width)), rng.normal(-1.5, 0.5, (rows, width))
    advantages, mask = rng.normal(size=(rows, width)), rng.random((rows, width)) < 0.7
    mask[1] = False
    weights = oracle.loss_weights(mask, "token")
    return logps, old, advantages, weights


def to_jax(*arrays, dtype=jnp.float32):
    return [jnp.asarray(x, dtype) for x in arrays]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope"), CLIP_TABLE)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_clip_table(ratio, advantage, loss, slope, level):
    def f(logps):
        return clipped_surrogate_loss(
            logps, jnp.full((1, 1), -2.0), advantage * ONE, ONE, level=level
        )

    (got, metrics), gradient = jax.value_and_grad(f, has_aux=True)(
        jnp.full((1, 1), -2.0 + np.log(ratio))
    )
    np.testing.assert_allclose([got, gradient[0, 0]], [loss, slope], rtol=1e-5, atol=1e-6)
    assert float(metrics["policy/clip_fraction"]) == (slope == 0.0)
    assert float(metrics["policy/clip_fraction_low"]) == (slope == 0.0 and ratio < 1)
    np.testing.assert_allclose(metrics["policy/ratio_max"], ratio, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["policy/approx_kl"], ratio - 1 - np.log(ratio), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "bound"),
    [
        (4.0, -1.0, 3.0, 0.0, 1),
        (2.0, -1.0, 2.0, 2.0, 0),
        (0.5, -1.0, 0.8, 0.0, 0),
        (4.0, 1.0, -1.2, 0.0, 0),
    ],
)
def test_dual_clip_table(ratio, advantage, loss, slope, bound):
    """c = 3: only a negative advantage with a ratio above 3 is held, at c * |A|."""

    def f(logps):
        return clipped_surrogate_loss(logps, 0 * ONE, advantage * ONE, ONE, dual_clip=3.0)

    (got, metrics), gradient = jax.value_and_grad(f, has_aux=True)(
        jnp.full((1, 1), np.log(ratio), jnp.float32)
    )
    np.testing.assert_allclose([got, gradient[0, 0]], [loss, slope], rtol=1e-5, atol=1e-6)
    assert float(metrics["policy/dual_clip_fraction"]) == bound


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(
    ("low", "high", "dual"), [(0.2, 0.2, None), (0.1, 0.4, None), (0.2, 0.28, 1.5)]
)
@pytest.mark.parametrize("jit", [False, True])
def test_matches_oracle(level, low, high, dual, jit):
    arrays = batch()
    wanted, clipped = oracle.surrogate(*arrays, low=low, high=high, dual=dual, level=level)

    def f(*xs):
        return clipped_surrogate_loss(
            *xs, clip_low=low, clip_high=high, dual_clip=dual, level=level
        )

    loss, metrics = (jax.jit(f) if jit else f)(*to_jax(*arrays))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metrics["policy/clip_fraction"], clipped, rtol=1e-5, atol=1e-7)


def test_float64_matches_oracle_to_the_last_digits():
    arrays = batch()
    with jax.enable_x64(True):
        loss, _ = clipped_surrogate_loss(*to_jax(*arrays, dtype=jnp.float64))
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss, oracle.surrogate(*arrays)[0], rtol=1e-13)


@pytest.mark.parametrize("loss", [clipped_surrogate_loss, cispo_loss])
def test_on_policy_gradient_is_reinforce(loss):
    logps, _, advantages, weights = to_jax(*batch())
    gradient = jax.grad(lambda x: loss(x, logps, advantages, weights)[0])(logps)
    np.testing.assert_allclose(gradient, -weights * advantages, rtol=1e-6, atol=1e-8)


def test_sequence_level_gradient_is_the_row_mean():
    """On policy: d/d logps_t = -(1/n) sum_s w_s A_s, the same on each token of the row."""
    logps, _, advantages, weights = to_jax(*batch())
    gradient = jax.grad(
        lambda x: clipped_surrogate_loss(x, logps, advantages, weights, level="sequence")[0]
    )(logps)
    live = weights != 0
    share = (weights * advantages).sum(1, keepdims=True) / jnp.maximum(
        live.sum(1, keepdims=True), 1
    )
    np.testing.assert_allclose(
        gradient, jnp.where(live, jnp.broadcast_to(-share, live.shape), 0), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("loss", [clipped_surrogate_loss, cispo_loss, clipped_value_loss])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_padding_never_leaks(loss, poison):
    arrays = batch()
    clean = to_jax(*arrays)
    off = np.asarray(arrays[3]) == 0
    dirty = to_jax(*[np.where(off, poison, x) for x in arrays[:3]], arrays[3])
    (got, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(*dirty)
    (wanted, wanted_metrics), wanted_gradient = jax.value_and_grad(loss, has_aux=True)(*clean)
    assert float(got) == float(wanted)
    assert {k: float(v) for k, v in metrics.items()} == {
        k: float(v) for k, v in wanted_metrics.items()
    }
    np.testing.assert_array_equal(gradient, wanted_gradient)
    assert (np.asarray(gradient)[off] == 0).all()


@pytest.mark.parametrize("loss", [clipped_surrogate_loss, cispo_loss, clipped_value_loss])
def test_only_the_first_argument_carries_gradients(loss):
    gradients = jax.grad(lambda *xs: loss(*xs)[0], argnums=(0, 1, 2, 3))(*to_jax(*batch()))
    assert (gradients[0] != 0).any()
    assert all((g == 0).all() for g in gradients[1:])


@pytest.mark.parametrize("loss", [clipped_surrogate_loss, cispo_loss, clipped_value_loss])
def test_nothing_to_train_on(loss):
    logps, old, advantages, weights = to_jax(*batch())
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
        logps, old, advantages, 0 * weights
    )
    assert (
        float(value) == 0 and (gradient == 0).all() and all(float(v) == 0 for v in metrics.values())
    )


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("gap", [50.0, -50.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_ratios_are_finite(level, gap, advantage):
    def f(logps):
        return clipped_surrogate_loss(
            logps,
            jnp.full((1, 2), -60.0),
            jnp.full((1, 2), advantage),
            jnp.full((1, 2), 0.5),
            level=level,
        )

    (value, metrics), gradient = jax.value_and_grad(f, has_aux=True)(jnp.full((1, 2), -60.0 + gap))
    assert jnp.isfinite(value) and all(jnp.isfinite(v) for v in metrics.values())
    assert (gradient == 0).all()  # beyond the clamp, and where the clip binds


@pytest.mark.parametrize("loss", [clipped_surrogate_loss, cispo_loss, clipped_value_loss])
def test_bf16_inputs_compute_in_float32(loss):
    half = to_jax(*batch(), dtype=jnp.bfloat16)
    (got, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(*half)
    assert (
        got.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16 and jnp.isfinite(gradient).all()
    )
    assert all(v.dtype == jnp.float32 for v in metrics.values())
    exact, _ = loss(*[x.astype(jnp.float32) for x in half])
    assert float(got) == float(exact)


@pytest.mark.parametrize("mode", ["token", "sequence"])
@pytest.mark.parametrize("loss", [clipped_surrogate_loss, cispo_loss, clipped_value_loss])
def test_microbatches_add_up(loss, mode):
    logps, old, advantages, weights = batch(rows=8)
    weights = loss_weights(jnp.asarray(weights != 0), mode)
    arrays = [*to_jax(logps, old, advantages), weights]
    whole, metrics = loss(*arrays)
    parts = [loss(*[x[i::4] for x in arrays]) for i in range(4)]
    np.testing.assert_allclose(sum(p[0] for p in parts), whole, rtol=1e-5)
    for key, value in metrics.items():
        values = [float(p[1][key]) for p in parts]
        np.testing.assert_allclose(
            max(values) if key.endswith("_max") else sum(values), value, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("jit", [False, True])
def test_cispo_matches_oracle(jit):
    arrays = batch()
    wanted, slope = oracle.cispo(*arrays, high=1.3)

    def f(*xs):
        return cispo_loss(*xs, max_ratio=1.3)[0]

    got, gradient = jax.value_and_grad(jax.jit(f) if jit else f)(*to_jax(*arrays))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-8)


def test_cispo_keeps_the_sign_of_the_gradient():
    """A good, unlikely token of large ratio must rise (EasyDeL's gradient flips here)."""
    gradient = jax.grad(lambda x: cispo_loss(x, x - 3.0, ONE, ONE)[0])(jnp.full((1, 1), -5.0))
    np.testing.assert_allclose(gradient, -5.0)


# (value, old value, return, loss): clip 0.2. The larger of the two errors counts.
VALUE_TABLE = [
    (1.0, 0.0, 1.0, 0.5 * 0.8**2),  # right, but moved too far: held at 0.2
    (0.1, 0.0, 1.0, 0.5 * 0.9**2),  # inside the clip: the plain error
    (0.0, 1.0, 2.0, 0.5 * 2.0**2),  # moved away from the return: the plain error is larger
    (-1.0, 0.0, -1.0, 0.5 * 0.8**2),
]


@pytest.mark.parametrize(("value", "old", "target", "loss"), VALUE_TABLE)
def test_value_table(value, old, target, loss):
    got, _ = clipped_value_loss(value * ONE, old * ONE, target * ONE, ONE)
    np.testing.assert_allclose(got, loss, rtol=1e-6)


@pytest.mark.parametrize("clip", [0.2, 0.5, None])
def test_value_loss_matches_oracle(clip):
    arrays = batch()
    wanted = oracle.value_loss(*arrays, clip=1e9 if clip is None else clip)
    loss, metrics = jax.jit(lambda *xs: clipped_value_loss(*xs, clip=clip))(*to_jax(*arrays))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert (float(metrics["value/clip_fraction"]) > 0) == (clip is not None)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (
            clipped_surrogate_loss,
            {"level": "row"},
            "level='row' is not known: use one of token, sequence",
        ),
        (clipped_surrogate_loss, {"clip_low": -0.1}, "clip_low=-0.1 is out of range"),
        (clipped_surrogate_loss, {"clip_high": float("nan")}, "clip_high=nan"),
        (
            clipped_surrogate_loss,
            {"dual_clip": 1.0},
            "dual_clip=1.0 is out of range: give a finite number with dual_clip > 1",
        ),
        (cispo_loss, {"max_ratio": 0.2}, "max_ratio=0.2 .* max_ratio >= 1"),
        (cispo_loss, {"min_ratio": 2.0}, "min_ratio=2.0 .* min_ratio >= 0 and min_ratio <= 1"),
        (clipped_value_loss, {"clip": 0.0}, "clip=0.0 .* clip > 0"),
    ],
)
def test_bad_arguments(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(ONE, ONE, ONE, ONE, **options)


def test_wrong_shapes_are_refused():
    with pytest.raises(TypeCheckError):
        clipped_surrogate_loss(ONE, ONE, jnp.ones((1, 2)), ONE)


def test_coefficients_may_be_traced():
    """A sweep over clips in one program."""
    arrays = to_jax(*batch())
    highs = jnp.array([0.1, 0.4])
    losses = jax.vmap(lambda high: clipped_surrogate_loss(*arrays, clip_high=high)[0])(highs)
    np.testing.assert_allclose(
        losses, [clipped_surrogate_loss(*arrays, clip_high=float(h))[0] for h in highs], rtol=1e-5
    )
