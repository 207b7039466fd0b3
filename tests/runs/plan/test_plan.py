"""A plan holds what a run holds: compiled for virtual devices, compared with a run's own."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.models import remat
from rlhf_jax.models.attention import attention
from rlhf_jax.models.flops import attention_flops, forward_flops
from rlhf_jax.runs.offline import jitted, make_offline_parts
from rlhf_jax.runs.plan import Phase, Plan, parse_machine, plan
from rlhf_jax.runs.plan.collectives import Collective, Traffic
from rlhf_jax.runs.plan.machines import CHIPS
from rlhf_jax.runs.plan.phases import sending
from rlhf_jax.runs.plan.search import meshes
from rlhf_jax.runs.updating import fresh_state, make_update
from rlhf_jax.sharding import MeshConfig, place_batch, replicated, tree_bytes_per_device
from rlhf_jax.target import Target, compiling_for, platform


def on_mesh(config, **sizes):
    shape = {"data": 1, "fsdp": 1, "tensor": 1} | sizes
    return dataclasses.replace(config, mesh=MeshConfig(**shape))


def rows(config, **training):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **training))


def test_a_plan_is_the_run_that_it_plans(tiny_config, tmp_path):
    """SFT on fsdp=4 x tensor=2: arguments are those of arrays, and the peak that of the very
    program which trains."""
    config = on_mesh(rows(tiny_config("sft"), pack=False), fsdp=4, tensor=2)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, buckets=(config.data.max_length,))
    )
    found = plan(config, "cpux8")
    assert found.mesh == {"data": 1, "fsdp": 4, "tensor": 2}
    (update,) = found.phases
    parts = make_offline_parts(config, tmp_path, None)
    options = (config, parts.algorithm, parts.tx, parts.mesh)
    begun = fresh_state(config, parts.loaded, *options[1:]).state()
    state = begun.train
    (held,) = set(tree_bytes_per_device((state.params, state.opt_state)).values())
    expected = {part.name: part.bytes for part in found.parts}
    assert held == expected["parameters: policy"] + expected["optimizer moments"]
    update_step = make_update(*options, total_updates=100)
    step = jitted(update_step, shardings=(begun.shardings, replicated(parts.mesh)))
    batch = place_batch(parts.loader.batch(0)._replace(scored=None), parts.mesh)
    sizes = step.lower(state, {}, batch).compile().memory_analysis()
    assert update.arguments == sizes.argument_size_in_bytes
    assert update.temporaries == pytest.approx(sizes.temp_size_in_bytes, rel=0.02)
    tokens = config.training.batch_size * config.data.max_length
    assert found.tokens == tokens
    model = parts.loaded.model.config
    spans = [[0, config.data.max_length]] * config.training.batch_size
    assert update.flops == 3 * forward_flops(model, jnp.asarray(spans), tokens)
    assert update.collectives["all-gather"].executed > 0
    json.dumps(found.plain())


@pytest.mark.slow
def test_an_online_plan_has_every_program(online_config):
    """PPO: prompts are read, completions decoded, values scored, and what is not an argument of a
    program is counted beside it."""
    config = on_mesh(online_config("ppo"), data=2, fsdp=2)
    found = plan(config, "cpux4")
    phases = {phase.name: phase for phase in found.phases}
    assert list(phases) == ["prefill", "decode", "score", "update"]
    expected = {part.name: part.bytes for part in found.parts}
    moments = expected["optimizer moments"]
    decode = phases["decode"]
    assert decode.peak >= expected["parameters: critic"] + moments + decode.temporaries
    assert phases["score"].peak >= moments + phases["score"].arguments
    new = config.rollout.max_new_tokens
    assert decode.calls == -(-(new - 1) // config.rollout.chunk)
    assert all(phase.flops > 0 and not phase.problem for phase in found.phases)
    sampled = config.training.batch_size * config.algorithm.sampling.group_size * new
    assert found.tokens == sampled
    assert found.fits


@pytest.mark.slow
def test_what_no_program_reads_still_lies_there(online_config):
    """The update of GRPO with a KL penalty reads log-probabilities of the reference, not the
    reference: it is no argument of the program, and on the device all the same."""
    config = on_mesh(online_config("grpo"), fsdp=2)
    found = plan(config, "cpux2")
    held = sum(part.bytes for part in found.parts if part.when == "held")
    assert any(part.name == "parameters: reference" for part in found.parts)
    for phase in found.phases:
        assert phase.peak >= held + phase.temporaries, phase.name


def test_a_program_that_does_not_compile_leaves_no_figure():
    chip = CHIPS["v5e"]
    whole = Phase("update", 1, 0, 0, 8, 4e12, 2.0, 1.0, 3.0, {}, (), 0.0, (), 1.0)
    machine = parse_machine("v5e-4")
    found = Plan(machine, "", {}, (), (whole,), tokens=6, warnings=())
    assert found.fits and found.step_seconds == (3.0, 5.0)
    assert found.utilisation == pytest.approx(4e12 / 3 / 4 / chip.flops)
    broken = whole._replace(problem="no room")
    lost = found._replace(phases=(whole, broken))
    assert not lost.fits
    assert lost.step_seconds == (0.0, 0.0) and lost.utilisation == 0.0


def test_what_leaves_a_host_is_slower():
    machine = parse_machine("h100x16")
    inside = Collective("all-gather", (), 900, 8, tuple(range(8)), 1.0, "")
    across = inside._replace(members=tuple(range(0, 16, 2)))
    own = sending(Traffic((inside,), 0, 0, ()), machine)
    assert sending(Traffic((across,), 0, 0, ()), machine) == pytest.approx(9 * own)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reward_model", "dpo", "kto", "grpo", "dapo"])
def test_every_algorithm_can_be_planned(tiny_config, online_config, name):
    online = name in ("grpo", "dapo")
    config = on_mesh((online_config if online else tiny_config)(name), fsdp=2)
    found = plan(config, "cpux2")
    assert found.phases[-1].name == "update"
    assert all(not phase.problem for phase in found.phases)
    if name in ("dpo", "kto"):
        assert [phase.calls for phase in found.phases] == [0, 1]


@pytest.mark.slow
def test_a_search_compiles_what_should_be_best(tiny_config):
    config = rows(tiny_config("sft"), batch_size=8)
    found = plan(config, "cpux4", search=True)
    assert 1 < len(found.tried) <= 3
    assert all(math.prod(each.mesh.values()) == 4 for each in found.tried)
    assert found.mesh in [each.mesh for each in found.tried]


def test_machines():
    assert parse_machine("v5e-16").shape == "4x4"
    v5p = parse_machine("v5p-64")  # counts cores
    assert (v5p.chips, v5p.shape, v5p.hosts) == (32, "2x4x4", 8)
    assert parse_machine("v6e-256").chips == 256
    assert parse_machine("v5p:4x4x4").chips == 64
    assert parse_machine("v6e-8").hosts == 1
    gpus = parse_machine("h200x64")
    assert (gpus.shape, gpus.hosts) == ("8x8", 8)
    assert parse_machine("h100x4").hosts == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-17", "there are v5e-1, v5e-4"),
        ("v5p-4", "there are v5p-8"),
        ("h100x12", "up to 8, or hosts of 8"),
        ("tpu", "none that can be planned for"),
        ("h100x0", "up to 8"),
    ],
)
def test_unknown_machines_are_one_line(name, message):
    with pytest.raises(ValueError, match=message):
        parse_machine(name)


def test_what_train_refuses_is_refused(tiny_config):
    config = on_mesh(rows(tiny_config("sft"), batch_size=6), fsdp=4)
    with pytest.raises(ValueError, match=r"training\.batch_size=6 must be a multiple of 4"):
        plan(config, "cpux4")
    with pytest.raises(ValueError, match="does not fit 2 devices"):
        plan(config, "cpux2")


def test_meshes_of_a_search():
    found = list(meshes(64, kv_heads=8, host=4))
    assert {"data": 4, "fsdp": 16, "tensor": 1} in found
    assert {"data": 1, "fsdp": 16, "tensor": 4} in found
    assert all(each["tensor"] <= 4 for each in found)
    assert all(math.prod(each.values()) == 64 for each in found)
    assert len({tuple(each.values()) for each in found}) == len(found)


def test_choices_are_those_of_the_target():
    """Attention of a TPU is not that of the CPU that plans; its memory is not the CPU's either."""
    q = jax.ShapeDtypeStruct((1, 512, 2, 16), jnp.float32)

    def jaxpr():
        return str(jax.make_jaxpr(lambda q: attention(q, q, q, scale=1.0))(q))

    assert platform() == "cpu"
    own = jaxpr()
    with compiling_for(Target("tpu", 2**34)):
        assert platform() == "tpu"
        assert remat.device_memory(None) == 2**34
        assert jaxpr() != own
    assert platform() == "cpu"
    assert jaxpr() == own


def test_attention_is_part_of_the_count(tiny_config):
    model = remat.ModelConfig.from_hf(tiny_config("sft").model.config)
    spans = jnp.asarray([[0, 16], [4, 9]])
    pairs = 16 * 17 // 2 + sum(range(5, 10))
    expected = 2 * 2 * model.num_heads * model.head_dim * pairs * model.num_layers
    assert attention_flops(model, spans) == expected
