"""What every algorithm in the registry must do, on a fake model. New algorithms are picked up from
ALGORITHMS."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from rlhf_jax.algorithms import ALGORITHMS, METRICS, algorithm_config
from rlhf_jax.training import make_score
from rlhf_jax.types import Algorithm, Models
from tests.contract.fakes import PAD, make_batch, make_model, make_params

NAMES = sorted(ALGORITHMS)


class Case(typing.NamedTuple):
    """One algorithm, ready to run; `gradients` is jitted once for all tests."""

    name: str
    algorithm: Algorithm
    params: dict
    frozen: dict
    raw: typing.Any
    batch: typing.Any
    metrics: dict
    """Of `prepare`."""
    gradients: typing.Callable
    """(params, batch) -> ((loss, metrics), gradient)."""

    @property
    def trees(self):
        """What the loss reads."""
        return {**self.frozen, **self.params}


OPTIONS = {"dapo": {"max_new_tokens": 6}}
"""What an algorithm cannot do without."""


def build(name, dtype=jnp.float32, key=0, **options):
    config = algorithm_config(name)(**OPTIONS.get(name, {}), **options)
    trained = config.models.trained
    has_head = any(tree.head is not None for tree in trained.values())
    algorithm = ALGORITHMS[name](config, make_model(head=has_head))
    params = {role: make_params(key + 7 * place, dtype) for place, role in enumerate(trained)}
    frozen = {} if config.models.reference == "none" else {"ref": make_params(99, dtype)}
    raw = make_batch(config.data, 1)
    if "ref_logps" in algorithm.cached:
        noise = jax.random.normal(jax.random.key(2), raw.tokens.shape[:2])
        raw = raw._replace(ref_logps=noise - 8.0)
    batch, _, metrics = jax.jit(algorithm.prepare)(raw, dict(algorithm.aux))

    def loss(params, frozen, batch):
        return algorithm.loss({**frozen, **params}, batch, jax.random.key(0))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return Case(
        name,
        algorithm,
        params,
        frozen,
        raw,
        algorithm.weigh(batch),
        metrics,
        lambda params, batch: step(params, frozen, batch),
    )


@pytest.fixture(scope="module")
def cases():
    return {name: build(name) for name in NAMES}


@pytest.fixture(params=NAMES)
def case(request, cases):
    return cases[request.param]


def on_padding(batch, fill):
    """The batch with `fill` wherever a per-token array is off the completion, and another token id
    on padding."""
    off = ~batch.completion_mask
    changes = {}
    for field, value in batch._asdict().items():
        per_token = (
            value is not None and value.shape == batch.tokens.shape and value.dtype == jnp.float32
        )
        if per_token and field != "weights":
            changes[field] = jnp.where(off, fill, value)
    return batch._replace(**changes)


def test_the_registry_is_complete():
    assert set(NAMES) >= {"sft", "reward_model", "dpo", "kto", "ppo", "grpo", "dapo"}


def test_jits_and_does_not_retrace(case):
    traces = []

    @jax.jit
    def step(trees, batch, aux):
        traces.append(1)
        batch, aux, metrics = case.algorithm.prepare(batch, aux)
        loss, more = case.algorithm.loss(trees, case.algorithm.weigh(batch), jax.random.key(0))
        return loss, aux, metrics | more

    first, aux, _ = step(case.trees, case.raw, dict(case.algorithm.aux))
    changed = case.raw._replace(tokens=jnp.where(case.raw.mask, (case.raw.tokens + 1) % PAD, PAD))
    second, _, _ = step(case.trees, changed, aux)
    assert len(traces) == 1
    assert float(first) != float(second)


@pytest.mark.slow
def test_jit_equals_eager(case):
    eager, metrics = case.algorithm.loss(case.trees, case.batch, jax.random.key(0))
    (jitted, jitted_metrics), gradient = case.gradients(case.params, case.batch)
    np.testing.assert_allclose(eager, jitted, rtol=1e-5)
    for key in metrics:
        np.testing.assert_allclose(
            metrics[key], jitted_metrics[key], rtol=1e-4, atol=1e-6, err_msg=key
        )
    assert any(jnp.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))


def test_finite_bf16_gradients(case):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), case.params)
    (loss, metrics), gradient = case.gradients(half, case.batch)
    assert loss.dtype == jnp.float32 and jnp.isfinite(loss)
    assert all(
        v.dtype == jnp.float32 and v.shape == () and jnp.isfinite(v) for v in metrics.values()
    )
    assert all(g.dtype == jnp.bfloat16 and jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_padding_has_zero_gradient(case):
    (wanted, _), gradient = case.gradients(case.params, case.batch)
    for tree in gradient.values():
        assert (tree["embed"]["embedding"][PAD] == 0).all()
    other = case.batch._replace(tokens=jnp.where(case.batch.mask, case.batch.tokens, 0))
    assert float(case.gradients(case.params, other)[0][0]) == float(wanted)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_nan_on_padding_does_not_leak(case, fill):
    dirty, _, metrics = jax.jit(case.algorithm.prepare)(
        on_padding(case.raw, fill), case.algorithm.aux
    )
    for key, value in case.metrics.items():
        assert float(metrics[key]) == float(value), key
    dirty = on_padding(case.algorithm.weigh(dirty), fill)
    (loss, metrics), gradient = case.gradients(case.params, dirty)
    (wanted, wanted_metrics), wanted_gradient = case.gradients(case.params, case.batch)
    assert float(loss) == float(wanted)
    assert {k: float(v) for k, v in metrics.items()} == {
        k: float(v) for k, v in wanted_metrics.items()
    }
    jax.tree.map(np.testing.assert_array_equal, gradient, wanted_gradient)


def test_microbatches_add_up(case):
    (whole, metrics), gradient = case.gradients(case.params, case.batch)
    split = [
        case.gradients(case.params, jax.tree.map(lambda x, i=i: x[i::4], case.batch))
        for i in range(4)
    ]
    np.testing.assert_allclose(sum(s[0][0] for s in split), whole, rtol=1e-5)
    total = jax.tree.map(lambda *g: sum(g), *[s[1] for s in split])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), total, gradient
    )
    for key, value in metrics.items():
        values = [float(s[0][1][key]) for s in split]
        reduce = max if key.endswith("_max") else min if key.endswith("_min") else sum
        np.testing.assert_allclose(reduce(values), value, rtol=1e-4, atol=1e-6, err_msg=key)


def test_filler_rows_change_nothing(case):
    (loss, _), gradient = case.gradients(case.params, case.batch)
    (other, _), other_gradient = case.gradients(
        case.params, case.batch._replace(tokens=case.batch.tokens.at[-1].set(3))
    )
    assert (case.batch.weights[-1] == 0).all()
    assert float(loss) == float(other)
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)


def test_scored_columns_are_enough(case):
    """Computing only the completion's columns gives the same loss; -1 is filler."""
    columns = jnp.arange(case.batch.tokens.shape[-1])
    scored = jnp.where(
        case.batch.completion_mask, jnp.broadcast_to(columns, case.batch.tokens.shape), -1
    )
    loss, _ = jax.jit(case.algorithm.loss)(
        case.trees, case.batch._replace(scored=scored), jax.random.key(0)
    )
    np.testing.assert_allclose(loss, case.gradients(case.params, case.batch)[0][0], rtol=1e-6)


