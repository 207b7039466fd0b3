"""Continuous batching: schedules, shapes, statistics, meshes, errors."""

import functools

import jax
import numpy as np
import pytest

from rlhf_jax.models import init_model
from rlhf_jax.rollout import SamplingParams, make_generator
from rlhf_jax.sharding import infer_shardings, make_mesh
from tests.models.tiny import noisy, ragged, tiny

TOKENS, MASK = ragged(5, 9)
LENGTHS = MASK.sum(1)
LIMITS = np.random.default_rng(0).integers(1, 90, 15)


@functools.cache
def policy():
    config = tiny("qwen2", max_position_embeddings=512, num_hidden_layers=1, max_window_layers=0)
    model, params = init_model(config, jax.random.key(0))
    return model, noisy(params)


def generator(model=None, **options):
    settings = {
        "mesh": None,
        "max_new_tokens": 90,
        "eos_ids": (3,),
        "pad_id": 0,
        "group_size": 3,
        "prompt_buckets": (8, 12),
    }
    return make_generator(model or policy()[0], **{**settings, **options})


def run(sampling=None, *, limits=LIMITS, params=None, **options):
    params = policy()[1] if params is None else params
    return generator(**options)(
        params, TOKENS, LENGTHS, jax.random.key(1), sampling or SamplingParams(), limits=limits
    )


@pytest.fixture(scope="module")
def whole():
    return run()


@pytest.mark.parametrize(
    ("slots", "chunk"),
    [(3, 8), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((5, 1), (8, 16), (4, 4)))],
)
def test_the_schedule_changes_nothing(whole, slots, chunk):
    out, stats = run(slots=slots, chunk=chunk)
    for name in ("tokens", "mask", "completion_mask", "truncated"):
        assert (out._asdict()[name] == whole[0]._asdict()[name]).all(), name
    assert np.abs(out.logps - whole[0].logps).max() < 1e-4
    assert stats.tokens == whole[1].tokens == out.completion_mask.sum()
    assert stats.utilisation == stats.tokens / stats.slot_steps > 2 * whole[1].utilisation
    assert stats.slot_steps >= stats.tokens


def test_rollout_is_as_wide_as_its_bucket(whole):
    out, stats = whole
    assert out.tokens.shape == (15, 12 + 90) and isinstance(out.tokens, np.ndarray)
    longest = out.completion_mask.sum(1).max()
    steps = -(-(longest - 1) // 16) * 16
    assert stats.slot_steps == 15 + 8 * 3 * steps, "5 prompts are padded to 8"
    assert stats.seconds > 0
    assert (out.completion_mask.sum(1) <= LIMITS).all()


def test_every_row_finished_by_its_first_token():
    out, stats = run(slots=2, limits=np.ones(15, int))
    assert (out.completion_mask.sum(1) == 1).all() and stats.tokens == stats.slot_steps == 15


@pytest.mark.slow
def test_utilisation_on_log_normal_lengths():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(16), 0.8, 256).round().astype(int), 1, 64)
    engine = generator(max_new_tokens=64, eos_ids=(), group_size=8, slots=32, chunk=4)
    out, stats = engine(
        policy()[1], *ragged_prompts(32, rng), jax.random.key(0), SamplingParams(), limits=lengths
    )
    assert (out.completion_mask.sum(1) == lengths).all()
    assert stats.utilisation > 0.85


def ragged_prompts(count, rng, width=12):
    lengths = rng.integers(1, width + 1, count)
    lengths[0] = width
    return rng.integers(1, 64, (count, width)), lengths


