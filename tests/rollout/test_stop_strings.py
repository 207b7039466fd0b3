"""Stop strings: a completion ends with the token that completes one, in any chunk or slot."""

import functools

import jax
import numpy as np
import pytest

from rlhf_jax.data.stops import make_string_end
from rlhf_jax.models import init_model
from rlhf_jax.rollout import SamplingParams, make_generator
from rlhf_jax.sharding import infer_shardings, make_mesh
from tests.models.tiny import noisy, ragged, tiny

PIECES = [text * (1 + index // 40) for index, text in enumerate("abcdefghij" * 6 + "abcd")]
"""The text of each of 64 tokens: few letters, and some tokens of two."""
STOPS = ("aa", "cab", "j")
PROMPTS, MASK = ragged(3, 6)
EOS = 9
LIMITS = np.array([30, 30, 1, 30, 0, 30, 7, 30, 30, 2, 30, 30])


def text_of(ids):
    return "".join(PIECES[token] for token in ids)


@functools.cache
def rollouts(stops, slots, chunk, fsdp=None):
    config = tiny("qwen2", max_position_embeddings=64, num_hidden_layers=1, max_window_layers=0)
    mesh = None if fsdp is None else make_mesh({"fsdp": fsdp})
    params = noisy(init_model(config, jax.random.key(0))[1])
    model, _ = init_model(config, jax.random.key(0), mesh=mesh)
    if mesh is not None:
        params = jax.device_put(params, infer_shardings(params, mesh))
    engine = make_generator(
        model,
        mesh=mesh,
        max_new_tokens=30,
        eos_ids=(EOS,),
        pad_id=0,
        group_size=4,
        prompt_buckets=(6,),
        slots=slots,
        chunk=chunk,
        string_end=make_string_end(stops, text_of),
    )
    return engine(params, PROMPTS, MASK.sum(1), jax.random.key(3), SamplingParams(), limits=LIMITS)


@pytest.mark.parametrize(
    ("slots", "chunk"), [pytest.param(None, 7, marks=pytest.mark.slow), (5, 4)]
)
def test_a_completion_ends_where_the_string_is_complete(slots, chunk):
    plain, _ = rollouts((), None, 16)
    out, stats = rollouts(STOPS, slots, chunk)
    ends = 0
    for row, limit in enumerate(LIMITS):
        whole = plain.tokens[row][plain.completion_mask[row]].tolist()
        kept = out.tokens[row][out.completion_mask[row]].tolist()
        first = (
            count
            for count in range(1, len(whole) + 1)
            if any(stop in text_of(whole[:count]) for stop in STOPS)
        )
        count = next(first, None)
        ends += count is not None
        assert kept == whole[: count or len(whole)] and len(kept) <= limit
        assert out.truncated[row] == (count is None and (not whole or whole[-1] != EOS))
        assert (out.logps[row][out.completion_mask[row]] != 0).all()
    assert 4 <= ends < len(LIMITS) - 1 and stats.tokens == out.completion_mask.sum()


@pytest.mark.slow
@pytest.mark.parametrize("slots", [None, 8])
def test_a_mesh_ends_them_there_too(slots):
    """Of 8 shards 5 hold a prompt only to help with its completions."""
    out, stats = rollouts(STOPS, slots, 4, fsdp=8)
    expected, _ = rollouts(STOPS, 5, 4)
    for name in ("tokens", "mask", "completion_mask", "truncated"):
        assert (out._asdict()[name] == expected._asdict()[name]).all(), name
    assert stats.tokens == expected.completion_mask.sum()


def test_the_search_looks_at_every_way_a_string_can_come():
    def end_of(pieces, strings, step=1):
        end = make_string_end(
            strings, lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace")
        )
        assert end is not None
        for count in range(step, len(pieces) + step, step):
            found = end(list(range(min(count, len(pieces)))), count - step)
            if found is not None:
                return found
        return None

    assert make_string_end((), str) is None
    for step in (1, 2, 3, 50):
        assert end_of([b"x", b"En", b"d", b"y"], ("End",), step) == 3, "in several tokens"
        assert end_of([b"x", b"a\n\nb", b"y"], ("\n",), step) == 2, "inside a token"
        assert end_of([b"x", b"\xe2", b"\x82", b"\xac", b"y"], ("\u20ac",), step) == 4, (
            "bytes of one character"
        )
        assert end_of([b"x", b"\xe2", b"\x82"], ("\u20ac",), step) is None
        assert end_of([b"ab", b"cd", b"ef"], ("cdef", "bc"), step) == 2, (
            "the one that is complete first"
        )
        assert end_of([b"E", *[b""] * 10, b"nd", b"y"], ("End",), step) == 12, (
            "tokens that write nothing"
        )
    assert end_of([b"x"] * 500 + [b"E", b"n", b"d"], ("End",), 16) == 503