def test_closes_over_no_large_constants(case):
    for function, arguments in [
        (case.algorithm.loss, (case.trees, case.batch, jax.random.key(0))),
        (case.algorithm.prepare, (case.raw, dict(case.algorithm.aux))),
        (case.algorithm.weigh, (case.raw,)),
    ]:
        constants = jax.make_jaxpr(function)(*arguments).consts
        assert sum(np.asarray(c).nbytes for c in constants) < 1024


def test_metrics_are_documented(case):
    (_, metrics), _ = case.gradients(case.params, case.batch)
    names = set(metrics) | set(case.metrics)
    assert "loss/total" in names
    assert names <= set(METRICS), names - set(METRICS)
    assert not set(metrics) & set(case.metrics)


def test_weights_sum_to_one(case):
    np.testing.assert_allclose(case.batch.weights.sum(), 1.0, rtol=1e-6)
    assert case.batch.weights.dtype == jnp.float32


def test_missing_weights_are_an_error(case):
    with pytest.raises(ValueError, match=r"Batch.weights is missing: first call Algorithm.weigh"):
        case.gradients(case.params, case.batch._replace(weights=None))


def test_needs_are_enforced(case):
    for field in sorted({*case.algorithm.needs, *case.algorithm.cached}):
        empty = case.raw._replace(**{field: None})
        with pytest.raises(ValueError, match=f"Batch.{field} is missing: first score what"):
            batch, _, _ = case.algorithm.prepare(empty, dict(case.algorithm.aux))
            case.gradients(case.params, case.algorithm.weigh(batch))


@pytest.mark.parametrize("name", NAMES)
def test_a_scalar_head_is_demanded(name):
    config = algorithm_config(name)(**OPTIONS.get(name, {}))
    heads = [tree.head for tree in config.models.trained.values() if tree.head is not None]
    if not heads:
        assert isinstance(ALGORITHMS[name](config, make_model(head=False)), Algorithm)
    else:
        with pytest.raises(ValueError, match=r"model.scores is missing: .* head='(reward|value)'"):
            ALGORITHMS[name](config, make_model(head=False))


@pytest.mark.parametrize("name", NAMES)
def test_config_declares_what_the_loop_reads(name):
    cls = algorithm_config(name)
    config = cls(**OPTIONS.get(name, {}))
    assert cls.data in ("text", "pairs", "unpaired", "prompts")
    assert cls.summary and "\n" not in cls.summary
    assert isinstance(config.models, Models) and "policy" in config.models.trained
    assert (config.sampling is None) == (cls.data != "prompts")
    assert ALGORITHMS[name](config, make_model()).sampling == config.sampling
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.data = "text"


