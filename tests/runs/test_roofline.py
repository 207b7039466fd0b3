"""The roofline of whole runs: every program is there, its work is that of the batch, and no run
folder is touched."""

import dataclasses
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import GRPOConfig, PPOConfig
from rlhf_jax.models import ModelConfig
from rlhf_jax.models.flops import forward_flops
from rlhf_jax.runs import train
from rlhf_jax.runs.compilation import COMPILED
from rlhf_jax.runs.roofline import machine, open_rounds, roofline
from rlhf_jax.runs.roofline.machine import Look, Machine, Probe
from rlhf_jax.runs.roofline.report import make_report
from rlhf_jax.runs.roofline.rounds import Sample
from rlhf_jax.runs.roofline.watched import Watched
from rlhf_jax.runs.useful.work import (
    Stage,
    content_of,
    generation_stages,
    make_decoder,
    padding,
)
from rlhf_jax.types import PairBatch, Room, TokenBatch
from tests.loops.conftest import MODEL

CONFIG = ModelConfig.from_hf(MODEL)


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch):
    """Probes of a size that takes no time."""
    monkeypatch.setattr(machine, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(machine, "ELEMENTS", 2**12)
    monkeypatch.setattr(machine, "LEAST", 1e-3)


def checked(config, names):
    """A roofline of a run, whose folder must stay away."""
    found = roofline(config, repeats=2)
    assert not pathlib.Path(config.run_dir).exists()
    assert [row.name for row in found.rows] == names
    for row in found.rows:
        assert 0 < row.time.low <= row.time.median <= row.time.high
        if row.name == "grade":
            assert (row.flops, row.limit, row.compile_seconds) == (0, "", None)
            continue
        assert row.flops > 0 and 0 < row.of_products and 0 < row.of_limit
        assert row.limit in ("products", "memory")
    for rates in (found.products, found.memory):
        assert [rate.is_roof for rate in rates].count(True) == 1
    update = found.rows[-1]
    assert update.peak > update.temporary > 0 and update.compile_seconds > 0
    assert 0 <= update.padding < 1
    return {row.name: row for row in found.rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("sft", ["update"]),
        pytest.param("reward_model", ["update"], marks=pytest.mark.slow),
        ("dpo", ["score", "update"]),
    ],
)
def test_offline(tiny_config, name, names):
    rows = checked(tiny_config(name), names)
    if name == "dpo":
        # One tree reads pairs once; the other reads them, and gradients flow back.
        assert rows["update"].flops / rows["score"].flops == pytest.approx(3, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["grpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "dapo"))]
)
def test_online(online_config, name):
    names = ["generate", "grade", "update"] if name == "dapo" else None
    names = names or ["generate", "grade", "score", "update"]
    rows = checked(online_config(name), names)
    assert rows["generate"].compile_seconds > 0


@pytest.mark.slow
def test_programs_of_their_own_are_rows(online_config):
    """With slots, prompts are read and completions decoded by different programs."""
    config = online_config("grpo", rollout={"slots": 4, "chunk": 2})
    rows = checked(config, ["generate", "prefill", "decode", "grade", "score", "update"])
    parts = rows["prefill"].flops + rows["decode"].flops
    assert parts == pytest.approx(rows["generate"].flops, rel=1e-6)
    assert rows["prefill"].time.median + rows["decode"].time.median < rows["generate"].time.high
    assert rows["generate"].compile_seconds is None


@pytest.mark.slow
def test_work_follows_from_who_is_read(online_config):
    """PPO's own critic is another tree: trained, without a head; a shared one reads nothing more;
    and every pass over the batch counts."""

    def flops(**options):
        config = online_config("ppo", algorithm=PPOConfig(group_size=2, **options))
        return {row.name: row.flops for row in roofline(config, repeats=1).rows}

    separate = flops(critic="separate", num_epochs=1)
    shared = flops(critic="shared", num_epochs=1)
    twice = flops(critic="shared", num_epochs=2)
    assert separate["generate"] == shared["generate"]
    assert twice["update"] == 2 * shared["update"]
    assert separate["update"] > 1.4 * shared["update"]


@pytest.mark.slow
def test_the_programs_that_are_wanted(online_config, tiny_config):
    config = online_config("grpo")
    assert [row.name for row in roofline(config, repeats=1, programs=["generate"]).rows] == [
        "generate"
    ]
    with pytest.raises(ValueError, match=r"--programs=generate is none of this run's: it has upd"):
        roofline(tiny_config("sft"), programs=["generate"])
    with pytest.raises(ValueError, match=r"--programs=score is none .*generate, prefill"):
        roofline(online_config("dapo"), programs=["score"])


def test_refuses_no_rounds_and_recorded_batches(tiny_config, online_config, tmp_path):
    with pytest.raises(ValueError, match=r"--repeats=0 must be at least 1"):
        roofline(tiny_config("sft"), repeats=0)
    replayed = dataclasses.replace(
        online_config("grpo").rollout, replay=str(tmp_path), max_prompt_len=8
    )
    config = dataclasses.replace(online_config("grpo"), rollout=replayed)
    with pytest.raises(ValueError, match=r"rollout.replay=.* add rollout.replay=null"):
        roofline(config)


@pytest.mark.slow
def test_a_run_is_measured_as_it_trains(tiny_config, monkeypatch, tmp_path):
    """The update of a round is the run's: the same losses on the same data."""
    config = tiny_config("sft")
    losses = []
    with open_rounds(config, tmp_path / "other", ()) as rounds:
        program = rounds.programs["update"]
        step = program.function
        program.function = lambda *args: _kept(step(*args), losses)
        program.function.lower = step.lower
        for number in range(3):
            rounds.round(number)
    trained = []
    train(config, callbacks=[lambda step, row: trained.append(row["loss/total"])], progress=False)
    np.testing.assert_allclose(losses, trained[:3], rtol=1e-6)


def _kept(result, losses):
    losses.append(float(result[1]["loss/total"]))
    return result


def token_batch(lengths, trained, width=8, **fields):
    column = np.arange(width)[None, :]
    mask = column < np.array(lengths)[:, None]
    own = mask & (column >= (np.array(lengths) - np.array(trained))[:, None])
    return TokenBatch(np.ones(mask.shape, np.int32), mask, own, **fields)


def test_content_counts_tokens_and_no_padding():
    batch = token_batch([5, 3, 0], [2, 1, 0])
    content = content_of(batch)
    assert content.spans.tolist() == [[0, 5], [0, 3]]
    assert content.trained == 3
    assert padding(batch) == 1 - 8 / 24


def test_content_of_rows_with_several_documents():
    ids = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [1] * 8])
    batch = token_batch([5, 8], [5, 8], segment_ids=ids)
    assert content_of(batch).spans.tolist() == [[0, 3], [0, 2], [0, 8]]


