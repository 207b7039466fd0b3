"""What is read from compiled programs equals what was written into them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from rlhf_jax.runs.plan.compiled import KINDS, Collective, read_compiled
from rlhf_jax.sharding import make_mesh

ROWS = PartitionSpec(("data", "fsdp"))


def compiled(function, mesh, *arrays, **specs):
    mapped = jax.shard_map(function, mesh=mesh, check_vma=False, **specs)
    return jax.jit(mapped).lower(*arrays).compile()


def test_collectives_of_a_loop_count_as_often_as_it_runs():
    """5 x 3 gathers of [16, 4] over fsdp, 5 sums of [2, 4] over data."""
    mesh = make_mesh({"data": 2, "fsdp": 4})

    def function(x):
        def inner(carry, _):
            whole = lax.all_gather(carry, "fsdp", tiled=True)
            return carry + jnp.sin(whole)[: carry.shape[0]], None

        def outer(carry, _):
            carry, _ = lax.scan(inner, carry, None, length=3)
            return lax.psum(carry, "data") * 0.5, None

        return lax.scan(outer, x, None, length=5)[0]

    x = jax.ShapeDtypeStruct((32, 4), jnp.float32)
    program = compiled(function, mesh, x, in_specs=ROWS, out_specs=ROWS)
    facts = read_compiled(program.as_text(), mesh.size)
    found = facts.by_kind()
    assert found["all-gather"] == (15, 15 * 16 * 4 * 4)
    assert found["all-reduce"] == (5, 5 * 4 * 4 * 4)
    gather, total = facts.collectives
    assert (gather.group, gather.dtype, gather.shape) == (4, "f32", (16, 4))
    assert (total.group, total.dtype) == (2, "f32")
    assert facts.open_loops == ()
    assert facts.wire == 15 * 256 * 3 / 4 + 5 * 64 * 2 * 1 / 2


def test_scatters_count_what_goes_in():
    mesh = make_mesh({"fsdp": 8})
    x = jax.ShapeDtypeStruct((8, 64), jnp.bfloat16)

    def function(x):
        return lax.psum_scatter(x.astype(jnp.float32), "fsdp", scatter_dimension=1, tiled=True)

    program = compiled(function, mesh, x, in_specs=ROWS, out_specs=PartitionSpec("data", "fsdp"))
    (one,) = read_compiled(program.as_text(), mesh.size).collectives
    assert one.kind in ("reduce-scatter", "all-reduce")
    assert (one.group, one.times) == (8, 1)
    assert one.bytes == 64 * 4


def test_a_loop_that_ends_by_its_data_is_named_and_counted_as_told():
    mesh = make_mesh({"fsdp": 8})

    def function(x):
        return lax.while_loop(
            lambda x: x.sum() < 100, lambda x: lax.psum(x, "fsdp") + jnp.ones_like(x), x
        )

    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    text = compiled(function, mesh, x, in_specs=ROWS, out_specs=ROWS).as_text()
    once = read_compiled(text, mesh.size)
    assert len(once.open_loops) == 1
    assert once.by_kind()["all-reduce"][0] == 1
    assert read_compiled(text, mesh.size, trips=7).by_kind()["all-reduce"][0] == 7


TPU = """HloModule jit_step, entry_computation_layout={(bf16[16,8]{1,0})->bf16[16,8]{1,0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%scattered (p: f32[64,8]) -> f32[16,8] {
  %p = f32[64,8]{1,0:T(8,128)} parameter(0)
  %r = f32[64,8]{1,0:T(8,128)} all-reduce(%p), channel_id=4, replica_groups={{0,1,2,3}}, to_apply=%sum
  %i = s32[] constant(0)
  ROOT %d = f32[16,8]{1,0} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={16,8}
}

%cond (s: (s32[], bf16[16,8])) -> pred[] {
  %s = (s32[], bf16[16,8]) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %most = s32[] constant(28)
  ROOT %less = pred[] compare(%n, %most), direction=LT
}

%body (s: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %s = (s32[], bf16[16,8]) parameter(0)
  %x = bf16[16,8] get-tuple-element(%s), index=1
  %g = (bf16[16,8], bf16[64,8]) all-gather-start(%x), channel_id=1, replica_groups=[16,4]<=[64], dimensions={0}, metadata={op_name="jit(step)/layers/mlp/dot"}
  %done = bf16[64,8] all-gather-done(%g)
  %k = bf16[16,8] custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"estimated_cycles":"0"}
  %f = f32[16,8] fusion(%done), kind=kCustom, calls=%scattered, backend_config={"estimated_cycles":"1000"}
  %h = f32[16,8] fusion(%done), kind=kLoop, calls=%scattered, backend_config={"estimated_cycles":"9223372036854775807"}
  %one = s32[] constant(1)
  %n = s32[] get-tuple-element(%s), index=0
  %next = s32[] add(%n, %one)
  ROOT %t = (s32[], bf16[16,8]) tuple(%next, %x)
}

ENTRY %main (x: bf16[16,8]) -> bf16[16,8] {
  %x = bf16[16,8] parameter(0)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[16,8]) tuple(%zero, %x)
  %loop = (s32[], bf16[16,8]) while(%init), condition=%cond, body=%body
  %y = bf16[16,8] get-tuple-element(%loop), index=1
  %permuted = bf16[16,8] collective-permute(%y), channel_id=9, source_target_pairs={{0,1},{1,0}}
  ROOT %z = bf16[16,8] copy(%permuted), backend_config={"estimated_cycles":"500"}
}
"""  # noqa: E501


def test_what_only_a_tpu_writes():
    """Sums and slices in one fusion are scatters, asynchronous gathers count once, kernels have no
    cycles, and an estimate that is the largest integer is none."""
    facts = read_compiled(TPU, 64)
    found = facts.by_kind()
    assert found["all-gather"] == (28, 28 * 64 * 8 * 2)
    assert found["reduce-scatter"] == (28 * 2, 28 * 2 * 64 * 8 * 4)
    assert found["collective-permute"] == (1, 16 * 8 * 2)
    assert set(found) <= set(KINDS)
    assert facts.cycles == 28 * 1000 + 500
    assert facts.kernels == 28
    assert facts.open_loops == ()
    gather = next(each for each in facts.collectives if each.kind == "all-gather")
    assert gather.source == "jit(step)/layers/mlp/dot"
    assert gather.group == 4


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 2 * 0.75), ("all-gather", 0.75), ("reduce-scatter", 0.75), ("all-to-all", 1)],
)
def test_bytes_on_the_wire(kind, sent):
    one = Collective(kind, "f32", (8,), bytes=32, group=4, times=1, source="")
    assert one.wire == 32 * sent


def test_bytes_of_a_real_step_are_those_of_its_parameters():
    """Data parallel gradients: one sum of every parameter, whatever the compiler fuses."""
    mesh = make_mesh({"data": 8})
    params = {"a": jnp.zeros((16, 8)), "b": jnp.zeros((3,))}

    def loss(params, x):
        return jnp.sum((x @ params["a"]) ** 2) + jnp.sum(params["b"]) * x.mean()

    rows = jax.sharding.NamedSharding(mesh, ROWS)
    whole = jax.sharding.NamedSharding(mesh, PartitionSpec())
    step = jax.jit(jax.grad(loss), in_shardings=(whole, rows), out_shardings=whole)
    text = step.lower(params, jax.ShapeDtypeStruct((64, 16), jnp.float32)).compile().as_text()
    _, size = read_compiled(text, mesh.size).by_kind()["all-reduce"]
    least = sum(np.size(leaf) for leaf in jax.tree.leaves(params)) * 4
    assert least - 16 <= size <= least + 16  # the mean of x, and b's gradient is that scalar
