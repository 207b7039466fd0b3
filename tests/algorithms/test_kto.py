"""KTO: single answers against a baseline."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import KTOConfig, kto, kto_loss
from rlhf_jax.algorithms.forward import completion_logps
from rlhf_jax.loops.held_out import make_eval_step
from rlhf_jax.training import make_step, make_train_state
from tests.contract.fakes import make_batch, make_model, make_params
from tests.oracles import preference as oracle

KEY = jax.random.key(0)
LABELS = np.array([True, False, True, True, False, False, True])
WEIGHTS = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.0, 0.0])


def numbers(seed=4):
    rng = np.random.default_rng(seed)
    return [rng.normal(-20, 5, len(LABELS)) for _ in range(2)]


def arrays(*values):
    return [jnp.asarray(x, jnp.float32) for x in values]


@pytest.mark.parametrize("baseline", [0.0, 1.7])
@pytest.mark.parametrize("jit", [False, True])
def test_matches_oracle(baseline, jit):
    logps, ref = numbers()
    rows = [(p, r, y) for p, r, y, w in zip(logps, ref, LABELS, WEIGHTS, strict=True) if w]
    options = {"beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    wanted = oracle.kto(
        rows, beta=0.2, desirable=1.3, undesirable=0.7, unrelated=[(baseline, 0.0)] * 2
    )

    def f(logps, ref, weights):
        return kto_loss(logps, ref, jnp.asarray(LABELS), weights, baseline=baseline, **options)[0]

    loss = (jax.jit(f) if jit else f)(*arrays(logps, ref, WEIGHTS))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


# beta = 0.5: log-ratio, baseline and label, then loss and slope by hand.
BY_HAND = [
    (0.0, 0.0, True, 0.5, -0.125),
    (0.0, 0.0, False, 0.5, 0.125),
    (2 * np.log(3), 0.0, True, 0.25, -0.5 * 3 / 16),  # σ(log 3) = 3/4
    (2 * np.log(3), 0.0, False, 0.75, 0.5 * 3 / 16),
    (-2 * np.log(3), 0.0, True, 0.75, -0.5 * 3 / 16),
    (0.0, 2 * np.log(3), True, 0.75, -0.5 * 3 / 16),  # as good as nothing beside the drift
    (0.0, 2 * np.log(3), False, 0.25, 0.5 * 3 / 16),
]


@pytest.mark.parametrize(("ratio", "baseline", "label", "loss", "slope"), BY_HAND)
def test_by_hand(ratio, baseline, label, loss, slope):
    one = jnp.ones(1)

    def f(logps, ref, z):
        label_of = jnp.array([label])
        return kto_loss(logps, ref, label_of, one, baseline=z, beta=0.5)[0]

    got, (up, down, drift) = jax.value_and_grad(f, argnums=(0, 1, 2))(
        jnp.full(1, ratio - 3.0), jnp.full(1, -3.0), jnp.full(1, baseline)
    )
    np.testing.assert_allclose([got, up[0]], [loss, slope], rtol=1e-5)
    assert float(down[0]) == 0 and float(drift[0]) == 0


def test_fillers_and_references_carry_no_gradient():
    logps, ref = numbers()
    logps[5], ref[6] = np.nan, -np.inf
    inputs = arrays(logps, ref, WEIGHTS)

    def f(logps, ref, weights):
        shares = jnp.stack([weights, weights], axis=1)
        return kto_loss(logps, ref, jnp.asarray(LABELS), weights, shares=shares)

    (loss, metrics), gradients = jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True)(*inputs)
    assert jnp.isfinite(loss) and all(jnp.isfinite(x) for x in metrics.values())
    assert all(jnp.isfinite(g).all() and (g[5:] == 0).all() for g in gradients)
    assert (gradients[0][:5] != 0).all() and (gradients[1] == 0).all()


@pytest.mark.parametrize("gap", [50.0, -50.0, 4000.0, -4000.0])
def test_extreme_ratios_are_finite(gap):
    for label in (True, False):

        def f(logps, label=label):
            return kto_loss(logps, jnp.zeros(1), jnp.array([label]), jnp.ones(1), beta=1.0)[0]

        loss, gradient = jax.value_and_grad(f)(jnp.full(1, gap))
        assert 0 <= float(loss) <= 1 and jnp.isfinite(gradient).all()


def test_metrics():
    """Two desirable answers, one undesirable, a filler; means are over each kind."""
    logps, ref = arrays([-1.0, -4.0, -2.0, 0.0], [-2.0, -2.0, -5.0, 0.0])
    label, valid = jnp.array([True, True, False, False]), jnp.array([True, True, True, False])
    batch = make_batch("unpaired", rows=4)._replace(label=label, valid=valid)
    weighed = kto.make(KTOConfig(), make_model()).weigh(batch)
    _, metrics = kto_loss(
        logps, ref, label, weighed.weights, shares=weighed.shares, beta=0.5, baseline=1.0
    )
    wanted = {
        "rewards/chosen": 0.5 * (1 - 2) / 2,
        "rewards/rejected": 0.5 * 3,
        "logps/chosen": -2.5,
        "logps/rejected": -2.0,
        "rewards/accuracy": 0.5 / 3,  # a tie with the baseline, two on the wrong side
        "loss/weight": 1.0,
    }
    for name, value in wanted.items():
        assert float(metrics[name]) == pytest.approx(value), name


def test_a_mean_over_nothing_is_not_zero():
    batch = make_batch("unpaired", rows=4)
    batch = batch._replace(label=batch.valid)
    weighed = kto.make(KTOConfig(), make_model()).weigh(batch)
    ones = jnp.ones(4)
    _, metrics = kto_loss(ones, ones, batch.label, weighed.weights, shares=weighed.shares)
    assert jnp.isnan(metrics["rewards/rejected"]) and not jnp.isnan(metrics["rewards/chosen"])


def test_accuracy_where_policy_and_reference_are_equal():
    logps, _ = arrays(*numbers())
    _, metrics = kto_loss(logps, logps, jnp.asarray(LABELS), jnp.asarray(WEIGHTS))
    assert float(metrics["rewards/accuracy"]) == pytest.approx(0.5)


def test_float64():
    with jax.enable_x64(True):
        logps, ref = numbers()
        rows = list(zip(logps, ref, LABELS, strict=True))
        weights = jnp.full(len(LABELS), 1 / len(LABELS))
        loss, _ = kto_loss(*map(jnp.asarray, (logps, ref, LABELS)), weights)
        np.testing.assert_allclose(loss, oracle.kto(rows, beta=0.1), rtol=1e-13)


@pytest.fixture(scope="module")
def world():
    batch = make_batch("unpaired", 1)._replace(unrelated_logps=None)
    return make_model(), make_params(9), make_params(0), batch


def test_the_baseline_is_the_drift_on_unrelated_answers(world):
    model, params, ref, batch = world
    policy, reference = (
        np.asarray(completion_logps(model, "policy")({"policy": tree}, batch))
        for tree in (params, ref)
    )
    real = np.asarray(batch.valid)
    drift = (policy[real, 1] - reference[real, 1]).mean()
    for sign in (1, -1):
        scored = batch._replace(
            unrelated_logps=jnp.asarray(sign * policy[:, 1]),
            ref_logps=jnp.asarray(sign * reference),
        )
        prepared, _, metrics = kto.make(KTOConfig(), model).prepare(scored, {})
        np.testing.assert_allclose(prepared.baseline, max(sign * drift, 0), rtol=1e-4)
        np.testing.assert_allclose(metrics["kl/baseline"], max(sign * drift, 0), rtol=1e-4)


def stepped(world, options, parts=1):
    model, params, ref, batch = world
    algorithm = kto.make(KTOConfig(**options), model)
    if "ref_logps" in algorithm.cached:
        batch = batch._replace(ref_logps=completion_logps(model, "ref")({"ref": ref}, batch))
    tx = optax.sgd(0.1)
    step = jax.jit(make_step(algorithm, tx, num_microbatches=parts))
    state = make_train_state({"policy": params}, tx, KEY)
    return algorithm, batch, *step(state, {"ref": ref}, batch, KEY)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def test_a_whole_step(world):
    """Scores, baseline and loss against the oracle; microbatches and an online reference change
    nothing."""
    model, params, ref, batch = world
    _, _, state, metrics = stepped(world, {"beta": 0.3})
    policy, reference = (
        np.asarray(completion_logps(model, "policy")({"policy": tree}, batch), np.float64)
        for tree in (params, ref)
    )
    real = np.flatnonzero(batch.valid)
    rows = [(policy[i, 0], reference[i, 0], bool(batch.label[i])) for i in real]
    unrelated = [(policy[i, 1], reference[i, 1]) for i in real]
    wanted = oracle.kto(rows, beta=0.3, unrelated=unrelated)
    np.testing.assert_allclose(metrics["loss/total"], wanted, rtol=1e-4)
    assert float(metrics["kl/baseline"]) > 0 and float(metrics["grad_norm"]) > 1e-3
    for options, parts in (({"beta": 0.3}, 4), ({"beta": 0.3, "reference": "online"}, 2)):
        _, _, other, figures = stepped(world, options, parts)
        close(other.params, state.params)
        del figures["data/padding"]
        close(figures, {name: metrics[name] for name in figures})


def test_without_a_baseline_nothing_is_scored_before(world):
    algorithm, _, _, metrics = stepped(world, {"loss_type": "apo_zero_unpaired"})
    assert not algorithm.needs and "kl/baseline" not in metrics


def test_an_evaluation_counts_each_kind_by_itself(world):
    algorithm, batch, _, _ = stepped(world, {})
    model, params, ref, _ = world
    metrics, counts = jax.jit(make_eval_step(algorithm))({"policy": params}, {"ref": ref}, batch)
    desirable = int((batch.label & batch.valid).sum())
    assert int(counts[""]) == int(batch.valid.sum())
    assert int(counts["rewards/chosen"]) == int(counts["logps/chosen"]) == desirable
    assert int(counts["rewards/rejected"]) == int(counts[""]) - desirable
    assert {"kl/baseline", "loss/total", "rewards/accuracy"} <= metrics.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta=0.0 is out of range: .* beta > 0"),
        ({"loss_type": "bco"}, "loss_type='bco' is not known: use one of kto, apo_zero_unpaired"),
        ({"reference": "none"}, "reference='none' is not known: use one of precomputed, online"),
        ({"desirable_weight": -1.0}, "desirable_weight=-1.0 is out of range"),
        (
            {"desirable_weight": 0.0, "undesirable_weight": 0.0},
            "desirable_weight=0 and undesirable_weight=0: nothing is trained",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        KTOConfig(**options)