@pytest.mark.parametrize("name", NAMES)
def test_scores_fill_their_fields(name, cases):
    """In the batch's order, whatever the number of microbatches, and without a gradient."""
    case = cases[name]
    for scores in (case.algorithm.needs, case.algorithm.cached):
        whole = jax.jit(make_score(scores))(case.params, case.frozen, case.batch)
        parts = jax.jit(make_score(scores, num_microbatches=4))
        assert set(whole) == set(scores)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
        jax.tree.map(close, parts(case.params, case.frozen, case.batch), whole)
        for field, value in whole.items():
            assert value.shape in (
                case.batch.tokens.shape,
                case.batch.tokens.shape[:-1],
                case.batch.tokens.shape[:1],
            ), field


def test_what_is_cached_reads_frozen_trees_alone(cases):
    for case in cases.values():
        for field, score in case.algorithm.cached.items():
            assert jnp.isfinite(score(case.frozen, case.batch)).all(), field


ONLINE = [name for name in NAMES if algorithm_config(name).data == "prompts"]


@pytest.mark.parametrize("name", ONLINE)
def test_log_probabilities_are_taken_at_the_sampling_temperature(name, cases):
    """A flatter distribution has more entropy, and other importance ratios."""
    case, flat = cases[name], build(name, temperature=10.0)
    _, cold = case.algorithm.loss(case.trees, case.batch, jax.random.key(0))
    _, hot = flat.algorithm.loss(case.trees, case.batch, jax.random.key(0))
    assert hot["policy/entropy"] > cold["policy/entropy"]
    assert float(hot["policy/ratio_max"]) != float(cold["policy/ratio_max"])


FIELDS = [(name, f.name) for name in NAMES for f in dataclasses.fields(algorithm_config(name))]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_config_rejects_bad_values(name, field):
    """NaN for numbers, an unknown name for choices: one line that names the field."""
    config = algorithm_config(name)
    kind = typing.get_type_hints(config)[field]
    if kind is bool:
        assert isinstance(getattr(config(), field), bool)
        return
    if kind == str | list[str] | tuple[str, ...] | None:
        assert field == "accuracy_reward"  # a name that only the run knows
        return
    if kind == list[float] | tuple[float, ...] | None:
        with pytest.raises(ValueError, match=f"^{field}=nan is out of range"):
            config(**{field: (float("nan"),)})
        return
    # the type checker of the tests may be faster than the class
    if typing.get_origin(kind) is typing.Literal:
        with pytest.raises(
            (ValueError, TypeCheckError),
            match=rf"{field}\b.*nothing|^{field}='nothing' is not known: use one of ",
        ):
            config(**{field: "nothing"})
        return
    is_name = kind in (str, str | list[str] | tuple[str, ...])
    bad = "nothing" if is_name else -1 if kind in (int, int | None) else float("nan")
    with pytest.raises(ValueError, match=f"^{field}={bad!r} (of {config.__name__} )?is [^\n]*$"):
        config(**{field: bad})


def test_unknown_algorithm():
    with pytest.raises(
        ValueError, match=r"^algorithm='dop' is not known: use one of .* \(did you mean 'dpo'\?\)$"
    ):
        algorithm_config("dop")


@pytest.mark.parametrize("name", ONLINE)
def test_on_policy_rows_have_ratio_one(name, cases):
    """Whatever was stored: rows of the current parameters divide by their own log-probabilities."""
    case = cases[name]
    batch = case.batch._replace(on_policy=jnp.ones(len(case.batch.tokens), bool), old_logps=None)
    (_, metrics), gradient = case.gradients(case.params, batch)
    assert (
        float(metrics["policy/ratio_max"]) == 1.0 and float(metrics["policy/clip_fraction"]) == 0.0
    )
    np.testing.assert_allclose(metrics["sampler/on_policy"], 1.0, rtol=1e-6)
    assert any(jnp.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradient))
    none = case.batch._replace(on_policy=jnp.zeros(len(case.batch.tokens), bool))
    (loss, stale), _ = case.gradients(case.params, none)
    assert (
        float(loss) == float(case.gradients(case.params, case.batch)[0][0])
        and float(stale["sampler/on_policy"]) == 0.0
    )


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_importance_weights_between_sampler_and_trainer(name, cases):
    """A sampler that agrees changes nothing; one that gave half the probability doubles the
    gradient, up to the cap."""
    capped, case = build(name, importance_cap=1.5), cases[name]
    on_policy = case.batch._replace(on_policy=jnp.ones(len(case.batch.tokens), bool))
    logps, _ = make_model().token_logps(case.params["policy"], on_policy.tokens, on_policy.mask)
    plain = case.gradients(case.params, on_policy)[1]
    agreeing = capped.gradients(case.params, on_policy._replace(sampler_logps=logps))
    halved = capped.gradients(case.params, on_policy._replace(sampler_logps=logps - jnp.log(2.0)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, agreeing[1]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(1.5 * a, b, rtol=1e-4, atol=1e-6), plain, halved[1]
    )
    np.testing.assert_allclose(
        [agreeing[0][1]["sampler/capped"], halved[0][1]["sampler/capped"]], [0.0, 1.0], atol=1e-6
    )
