"""Shapes of packed batches."""

import numpy as np
import pytest

from rlhf_jax.data import DataConfig, byte_tokenizer, make_loader
from rlhf_jax.data.rooms import EpochRooms, Packing, Sequences, parted_room, pays, worth_parts
from rlhf_jax.training.packing import lay_out, pieces_of


def test_parts_are_an_eighth_of_the_padded_batch():
    batch = Sequences(number=64, longest=256, completion=128)
    room = parted_room(batch, Packing())
    assert (room.rows, room.width, room.longest) == (2, 1024, 256)
    assert room.group == 1 and not room.single
    # the head is computed on half of it and a little more
    assert room.scored == 640


def test_long_sequences_lie_two_to_a_row():
    """Wider rows cost more attention than they save."""
    batch = Sequences(number=64, longest=1280, completion=1024, group=8)
    assert parted_room(batch, Packing()).width == 2560


@pytest.mark.parametrize(("group", "shape"), [(1, (32, 2048)), (8, (16, 3200))])
def test_whole_rows_are_narrow_where_parts_stay_as_large(group, shape):
    """7b on 64 chips, of which 16 divide the rows. Attention that scores all pairs of a row pays
    for its width; but twice as many tokens in a part leave more of the last one empty."""
    batch = Sequences(number=256, longest=2048, completion=1536, group=group)
    packing = Packing(shards=16, num_microbatches=4)
    wide = parted_room(batch, packing)
    room = parted_room(batch, packing._replace(whole_rows=True))
    assert (room.rows, room.width) == shape
    assert 0.99 < room.rows * room.width / (wide.rows * wide.width) <= 1 and wide.rows == 16


def test_short_sequences_share_whole_rows_too():
    batch = Sequences(number=64, longest=256, completion=128)
    assert parted_room(batch, Packing(whole_rows=True)) == parted_room(batch, Packing())


@pytest.mark.parametrize(("longest", "width"), [(1500, 1536), (2048, 2048), (100, 400)])
def test_whole_rows_fill_the_lanes(longest, width):
    batch = Sequences(number=256, longest=longest, completion=longest // 2)
    assert parted_room(batch, Packing(whole_rows=True)).width == width


def test_a_large_batch_is_no_single_row():
    totals = np.full(10, 32 * 300)
    batch = Sequences(number=32, longest=512, completion=400, group=2)
    rooms = EpochRooms(totals, totals // 2, batch=batch, packing=Packing())
    assert not rooms.of(32 * 300, 16 * 300).single


def test_a_group_has_room_behind_its_prompt():
    """8 completions of 64 tokens behind one prompt of 64, each with the prompt's last token."""
    batch = Sequences(number=64, longest=128, completion=64, group=8)
    room = parted_room(batch, Packing())
    assert room.width == 7 * 65 + 128 and room.group == 8
    apart = parted_room(batch, Packing(share_prompt=False))
    assert apart.group == 1 and apart.width == 4 * 128


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("microbatches", [1, 16])
@pytest.mark.parametrize("whole_rows", [False, True])
def test_every_sequence_fits_and_rows_divide(shards, microbatches, whole_rows):
    packing = Packing(shards=shards, num_microbatches=microbatches, whole_rows=whole_rows)
    for number, longest, together in [(8, 16, 2), (64, 512, 1), (2, 1000, 2), (4096, 40, 1)]:
        batch = Sequences(number=number, longest=longest, completion=longest // 2)
        room = parted_room(batch, packing, together=together)
        assert room.rows % shards == 0 and room.width >= longest
        most = max(number * longest // microbatches, 2.1 * shards * longest)
        assert room.rows * room.width <= most
        assert room.rows * room.width >= together * longest
        assert room.rows > 1 or room.width >= together * longest


def test_a_row_must_hold_a_sequence():
    batch = Sequences(number=8, longest=100, completion=50)
    assert parted_room(batch, Packing(max_tokens_per_row=300)).width == 300
    with pytest.raises(ValueError, match="max_tokens_per_row=99 is less than the longest"):
        parted_room(batch, Packing(max_tokens_per_row=99))


def test_known_batches_have_few_rooms_and_fit():
    rng = np.random.default_rng(0)
    totals = rng.integers(300, 900, 200)
    scored = totals // 2 + rng.integers(0, 20, 200)
    batch = Sequences(number=8, longest=200, completion=150, group=2)
    rooms = EpochRooms(totals, scored, batch=batch, packing=Packing())
    chosen = {rooms.of(int(total), int(some)) for total, some in zip(totals, scored, strict=True)}
    assert 1 < len(chosen) <= 3 and all(room.single for room in chosen)
    for total, some in zip(totals, scored, strict=True):
        room = rooms.of(int(total), int(some))
        assert total <= room.width and some <= room.scored
    assert rooms.places(totals, scored) < 1.25 * totals.sum()
    # Another epoch may bring more at once than this one had.
    assert not rooms.of(5000, 10).single and not rooms.of(310, 900).single


def test_on_a_mesh_batches_lie_in_parts():
    totals = np.full(10, 800)
    batch = Sequences(number=8, longest=200, completion=150)
    for packing in (
        Packing(shards=2),
        Packing(num_microbatches=2),
        Packing(max_tokens_per_row=400),
    ):
        assert not EpochRooms(totals, totals // 2, batch=batch, packing=packing).of(800, 400).single


def test_where_it_pays():
    assert pays(90, 100, Packing()) and not pays(91, 100, Packing())
    assert pays(150, 100, Packing(always=True))
    small = Sequences(number=64, longest=16, completion=8)
    assert not worth_parts(small, Packing())
    assert worth_parts(small._replace(longest=64), Packing())
    assert not worth_parts(small._replace(longest=64), Packing(shards=2))


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_host_and_device_agree_on_what_is_laid(kind):
    """The room is chosen by totals from the host; what is laid is counted on the device."""
    config = DataConfig(path="synthetic:arithmetic?size=60&max_operand=99", max_length=32)
    packing = Packing(always=True)
    loader = make_loader(config, byte_tokenizer(), kind=kind, batch_size=4, seed=0, packing=packing)
    for step in range(loader.batches_per_epoch):
        batch = loader.batch(step)
        assert batch.room is not None and batch.room.single
        layout = lay_out(pieces_of(batch), batch.room)
        present = loader.indices(step)
        present = present[present >= 0]
        assert int(layout.filled) == int(loader._totals[present].sum())
        assert not layout.is_broken
        tokens = int(batch.mask.sum())
        # The answers of a pair read their prompt once.
        assert int(layout.filled) < tokens if kind == "pairs" else int(layout.filled) == tokens
