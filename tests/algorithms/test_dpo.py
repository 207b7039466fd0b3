"""DPO and its relatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import DPOConfig, dpo, dpo_loss
from rlhf_jax.algorithms.forward import completion_logps
from rlhf_jax.algorithms.pair_losses import LOSS_TYPES, SMOOTHED
from rlhf_jax.training import make_step, make_train_state
from tests.contract.fakes import make_batch, make_model, make_params
from tests.oracles import preference as oracle

SETTINGS = [(t, 0.0) for t in LOSS_TYPES if t != "exo_pair"] + [(t, 0.2) for t in SMOOTHED]
LENGTHS = np.array([[3, 9], [4, 4], [12, 2], [1, 5], [7, 7], [1, 1]])


def numbers(seed=8, pairs=6):
    rng = np.random.default_rng(seed)
    return [rng.normal(-20, 5, pairs) for _ in range(4)], np.array([0.3, 0.3, 0.2, 0.2, 0.0, 0.0])


@pytest.mark.parametrize(("loss_type", "smoothing"), SETTINGS)
@pytest.mark.parametrize("jit", [False, True])
def test_matches_oracle(loss_type, smoothing, jit):
    logps, weights = numbers()
    if loss_type in ("aot", "aot_unpaired"):
        weights = np.array([0.25, 0.25, 0.25, 0.25, 0.0, 0.0])
    pairs = list(zip(*logps, strict=True))
    options = {"beta": 0.1, "loss_type": loss_type}
    wanted = oracle.dpo_batch(pairs, weights, LENGTHS, smoothing=smoothing, **options)

    def f(*xs):
        return dpo_loss(
            *xs,
            label_smoothing=smoothing,
            lengths=jnp.asarray(LENGTHS, jnp.float32),
            token_weights=token_weights(weights),
            **options,
        )[0]

    loss = (jax.jit(f) if jit else f)(*(jnp.asarray(x, jnp.float32) for x in (*logps, weights)))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def token_weights(weights):
    """Every token of a real pair's chosen answer alike."""
    real = np.asarray(weights) > 0
    return jnp.asarray(real / LENGTHS[real, 0].sum(), jnp.float32)


@pytest.mark.parametrize("loss_type", ["ipo", "sigmoid_norm"])
def test_ratios_per_token_from_the_caller(loss_type):
    """Without lengths the numbers are what the caller has divided."""
    logps, weights = numbers()
    arrays = [jnp.asarray(x, jnp.float32) for x in logps]
    lengths = jnp.asarray(LENGTHS, jnp.float32)
    divided = [x / lengths[:, place % 2] for place, x in enumerate(arrays)]
    weights = jnp.asarray(weights, jnp.float32)
    loss, metrics = dpo_loss(*arrays, weights, loss_type=loss_type, lengths=lengths)
    other, _ = dpo_loss(*divided, weights, loss_type=loss_type)
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    # as TRL, rewards are of sums
    plain = dpo_loss(*arrays, weights)[1]
    assert float(metrics["rewards/margin"]) == float(plain["rewards/margin"])


def test_several_losses_are_a_weighted_sum():
    logps, weights = numbers()
    arrays = [jnp.asarray(x, jnp.float32) for x in (*logps, weights)]
    names = ("sigmoid", "ipo", "sft")
    options = {
        "lengths": jnp.asarray(LENGTHS, jnp.float32),
        "token_weights": token_weights(weights),
    }
    alone = [float(dpo_loss(*arrays, loss_type=name, **options)[0]) for name in names]
    loss, metrics = dpo_loss(*arrays, loss_type=names, **options)
    np.testing.assert_allclose(loss, sum(alone), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/sft"], alone[2], rtol=1e-6)
    scaled, metrics = dpo_loss(*arrays, loss_type=names, loss_weights=(0.8, 0.2, 0.5), **options)
    np.testing.assert_allclose(scaled, np.dot(alone, (0.8, 0.2, 0.5)), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/sft"], alone[2], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/preference"], np.dot(alone[:2], (0.8, 0.2)), rtol=1e-6)


# At equal log-ratios (h = 0, beta = 0.5): loss and (d/d chosen, d/d rejected), by hand.
AT_ZERO = {
    ("sigmoid", 0.0): (np.log(2), -0.25, 0.25),
    ("sigmoid", 0.2): (np.log(2), -0.15, 0.15),
    ("robust", 0.2): (np.log(2), -0.25 / 0.6, 0.25 / 0.6),
    ("ipo", 0.0): (1.0, -2.0, 2.0),
    ("hinge", 0.0): (1.0, -0.5, 0.5),
    ("apo_zero", 0.0): (1.0, -0.125, 0.125),
    ("apo_down", 0.0): (1.0, 0.0, 0.125),
    # KL of (1/2, 1/2) to (0.9, 0.1); its slope in the logit is log(0.1 / 0.9) / 4
    ("exo_pair", 0.1): (-np.log(2) - np.log(0.09) / 2, -np.log(9) / 8, np.log(9) / 8),
    ("nca_pair", 0.0): (2 * np.log(2), -0.125, 0.125),
    ("bco_pair", 0.0): (2 * np.log(2), -0.25, 0.25),
    ("sppo_hard", 0.0): (2.0, -2.0, 2.0),
    ("aot", 0.2): (np.log(2), -0.15, 0.15),
    ("aot_unpaired", 0.0): (np.log(2), -0.25, 0.25),
    # m = 1/2 and dm/dl = 1 / (4 tau) = 5: -1/4 - 5 log 2 - 1/2 + 5
    ("discopop", 0.0): (
        np.log(2) / 2 + 0.5,
        (4.25 - 5 * np.log(2)) / 2,
        (5 * np.log(2) - 4.25) / 2,
    ),
    ("sft", 0.0): (1.0, -1 / 3, 0.0),
    ("sigmoid_norm", 0.0): (np.log(2), -0.25, 0.25),
}


