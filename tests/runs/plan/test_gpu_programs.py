"""What must hold of the programs on eight H100s, asked of XLA's GPU compiler, without them."""

import pytest

from rlhf_jax.runs.plan import plan
from rlhf_jax.runs.plan.collectives import by_kind, traffic
from rlhf_jax.runs.plan.hlo import read
from rlhf_jax.target import Target, compiling_for
from tests.runs.plan.programs import Case, config_of, lower_update
from tests.topologies import GPU_COMPILER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("no_cache"),
    GPU_COMPILER,
]

MB = 10**6


@pytest.fixture(scope="module")
def update(no_cache):
    """(case, compiled update, what it moves) of SFT at fsdp=8."""
    case = Case(
        topology="h100x8", mesh=(("fsdp", 8),), model="qwen-small", rows=16, length=1152, micro=2
    )
    with compiling_for(Target("gpu")):
        text = lower_update(case).compile().as_text()
    return case, text, traffic(text, 8)


def test_an_update_attends_by_cudnn_forward_and_backward(update):
    case, text, _ = update
    assert 'custom_call_target="__cudnn$fmhaSoftmax"' in text
    assert 'custom_call_target="__cudnn$fmhaSoftmaxBackward"' in text
    # What the kernels make inside is written beside them, and is no array of the program.
    square = [s for s in read(text).shapes if s.dims.count(case.length) >= 2]
    assert square == []


def test_kernels_and_tables_are_gathered_in_the_type_that_is_computed_in(update):
    _, _, found = update
    gathers = [c for c in found.collectives if c.kind == "all-gather" and c.bytes > MB]
    moved = {shape.dtype for c in gathers for shape in c.arrays}
    # Tokens (s32) may go along with a kernel, in one gather.
    assert moved - {"s32"} == {"bf16"}


def test_gradients_are_scattered(update):
    case, _, found = update
    moved = by_kind(found.collectives)
    table = config_of(case).vocab_size * config_of(case).hidden_size
    assert moved["reduce-scatter"].bytes > case.micro * table
    assert all(c.bytes <= MB for c in found.collectives if c.kind == "all-reduce")


def test_a_plan_says_what_the_compiler_does_not_know(tiny_config):
    found = plan(tiny_config("sft"), "h100x8")
    assert found.compiler == "XLA's GPU compiler" and found.fits
    assert "the compiler of h100 estimates no time" in found.warnings[0]