def test_a_shared_prompt_counts_once():
    tokens = np.array([[[1, 2, 3, 4, 9], [1, 2, 3, 5, 0]]])
    mask = np.array([[[True] * 5, [True] * 4 + [False]]])
    trained = np.array([[[False] * 3 + [True] * 2, [False] * 3 + [True, False]]])
    room = Room(rows=1, width=16, longest=5, group=2, single=True)
    batch = PairBatch(tokens, mask, trained, np.ones(1, bool), room=room)
    # The last token of the prompt predicts both answers and is laid before each.
    assert sorted(content_of(batch).spans.tolist()) == [[0, 2], [2, 4], [2, 5]]
    assert content_of(batch._replace(room=None)).spans.tolist() == [[0, 5], [0, 4]]
    # 2 + 3 + 2 of 16 places.
    assert padding(batch) == pytest.approx(1 - 7 / 16)


def test_decoding_one_row_is_bound_by_memory_and_many_rows_by_products():
    params = {
        "embed": {"embedding": np.zeros((320, 32))},
        "layers": {"all": np.zeros(20_000)},
        "position": {"embedding": np.zeros((64, 32))},
    }
    decoder = make_decoder(CONFIG, params, 4)
    assert decoder.parameters == 4 * (320 * 32 + 20_000)
    assert decoder.place == 2 * 2 * 8 * 4
    prompts = np.array([6])
    _, alone = generation_stages(decoder, prompts, np.array([[5]]), slots=1)
    # four tokens are decoded; they see 7, 8, 9, 10 places of both layers
    assert alone.bytes == 4 * decoder.parameters + 2 * (7 + 8 + 9 + 10) * decoder.place
    assert alone.flops == forward_flops(CONFIG, np.array([[6, 10]]), 4)
    _, many = generation_stages(decoder, np.full(64, 6), np.full((64, 1), 5), slots=64)
    assert many.flops == 64 * alone.flops
    assert many.bytes < 64 * alone.bytes
    products = 40e9
    memory = 4e9
    assert alone.bytes / memory > alone.flops / products
    assert many.bytes / memory < many.flops / products
    # half as many slots take twice as many steps
    _, half = generation_stages(decoder, np.full(64, 6), np.full((64, 1), 5), slots=32)
    assert half.bytes - many.bytes == 4 * decoder.parameters


class Fixed(Probe):
    def __init__(self, name):
        super().__init__(name, 1.0, lambda: None)