@pytest.mark.slow
def test_nothing_compiles_after_warm_up():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: (
            compiled.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
        )
    )
    params, rng = policy()[1], np.random.default_rng(0)
    engines = [
        generator(slots=slots, max_new_tokens=20, group_size=1, chunk=4) for slots in (None, 2)
    ]

    def generation(seed, width, engine, limits):
        sampling = SamplingParams(1.0 + 0.01 * seed, top_p=0.99 - 0.01 * (seed % 7))
        engine(
            params, *ragged_prompts(4, rng, width), jax.random.key(seed), sampling, limits=limits
        )

    for width in (8, 12):
        for engine in engines:
            generation(0, width, engine, np.array([4, 5, 20, 9]))  # the two slots become one
    warm = len(compiled)
    assert warm > 0
    for seed in range(50):
        generation(seed, int(rng.integers(1, 13)), engines[seed % 2], rng.integers(0, 21, 4))
    assert len(compiled) == warm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "slots", "layers"),
    # each pair of slots and layers once, and every kind of mesh
    [
        ({"fsdp": 8}, None, "unroll"),
        ({"fsdp": 4, "tensor": 2}, 8, "unroll"),
        ({"fsdp": 8}, 8, "scan"),
        ({"data": 2, "fsdp": 2, "tensor": 2}, None, "scan"),
    ],
)
def test_meshes_give_the_same_tokens(axes, slots, layers):
    mesh = make_mesh(axes)
    model, params = policy()
    parallel, _ = init_model(model.config, jax.random.key(0), mesh=mesh, layers=layers)
    placed = jax.device_put(params, infer_shardings(params, mesh))
    # Slots become free at different times, of shards that hold different prompts.
    options = {"limits": LIMITS % 13, "max_new_tokens": 12, "chunk": 4}
    for sampling in (SamplingParams(0.0), SamplingParams(1.2, top_p=0.9)):
        expected, _ = run(sampling, **options)
        out, _ = run(sampling, model=parallel, params=placed, mesh=mesh, slots=slots, **options)
        assert (out.tokens == expected.tokens).all() and (out.mask == expected.mask).all()
        assert np.abs(out.logps - expected.logps).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots=0 must be at least 1"),
        ({"chunk": 0}, "chunk=0 must be at least 1"),
        ({"prompt_buckets": ()}, "prompt_buckets is empty"),
        ({"limits": np.ones(3, int)}, "limits has shape"),
        ({"prompt_buckets": (4,)}, "a prompt of 9 tokens is wider than the widest bucket 4"),
        ({"sampling": SamplingParams(-1.0)}, "temperature=-1.0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_empty_prompts_and_slots_that_a_mesh_does_not_divide():
    with pytest.raises(ValueError, match="an empty prompt"):
        generator()(policy()[1], TOKENS, LENGTHS * 0, jax.random.key(0), SamplingParams())
    with pytest.raises(ValueError, match="slots=6 must be a multiple of 8"):
        generator(mesh=make_mesh({"fsdp": 8}), slots=6)


KEYED = {"max_new_tokens": 9, "chunk": 8, "prompt_buckets": (12,)}


@pytest.fixture(scope="module")
def keyed():
    """Completions with a key for each."""
    keys = jax.random.split(jax.random.key(5), 15)
    return keys, generator(**KEYED)(policy()[1], TOKENS, LENGTHS, keys, SamplingParams())[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("some", "options"),
    [
        ((4, 1), {}),
        pytest.param((0, 1, 2, 3, 4), {"slots": 3, "chunk": 4}, marks=pytest.mark.slow),
        pytest.param((3, 2, 0), {"group_size": 1}, marks=pytest.mark.slow),
    ],
)
def test_with_a_key_for_every_completion_the_batch_changes_no_draw(keyed, some, options):
    keys, whole = keyed
    some, group_size = np.array(some), options.get("group_size", 3)
    rows = (3 * some[:, None] + np.arange(group_size)).reshape(-1)
    made, _ = generator(**KEYED | options)(
        policy()[1], TOKENS[some], LENGTHS[some], keys[rows], SamplingParams()
    )
    assert (made.tokens == whole.tokens[rows]).all() and (made.mask == whole.mask[rows]).all()


def test_keys_for_another_number_of_completions():
    keys = jax.random.split(jax.random.key(5), 14)
    with pytest.raises(
        ValueError,
        match=r"key has shape \(14,\), but there are 15 completions: give one key, or one for each",
    ):
        generator()(policy()[1], TOKENS, LENGTHS, keys, SamplingParams())