def test_every_loss_has_a_value_by_hand():
    assert {name for name, _ in AT_ZERO} == set(LOSS_TYPES)


@pytest.mark.parametrize(("loss_type", "smoothing"), list(AT_ZERO))
def test_values_and_slopes_at_zero(loss_type, smoothing):
    x, one = jnp.full(1, -3.0), jnp.ones(1)

    def f(chosen, rejected):
        return dpo_loss(
            chosen,
            rejected,
            x,
            x,
            one,
            beta=0.5,
            loss_type=loss_type,
            label_smoothing=smoothing,
            token_weights=one / 3,
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
        shares = token_weights(weights)
        return dpo_loss(*xs, loss_type=loss_type, label_smoothing=smoothing, token_weights=shares)[
            0
        ]

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
            token_weights=one,
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
            "label_smoothing=0.1 has no meaning for loss_type='ipo': use one of sigmoid, exo_pair, "
            "robust, aot, aot_unpaired",
        ),
        ({"loss_type": "exo_pair"}, "label_smoothing=0 makes .* set label_smoothing=0.001"),
        ({"loss_type": []}, "loss_type=.* is no loss: name one or several"),
        ({"loss_type": ["sft", "sft"]}, "'sft' stands there twice"),
        ({"loss_type": ["sigmoid", "stf"]}, "loss_type='stf' is not known: .*did you mean 'sft'"),
        (
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]},
            "loss_weights=.1.0. has 1 numbers for 2 losses .sigmoid, sft.: give one each",
        ),
        ({"loss_weights": [0.0]}, "loss_weights=.0.0. are all 0: nothing is trained"),
        ({"loss_weights": [-1.0]}, "loss_weights=-1.0 is out of range: .* loss_weights >= 0"),
        ({"discopop_tau": 0.0}, "discopop_tau=0.0 is out of range: .* discopop_tau > 0"),
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
    with pytest.raises(ValueError, match="^token_weights=None: loss_type='sft' is a mean over"):
        dpo_loss(one, one, one, one, one, loss_type=("sigmoid", "sft"))


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "aot", "label_smoothing": 0.1},
        {"loss_type": "aot_unpaired"},
        {"loss_type": ("sigmoid", "sft"), "loss_weights": (1.0, 0.1)},
        {"loss_type": "aot", "reference": "online"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_whole_steps_in_microbatches(world, options):
    """What compares or averages over the whole batch does so whatever it is split into."""
    model, params, ref, batch = world
    algorithm = dpo.make(DPOConfig(**options), model)
    if "ref_logps" in algorithm.cached:
        batch = batch._replace(ref_logps=completion_logps(model, "ref")({"ref": ref}, batch))
    tx = optax.sgd(0.1)
    found = []
    for parts in (1, 4):
        step = jax.jit(make_step(algorithm, tx, num_microbatches=parts))
        state = make_train_state({"policy": params}, tx, jax.random.key(0))
        found.append(step(state, {"ref": ref}, batch, jax.random.key(1)))
    (whole, metrics), (split, others) = found
    np.testing.assert_allclose(metrics["loss/total"], others["loss/total"], rtol=1e-5)
    assert float(metrics["grad_norm"]) > 1e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        whole.params,
        split.params,
    )


def test_matched_pairs_have_the_gradient_of_sorted_ones(world):
    """Through `make`, whose ranks were settled before, as through the function, which sorts."""
    model, params, ref, batch = world
    config = DPOConfig(loss_type="aot_unpaired", beta=0.5)
    algorithm = dpo.make(config, model)
    score = completion_logps(model, "policy")
    batch = batch._replace(
        ref_logps=completion_logps(model, "ref")({"ref": ref}, batch),
        policy_logps=score({"policy": params}, batch),
    )
    batch, _, _ = algorithm.prepare(batch, {})
    batch = algorithm.weigh(batch)

    def direct(params):
        logps = score({"policy": params}, batch)
        ref = batch.ref_logps
        up, down = (logps - ref).T
        real = np.flatnonzero(batch.valid)
        margin = jnp.sort(up[real]) - jnp.sort(down[real])
        return jnp.mean(-jax.nn.log_sigmoid(0.5 * margin))

    def made(params):
        return algorithm.loss({"policy": params}, batch, jax.random.key(0))[0]

    (wanted, slope), (loss, gradient) = (jax.value_and_grad(f)(params) for f in (direct, made))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, slope
    )
