"""What must hold of the programs on a pod, asked of the TPU's own compiler: two layers on 64 chips
that are not there.

`shared/reference/tpu.md`, section 5, has the reasons.
"""

import math

import pytest

from rlhf_jax.runs.plan.collectives import by_kind, traffic
from rlhf_jax.runs.plan.hlo import read
from rlhf_jax.target import Target, compiling_for
from tests.runs.plan.programs import (
    Case,
    config_of,
    lower_rollout,
    lower_update,
    mesh_of,
)
from tests.topologies import TPU_COMPILER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("no_cache"),
    TPU_COMPILER,
]

MODEL = "llama-small"
MB = 10**6


@pytest.fixture(autouse=True)
def on_tpu():
    with compiling_for(Target("tpu")):
        yield


def kernel_shapes(config):
    """Numbers of entries of a layer's kernels."""
    heads = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    return {config.hidden_size * size for size in (heads, keys, config.intermediate_size)}


def entries(shape):
    return math.prod(shape.dims)


@pytest.fixture(scope="module")
def update(no_cache):
    """(case, compiled update, what it moves) of SFT at data=4, fsdp=16."""
    case = Case(model=MODEL, rows=128, length=1152, micro=2)
    with compiling_for(Target("tpu")):
        text = lower_update(case).compile().as_text()
    return case, text, traffic(text, 64)


def test_an_update_reduces_gradients_to_their_shards(update):
    _, _, found = update
    assert found.unknown_loops == ()
    whole = [c for c in found.collectives if c.kind == "all-reduce" and c.group == 16]
    assert all(each.bytes <= MB for each in whole), whole
    assert by_kind(found.collectives)["reduce-scatter"].bytes > 100 * MB


def test_an_update_permutes_no_kernel(update):
    """The option against windowed products reaches the compiler."""
    case, _, found = update
    shards = {size // 16 for size in kernel_shapes(config_of(case))}
    moved = [c for c in found.collectives if c.kind == "collective-permute"]
    assert not [c for c in moved if any(entries(shape) in shards for shape in c.arrays)]
    assert sum(each.times for each in moved) < 200


def test_no_table_goes_over_all_chips(update):
    case, _, found = update
    config = config_of(case)
    table = config.vocab_size * config.hidden_size
    # Neighbours exchange the rows that fill up a divided vocabulary: they are few.
    others = [c for c in found.collectives if c.kind != "collective-permute"]
    large = [c for c in others if sum(map(entries, c.arrays)) >= table / 16]
    assert not [c for c in large if c.group == 64]
    # Kernels and tables are gathered in the type that is computed in.
    gathers = [c for c in found.collectives if c.kind == "all-gather" and c.bytes > MB]
    assert {shape.dtype for c in gathers for shape in c.arrays} == {"bf16"}


def test_an_update_holds_no_scores(update):
    case, text, _ = update
    square = [s for s in read(text).shapes if s.dims.count(case.length) >= 2]
    assert square == []
    assert 'custom_call_target="tpu_custom_call"' in text


@pytest.fixture(scope="module")
def decode(no_cache):
    """(case, what sixteen tokens move) at data=8, tensor=8."""
    case = Case(model=MODEL, mesh=(("data", 8), ("tensor", 8)))
    with compiling_for(Target("tpu")):
        return case, traffic(lower_rollout(case).compile().as_text(), 64)


def test_a_decode_step_moves_no_weights(decode):
    case, found = decode
    assert sum(each.total for each in found.collectives) / case.chunk < 0.2e9
    config = config_of(case)
    parts = {size // 8 for size in kernel_shapes(config)}
    parts.add(config.vocab_size * config.hidden_size // 8)
    # Weights are bfloat16; logits, which are not, may have as many entries.
    moved = [s for c in found.collectives for s in c.arrays if s.dtype == "bf16"]
    assert not [shape for shape in moved if entries(shape) in parts]


def test_decoding_moves_no_keys_of_prompts(decode):
    """Slots read prompts of their own shard. What is gathered is what the host reads."""
    _, found = decode
    assert [c for c in found.collectives if c.kind != "all-to-all" and c.bytes > MB] == []


def test_logits_are_exchanged_not_gathered(decode):
    """Each of the 8 devices of a row shard draws for an eighth of its rows."""
    case, found = decode
    exchanged = by_kind(found.collectives)["all-to-all"]
    rows = case.slots // 8
    assert exchanged.bytes == case.chunk * rows // 8 * config_of(case).vocab_size * 4


def test_prompts_stay_where_they_are_read():
    case = Case(model="qwen-small", mesh=(("data", 16), ("tensor", 4)))
    found = traffic(lower_rollout(case, "prefill").compile().as_text(), 64)
    keys = [s for c in found.collectives for s in c.arrays if case.prompt in s.dims]
    assert all(s.dims[-1] == config_of(case).hidden_size for s in keys), "states, not keys"
    assert sum(c.total for c in found.collectives if c.kind != "all-reduce") < MB


def test_half_a_pair_a_shard_is_refused_before_the_compiler():
    case = Case(model=MODEL, algorithm="dpo", rows=128, mesh=(("fsdp", 64),))
    message = r"batch size=128 must be a multiple of 256 \(mesh data x fsdp = 64, num_microbatch"
    with pytest.raises(ValueError, match=message):
        lower_update(case)
    assert mesh_of(case).size == 64
