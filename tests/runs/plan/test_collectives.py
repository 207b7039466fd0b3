"""Collectives of compiled programs: of texts as the compilers write them, and of a program of which
everything is known."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.runs.plan.collectives import by_kind, traffic
from rlhf_jax.runs.plan.hlo import Shape, read
from rlhf_jax.sharding import make_mesh

TPU = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input.1: bf16[3584,512]) -> bf16[224,512] {
  %input.1 = bf16[3584,512]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[3584,512]{1,0:T(8,128)(2,1)} all-reduce(%input.1), channel_id=7, \
replica_groups=[4,16]<=[64], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %dynamic-slice.1 = bf16[224,512]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %zero)
}

%condition (state.1: (s32[], bf16[224,512])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[224,512]{1,0}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %bound = s32[]{:T(128)} constant(28)
  ROOT %compare.1 = pred[]{:T(128)} compare(%turn, %bound), direction=LT
}

%body (state.2: (s32[], bf16[224,512])) -> (s32[], bf16[224,512]) {
  %state.2 = (s32[]{:T(128)}, bf16[224,512]{1,0}) parameter(0)
  %shard = bf16[224,512]{1,0:T(8,128)(2,1)} get-tuple-element(%state.2), index=1
  %all-gather.3 = bf16[3584,512]{1,0:T(8,128)(2,1)S(1)} all-gather(%shard), channel_id=3, \
replica_groups=[4,16]<=[64], dimensions={0}, metadata={op_name="jit(step)/while/body/dot_general"}
  %fusion.1 = bf16[224,512]{1,0:T(8,128)(2,1)} fusion(%all-gather.3), kind=kCustom, \
calls=%all-reduce-scatter.1, backend_config={"estimated_cycles":"1000"}
  %odd = bf16[224,512]{1,0} copy(%fusion.1), \
backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[224,512]{1,0}) tuple(%turn, %odd)
}

ENTRY %main.1 (p0: bf16[224,512]) -> f32[64] {
  %p0 = bf16[224,512]{1,0} parameter(0)
  %start = (s32[]{:T(128)}, bf16[224,512]{1,0}) tuple(%zero, %p0)
  %while.1 = (s32[]{:T(128)}, bf16[224,512]{1,0}) while(%start), condition=%condition, body=%body
  %permute-start = (f32[64]{0}, f32[64]{0}, u32[], u32[]) collective-permute-start(%x), \
channel_id=9, source_target_pairs={{0,1},{1,0}}
  %permute-done = f32[64]{0} collective-permute-done(%permute-start)
  ROOT %sum = f32[64]{0} all-reduce(%permute-done), channel_id=5, \
replica_groups=mesh['data'=4,'fsdp'=16] {'data'}, to_apply=%add
}
"""


def test_a_text_as_the_tpu_compiler_writes_it():
    found = traffic(TPU, 64)
    gather, scatter, permute, total = (
        next(each for each in found.collectives if each.kind == kind)
        for kind in ("all-gather", "reduce-scatter", "collective-permute", "all-reduce")
    )
    assert gather.arrays == (Shape("bf16", (3584, 512)),)
    assert (gather.bytes, gather.group, gather.times) == (3584 * 512 * 2, 16, 28)
    assert gather.source == "jit(step)/while/body/dot_general"
    assert gather.wire == pytest.approx(28 * 3584 * 512 * 2 * 15 / 16)
    # An all-reduce that is cut inside of one instruction is a reduce-scatter.
    assert (scatter.bytes, scatter.group, scatter.times) == (3584 * 512 * 2, 16, 28)
    assert (permute.bytes, permute.times) == (64 * 4, 1)
    assert (total.group, total.wire) == (4, 2 * 64 * 4 * 3 / 4)
    assert len(found.collectives) == 4 and found.unknown_loops == ()
    # A number of cycles that means "unknown" is none.
    assert found.cycles == 28 * 1000
    assert by_kind(found.collectives)["all-gather"] == (1, 28, gather.total)
    assert Shape("bf16", (3584, 512)) in read(TPU).shapes


def test_a_loop_whose_end_depends_on_data_is_named():
    text = TPU.replace("%bound = s32[]{:T(128)} constant(28)", "%bound = s32[] custom-call()")
    found = traffic(text, 64)
    assert found.unknown_loops == ("while.1",)
    assert found.collectives[0].times == 1
    assert traffic(text, 64, turns=7).collectives[0].times == 7


def test_kernels_are_counted_as_they_have_no_cycles():
    kernel = '  %odd = bf16[224,512]{1,0} custom-call(%x), custom_call_target="tpu_custom_call"\n'
    assert traffic(TPU, 64).kernels == 0
    assert traffic(TPU.replace("  %odd", kernel + "  %odd"), 64).kernels == 28


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        traffic("{}", 1)


@pytest.mark.parametrize(
    ("dtype", "size"), [("f32", 4), ("bf16", 2), ("pred", 1), ("f8e4m3fn", 1), ("u64", 8)]
)
def test_sizes_of_types(dtype, size):
    assert Shape(dtype, (3, 2)).bytes == 6 * size


def test_a_program_of_which_everything_is_known():
    """Five turns of: gather a matrix over 4 devices, sum its product over all 8."""
    mesh = make_mesh({"data": 2, "fsdp": 4})
    rows = P(("data", "fsdp"), None)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("fsdp", None), rows), out_specs=P())
    def local(shard, x):
        def turn(total, _):
            whole = lax.all_gather(shard + total[0, 0], "fsdp", axis=0, tiled=True)
            return total + lax.psum(x @ whole, ("data", "fsdp")), None

        return lax.scan(turn, jnp.zeros((1, 16)), None, length=5)[0]

    arrays = [
        jax.device_put(jnp.ones(shape), NamedSharding(mesh, spec))
        for shape, spec in (((64, 16), P("fsdp", None)), ((8, 64), rows))
    ]
    found = traffic(jax.jit(local).lower(*arrays).compile().as_text(), mesh.size)
    assert [(each.kind, each.bytes, each.group, each.times) for each in found.collectives] == [
        ("all-gather", 64 * 16 * 4, 4, 5),
        ("all-reduce", 16 * 4, 8, 5),
    ]


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("(f32[8]{0}, f32[4]{0}) all-reduce-start(%a, %b), channel_id=1", 48),
        ("((f32[8]{0}, f32[4]{0}), (f32[16]{0}, f32[8]{0})) all-gather-start(%a, %b)", 96),
        ("(f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a)", 32),
    ],
)
def test_several_arrays_that_start_together_all_count(line, size):
    text = f"HloModule m\n\nENTRY %main (a: f32[8]) -> f32[8] {{\n  %x = {line}\n}}\n"
    (one,) = traffic(text, 2).collectives
    assert one.bytes == size


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{{0,2,4},{1,3,5}}", (0, 2, 4)),
        ("[2,3]<=[6]", (0, 1, 2)),
        ("[3,2]<=[2,3]T(1,0)", (0, 3)),
        ("mesh['data'=4,'fsdp'=2] {'data'}", ()),
    ],
)
def test_who_takes_part(groups, members):
    text = TPU.replace("mesh['data'=4,'fsdp'=16] {'data'}", groups)
    total = next(each for each in traffic(text, 64).collectives if each.kind == "all-reduce")
    assert total.members == members
    assert total.group == (len(members) or 4)
