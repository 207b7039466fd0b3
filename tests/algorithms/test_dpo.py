"""DPO and its relatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import DPOConfig, dpo, dpo_loss
from rlhf_jax.algorithms.dpo import LOSS_TYPES
from rlhf_jax.algorithms.forward import completion_logps
from tests.contract.fakes import make_batch, make_model, make_params
from tests.oracles import preference as oracle

SETTINGS = [(t, 0.0) for t in LOSS_TYPES] + [("sigmoid", 0.2), ("robust", 0.2)]


def numbers(seed=8, pairs=6):
    rng = np.random.default_rng(seed)
    return [rng.normal(-20, 5, pairs) for _ in range(4)], np.array([0.3, 0.3, 0.2, 0.2, 0.0, 0.0])


@pytest.mark.parametrize(("loss_type", "smoothing"), SETTINGS)
@pytest.mark.parametrize("jit", [False, True])
def test_matches_oracle(loss_type, smoothing, jit):
    logps, weights = numbers()
    wanted = sum(
        w * oracle.dpo(*pair, beta=0.1, loss_type=loss_type, smoothing=smoothing)
        for *pair, w in zip(*logps, weights, strict=True)
    )

    def f(*xs):
        return dpo_loss(*xs, beta=0.1, loss_type=loss_type, label_smoothing=smoothing)[0]

    loss = (jax.jit(f) if jit else f)(*(jnp.asarray(x, jnp.float32) for x in (*logps, weights)))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


# At equal log-ratios (h = 0, beta = 0.5): loss and (d/d chosen, d/d rejected), by hand.
AT_ZERO = {
    ("sigmoid", 0.0): (np.log(2), -0.25, 0.25),
    ("sigmoid", 0.2): (np.log(2), -0.15, 0.15),
    ("robust", 0.2): (np.log(2), -0.25 / 0.6, 0.25 / 0.6),
    ("ipo", 0.0): (1.0, -2.0, 2.0),
    ("hinge", 0.0): (1.0, -0.5, 0.5),
    ("apo_zero", 0.0): (1.0, -0.125, 0.125),
    ("apo_down", 0.0): (1.0, 0.0, 0.125),
}


@pytest.mark.parametrize(("loss_type", "smoothing"), list(AT_ZERO))
def test_values_and_slopes_at_zero(loss_type, smoothing):
    x, one = jnp.full(1, -3.0), jnp.ones(1)

    def f(chosen, rejected):
        return dpo_loss(
            chosen, rejected, x, x, one, beta=0.5, loss_type=loss_type, label_smoothing=smoothing
        )[0]

    loss, (up, down) = jax.value_and_grad(f, argnums=(0, 1))(x, x)
    np.testing.assert_allclose(
        [loss, up[0], down[0]], AT_ZERO[loss_type, smoothing], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(("loss_type", "smoothing"), SETTINGS)
def test_fillers_and_references_carry_no_gradient(loss_type, smoothing):
    logps, weights = numbers()
    for x in logps:
        x[4], x[5] = np.nan, -np.inf
    arrays = [jnp.asarray(x, jnp.float32) for x in (*logps, weights)]

    def f(*xs):
        return dpo_loss(*xs, loss_type=loss_type, label_smoothing=smoothing)[0]

    loss, gradients = jax.value_and_grad(f, argnums=(0, 1, 2, 3, 4))(*arrays)
    assert jnp.isfinite(loss)
    assert all(jnp.isfinite(g).all() and (g[4:] == 0).all() for g in gradients)
    assert (gradients[0][:4] != 0).all()
    assert all((g == 0).all() for g in gradients[2:])


@pytest.mark.parametrize(("loss_type", "smoothing"), SETTINGS)
@pytest.mark.parametrize("gap", [50.0, -50.0, 2000.0, -2000.0])
def test_extreme_ratios_are_finite(loss_type, smoothing, gap):
    zero, one = jnp.zeros(1), jnp.ones(1)

    def f(chosen, rejected):
        return dpo_loss(
            chosen,
            rejected,
            zero,
            zero,
            one,
            beta=1.0,
            loss_type=loss_type,
            label_smoothing=smoothing,
        )[0]

    loss, gradients = jax.value_and_grad(f, argnums=(0, 1))(jnp.full(1, gap), jnp.full(1, -gap))
    assert jnp.isfinite(loss) and all(jnp.isfinite(g).all() for g in gradients)


def test_accuracy_where_policy_and_reference_are_equal():
    """Before the first step nothing is known: 0.5, not "always wrong"."""
    logps = jnp.array([-3.0, -8.0, -1.5])
    _, metrics = dpo_loss(logps, logps - 1, logps, logps - 1, jnp.full(3, 1 / 3))
    assert float(metrics["rewards/accuracy"]) == pytest.approx(0.5)


def test_metrics():
    """Three pairs, the last a filler: rewards are beta * log-ratio, a tie counts half."""
    chosen, rejected = jnp.array([-1.0, -4.0, 0.0]), jnp.array([-3.0, -4.0, -9.0])
    ref = jnp.array([-2.0, -2.0, -5.0])
    _, metrics = dpo_loss(chosen, rejected, ref, ref, jnp.array([0.5, 0.5, 0.0]), beta=0.5)
    wanted = {
        "rewards/chosen": -0.25,
        "rewards/rejected": -0.75,
        "rewards/margin": 0.5,
        "rewards/accuracy": 0.75,
        "logps/chosen": -2.5,
        "logps/rejected": -3.5,
        "loss/weight": 1.0,
    }
    assert {k: float(metrics[k]) for k in wanted} == wanted


def test_bf16_and_float64():
    half = [jnp.asarray(x, jnp.bfloat16) for x in numbers()[0]]
    weights = jnp.asarray(numbers()[1])
    assert dpo_loss(*half, weights)[0].dtype == jnp.float32
    with jax.enable_x64(True):
        logps, weights = numbers()
        loss, _ = dpo_loss(*(jnp.asarray(x, jnp.float64) for x in (*logps, weights)))
        wanted = sum(
            w * oracle.dpo(*p, beta=0.1, loss_type="sigmoid")
            for *p, w in zip(*logps, weights, strict=True)
        )
        np.testing.assert_allclose(loss, wanted, rtol=1e-13)


@pytest.fixture(scope="module")
def world():
    batch = make_batch("pairs", 1)
    return make_model(), make_params(0), make_params(9), batch


def test_sequence_logps(world):
    model, params, _, batch = world
    batch = batch._replace(completion_mask=batch.completion_mask.at[2, 1].set(False))
    trees = {"policy": params}
    total = completion_logps(model, "policy")(trees, batch)
    mean = completion_logps(model, "policy", average=True)(trees, batch)
    score = jax.jit(model.token_logps)
    completion = np.asarray(batch.completion_mask)
    for pair in range(batch.tokens.shape[0]):
        for side in range(2):
            logps, _ = score(params, batch.tokens[pair, side][None], batch.mask[pair, side][None])
            kept = np.asarray(logps[0])[completion[pair, side]]
            np.testing.assert_allclose(total[pair, side], kept.sum(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(
                mean[pair, side], kept.sum() / max(len(kept), 1), rtol=1e-5, atol=1e-6
            )
    assert float(total[2, 1]) == 0.0


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_precomputed_equals_online(world, loss_type):
    model, params, ref, batch = world
    online = dpo.make(DPOConfig(loss_type=loss_type, reference="online"), model)
    cached = dpo.make(DPOConfig(loss_type=loss_type), model)
    assert not online.needs and not online.cached and set(cached.cached) == {"ref_logps"}
    scored = batch._replace(ref_logps=completion_logps(model, "ref")({"ref": ref}, batch))

    def step(algorithm, argnums):
        def f(params, frozen, batch):
            trees = {"policy": params, **frozen}
            return algorithm.loss(trees, algorithm.weigh(batch), jax.random.key(0))[0]

        return jax.jit(jax.value_and_grad(f, argnums=argnums))

    first, gradient = step(online, (0, 1))(params, {"ref": ref}, batch)
    second, other = step(cached, 0)(params, {}, scored)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient[0], other
    )
    assert all((g == 0).all() for g in jax.tree.leaves(gradient[1]))


def test_no_reference(world):
    model, params, _, batch = world
    algorithm = dpo.make(DPOConfig(reference="none"), model)
    loss, _ = algorithm.loss({"policy": params}, algorithm.weigh(batch), jax.random.key(0))
    zero = dpo.make(DPOConfig(), model)
    wanted, _ = zero.loss(
        {"policy": params},
        zero.weigh(batch._replace(ref_logps=jnp.zeros(batch.tokens.shape[:2]))),
        jax.random.key(0),
    )
    assert float(loss) == float(wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "sigmoidd"}, "loss_type='sigmoidd' is not known: .*did you mean 'sigmoid'"),
        (
            {"loss_type": "ipo", "label_smoothing": 0.1},
            "label_smoothing=0.1 has no meaning for loss_type='ipo': use sigmoid or robust",
        ),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5 is out of range: .* label_smoothing < 0.5"),
        ({"beta": 0.0}, "beta=0.0 is out of range: .* beta > 0"),
        (
            {"reference": "cached"},
            "reference='cached' is not known: use one of precomputed, online, none",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DPOConfig(**options)


def test_the_function_refuses_too():
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="loss_type='kto' is not known"):
        dpo_loss(one, one, one, one, one, loss_type="kto")