def test_shares_are_of_the_rates_around_a_round():
    """A machine that is half as fast in the second round makes its programs no worse: both are held
    against the fastest look around their own round."""
    probes = Machine((Fixed("square"), Fixed("own")), (Fixed("add"), Fixed("read")))
    looks = [
        Look((100.0, 60.0), (10.0, 20.0)),
        Look((50.0, 40.0), (10.0, 20.0)),
        Look((50.0, 30.0), (10.0, 20.0)),
    ]
    rounds = [
        [Sample("update", 2.0, (Stage(100.0, 5.0),), 0.25), Sample("grade", 3.0)],
        [Sample("update", 2.0, (Stage(50.0, 5.0),), 0.75), Sample("grade", 5.0)],
    ]
    found = make_report("here", probes, looks, rounds, {})
    update, grade = found.rows
    assert [rate.is_roof for rate in found.products] == [True, False]
    assert [rate.is_roof for rate in found.memory] == [False, True]
    # 100 of 2 s x 100, and 50 of 2 s x 50
    assert update.of_products == update.of_limit == 0.5
    assert (update.flops, update.flops_per_second, update.padding) == (75.0, 37.5, 0.5)
    assert (update.limit, update.least, update.compile_seconds) == ("products", 1.0, None)
    assert found.is_restless
    assert (grade.time.median, grade.limit, grade.padding) == (4.0, "", None)
    rounds = [[Sample("decode", 2.0, (Stage(1.0, 20.0), Stage(10.0, 1.0)))]]
    (decode,) = make_report("here", probes, looks[:2], rounds, {}).rows
    # a second at the memory's rate, and a tenth at that of products
    assert decode.limit == "memory" and decode.least == pytest.approx(1.1)


def test_watched_compiles_once_a_shape_and_gives_the_result():
    calls = []

    def traced(x, *, steps):
        calls.append(x.shape)
        return x * len(steps)

    watched = Watched(jax.jit(traced, static_argnames="steps"))
    for size in (3, 3, 4):
        result = watched(jnp.ones(size), steps=("top_k", "top_p"))
        np.testing.assert_array_equal(result, np.full(size, 2.0))
    assert calls == [(3,), (4,)]
    watched(jnp.ones(4), steps=())
    assert len(watched.compiled) == 3 and len(watched.take()) == 4 and watched.take() == []
    assert all(each.peak >= 2 * 4 * 3 for each in watched.compiled.values())


def test_a_generation_does_not_pay_for_compiling(online_config, tmp_path):
    """A round may be the first with prompts of some width."""
    pause = 0.5

    def compiling(x):
        time.sleep(pause)
        return x + 1

    with open_rounds(online_config("grpo"), tmp_path / "other", ("generate",)) as rounds:
        rounds.round(0)
        late = rounds.programs["late"] = Watched(jax.jit(compiling))
        sampler = rounds.sampler.sampler

        def slower(*args, **options):
            late(jnp.ones(3))
            return sampler(*args, **options)

        rounds.sampler.sampler = slower
        (sample,) = rounds.round(1)
    assert late.compile_seconds >= pause
    # Without the difference it would be longer than the whole compilation.
    assert sample.seconds < late.compile_seconds


@pytest.mark.slow
def test_devices_are_described(tiny_config):
    config = tiny_config("sft", mesh={"data": 2})
    found = roofline(config, repeats=1)
    assert found.device.startswith("2 devices of kind cpu")
    assert "float32 128 x 64 x 64" == found.products[0].name


@pytest.mark.slow
def test_a_frozen_reference_is_not_trained(online_config):
    """It is read by the score alone."""
    plain = roofline(online_config("grpo", algorithm=GRPOConfig(group_size=2)), repeats=1)
    with_kl = roofline(
        online_config("grpo", algorithm=GRPOConfig(group_size=2, kl_coef=0.1)), repeats=1
    )
    names = [row.name for row in with_kl.rows]
    assert "score" in names
    assert with_kl.rows[-1].flops == plain.rows[-1].flops


@pytest.mark.slow
def test_nothing_is_compiled_twice(online_config, tmp_path):
    """Measuring memory compiles ahead of the call, which must find that very program."""
    compiled = []

    def listen(event, seconds, **further):
        if event == COMPILED:
            compiled.append(further.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    with open_rounds(online_config("grpo"), tmp_path / "other", ()) as rounds:
        rounds.round(0)
        for name in ("whole", "fill", "step"):
            assert sum(name in str(each) for each in compiled) == 1, compiled
        before = len(compiled)
        rounds.round(1)
        assert compiled[before:] == []
