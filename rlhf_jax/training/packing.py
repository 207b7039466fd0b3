"""Sequences of a batch in fewer, fuller rows: what a model reads is laid out anew inside of the
program, and everything else stays as it was.

A batch arrives as padded rows, and advantages, weights and metrics are computed on those. Only its
sequences are packed, and what those of a group share, the prompt, is laid once a row: `lay_out`
says where each one lies, `part_of` makes what a forward pass reads, and `algorithms.forward` puts
what the model says back into the batch's own rows. Losses cannot tell, because the weights were
computed over the whole batch before.

Lengths are data, shapes are not. So a part has a fixed shape (`Room`) and the number of parts is
counted on the device: a step computes as many as its tokens need, in one program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rlhf_jax.types import Packed, Room

T = TypeVar("T")


class Pieces(NamedTuple):
    """What is laid of the sequences of a batch. An example has K of them: 1, or 2 of a pair."""

    own: Int[Array, "B K"]
    """Tokens of its own, and the one before them, which predicts the first; all of them where
    nothing is shared; 0 of an empty row."""
    shared: Int[Array, " B"]
    """Tokens before those, common to the sequences of its group."""
    family: Int[Array, " B"]
    """Number of the group."""
    trained: Int[Array, "B K"]
    """Of the own tokens, those that are trained on."""


class Layout(NamedTuple):
    """Where sequences lie. Places count the R * L of a part row by row."""

    part: Int[Array, " B"]
    """Of the example; -1: it does not fit into any, which a `Room` rules out."""
    start: Int[Array, "B K"]
    """Place of the first of its own tokens."""
    prefix: Int[Array, "B K"]
    """Place of what it shares, where it is the first of its group in the row; else -1: it lies
    there already."""
    parts: Int[Array, ""]
    """In use, at least 1."""
    filled: Int[Array, ""]
    """Places that hold a token, over all parts."""
    is_broken: Bool[Array, ""]
    """The batch is not what its room was made for: an example has no place, or is longer."""


def pieces_of(batch: Any) -> Pieces:
    """Lengths of what the sequences of a batch share with their group, and of the rest.

    A group shares its first tokens up to the last one before any of its completions: that one is
    repeated before each, so that in every row a token's predecessor predicts it.
    """
    width = batch.tokens.shape[-1]
    group = batch.room.group
    examples = len(batch.mask)
    mask = batch.mask.reshape(-1, group, width)
    length = jnp.sum(mask, axis=2, dtype=jnp.int32)
    trained = batch.completion_mask.reshape(mask.shape)
    count = jnp.sum(trained, axis=2, dtype=jnp.int32)
    several = mask.size // width // examples
    # The two answers of a pair are an example; of completions each is one.
    family = jnp.arange(examples) // max(group // several, 1)
    if group == 1:
        own = length.reshape(examples, several)
        return Pieces(own, jnp.zeros(examples, jnp.int32), family, count.reshape(own.shape))
    tokens = batch.tokens.reshape(mask.shape)
    present = length > 0
    # Empty rows only complete a shape: they agree with anything.
    first = jnp.argmax(present, axis=1)[:, None, None]
    like = jnp.take_along_axis(tokens, first, axis=1)
    agree = ((tokens == like) & mask & ~trained) | ~present[:, :, None]
    common = jnp.sum(jnp.cumprod(jnp.all(agree, axis=1).astype(jnp.int32), axis=1), axis=1)
    common = jnp.where(jnp.any(present, axis=1), jnp.maximum(common - 1, 0), 0)
    own = jnp.where(present, length - common[:, None], 0)
    shared = jnp.broadcast_to(common[:, None], own.shape).reshape(examples, several)[:, 0]
    own = own.reshape(examples, several)
    return Pieces(own, shared, family, count.reshape(own.shape))


def lay_out(pieces: Pieces, room: Room) -> Layout:
    """First fit over parts, large groups first; inside of a part, the emptiest row.

    Long sequences come first, while there is a choice. The emptiest row, not the fullest, because
    the rows of a part are computed side by side on the devices that they are divided over. Where a
    row holds already what a sequence shares, it goes there, and takes room for its own tokens only.

    Args:
      pieces: of the sequences; those of an example lie in one part.
      room: shape of a part.

    Returns:
      A layout; empty sequences take no room.
    """
    examples, several = pieces.own.shape
    parts = 1 if room.single else examples
    size = jnp.sum(pieces.own, axis=1)
    of_family = jnp.zeros(examples, jnp.int32).at[pieces.family].add(size)[pieces.family]
    order = jnp.lexsort((-size, pieces.family, -of_family))
    every = jnp.arange(parts)
    columns = jnp.arange(room.rows)[None, :]

    def place(state: tuple[Array, ...], example: Array) -> tuple[tuple[Array, ...], Any]:
        # [parts, rows]: places that are left, also for trained tokens; group that was laid last
        free, heads, holder = state
        left = free
        left_heads = heads
        now = holder
        joins = jnp.zeros(parts, bool)
        starts = []
        prefixes = []
        for k in range(several):
            own = pieces.own[example, k]
            mine = now == pieces.family[example]
            cost = own + jnp.where(mine, 0, pieces.shared[example])
            cost = jnp.where(own > 0, cost, 0)
            trained = pieces.trained[example, k]
            joined = mine & (left >= cost) & (left_heads >= trained)
            room_for = jnp.where(left_heads >= trained, left, -1)
            row = jnp.argmax(jnp.where(joined, room.width + 1, room_for), axis=1)
            # Compared, not indexed: on an accelerator scattering a few numbers in each of so many
            # small steps costs more than touching all.
            chosen = columns == row[:, None]
            begin = (row + 1) * room.width - jnp.sum(jnp.where(chosen, left, 0), axis=1)
            new = ~jnp.any(chosen & mine, axis=1) & (own > 0)
            prefixes.append(jnp.where(new, begin, -1))
            starts.append(begin + jnp.where(new, pieces.shared[example], 0))
            joins |= jnp.any(chosen & joined, axis=1)
            left = left - jnp.where(chosen, cost, 0)
            left_heads = left_heads - jnp.where(chosen, trained, 0)
            now = jnp.where(chosen & (own > 0), pieces.family[example], now)
        fits = jnp.all((left >= 0) & (left_heads >= 0), axis=1)
        # A part that holds the group already, else the first with room.
        best = jnp.argmax(fits.astype(jnp.int32) + (fits & joins))
        taken = ((every == best) & fits)[:, None]
        part = jnp.where(fits[best], best, -1)
        found = (part, jnp.stack(starts, axis=1)[best], jnp.stack(prefixes, axis=1)[best])
        moved = (
            jnp.where(taken, new, old)
            for new, old in ((left, free), (left_heads, heads), (now, holder))
        )
        return tuple(moved), found

    empty = (parts, room.rows)
    scored = room.width if room.scored is None else room.scored
    begun = tuple(jnp.full(empty, value, jnp.int32) for value in (room.width, scored, -1))
    (free, _, _), (part, start, prefix) = jax.lax.scan(place, begun, order)
    back = jnp.argsort(order)
    # Parts are filled in order, so those in use are the first ones.
    used = jnp.sum(jnp.any(free < room.width, axis=1))
    filled = jnp.sum(room.width - free)
    length = jnp.where(pieces.own > 0, pieces.own + pieces.shared[:, None], 0)
    is_broken = jnp.any(part < 0) | jnp.any(length > room.longest)
    used = jnp.maximum(used, 1)
    return Layout(part[back], start[back], prefix[back], used, filled, is_broken)


def padding_of(layout: Layout, room: Room) -> Array:
    """Share of the computed places that hold no token."""
    return 1 - layout.filled / (layout.parts * room.rows * room.width)


def part_of(batch: Any, pieces: Pieces, layout: Layout, index: Array | int) -> Any:
    """What one part of a batch holds: its sequences packed, and no weight on any other example.

    Args:
      batch: whole, weighed or not, with `room`.
      pieces: of it.
      layout: of it.
      index: of the part.

    Returns:
      The batch with `packed`, in which no other example is present. An example without a place, or
      longer than the room says, makes every weight NaN: no step can lose one in silence.
    """
    room: Room = batch.room
    width = batch.tokens.shape[-1]
    several = pieces.own.shape[1]
    here = layout.part == index

    def rows(of_example: Array) -> Array:
        """[B] -> [B * K, 1]"""
        return jnp.repeat(of_example, several)[:, None]

    mask = batch.mask.reshape(-1, width) & rows(here)
    steps = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None, :], mask.shape)
    is_own = mask & (steps >= rows(pieces.shared))
    places = jnp.where(is_own, layout.start.reshape(-1, 1) + steps - rows(pieces.shared), -1)
    laid = _laid(pieces, layout, room, rows(here)[:, 0])
    # Read by the places of the part, not written by the tokens of the batch, which are many more:
    # an accelerator moves single numbers one after another.
    source = laid.example * width + laid.step

    def read(values: Array) -> Array:
        """[B * K, T] -> [R, L]"""
        nothing = jnp.zeros((), values.dtype)
        return jnp.where(laid.is_filled, values.reshape(-1)[source], nothing)

    scored = None
    if room.scored is not None:
        trained = read(batch.completion_mask) & laid.is_own
        scored = columns_of(trained, room.scored)
    packed = Packed(
        read(batch.tokens),
        jnp.where(laid.is_filled, jnp.where(laid.is_own, laid.example + 1, laid.group), 0),
        scored,
        places.reshape(batch.tokens.shape),
    )
    if room.group > 1:
        packed = packed._replace(
            prefix_ids=jnp.where(laid.is_filled & laid.is_own, laid.group, -1),
            positions=laid.step,
        )
    # Whatever an algorithm counts, it counts each example once.
    own_masks = {
        name: getattr(batch, name) & _beside(here, getattr(batch, name))
        for name in ("mask", "completion_mask", "valid")
        if hasattr(batch, name)
    }
    batch = batch._replace(packed=packed, **own_masks)
    if batch.weights is None:
        return batch

    def weight(x: Array) -> Array:
        return jnp.where(layout.is_broken, jnp.nan, jnp.where(_beside(here, x), x, 0))

    return batch._replace(weights=jax.tree.map(weight, batch.weights))


class _Laid(NamedTuple):
    """What each place of a part holds, all [R, L]."""

    is_filled: Array
    is_own: Array
    """Of a sequence's own tokens; else of a prompt that it shares."""
    example: Array
    """Row of the batch whose token it is."""
    step: Array
    """Column of that row; 0 where nothing is."""
    group: Array
    """Number of its group as a document, behind those of all sequences, which count from 1."""


def _laid(pieces: Pieces, layout: Layout, room: Room, here: Bool[Array, " N"]) -> _Laid:
    """A part seen from its places.

    What is laid are runs of places: own tokens and prompts. The first place of each run is marked,
    and a place belongs to the last mark before it.

    Args:
      pieces: of the batch.
      layout: of it.
      room: of it.
      here: which of its N = B * K sequences lie in the part.
    """
    several = pieces.own.shape[1]
    count = len(here)
    size = room.rows * room.width
    own = pieces.own.reshape(-1)
    shared = jnp.repeat(pieces.shared, several)
    prefix = layout.prefix.reshape(-1)
    starts = jnp.concatenate(
        [
            jnp.where(here & (own > 0), layout.start.reshape(-1), size),
            # The first of a group in its row brings what they share.
            jnp.where(here & (prefix >= 0) & (shared > 0), prefix, size),
        ]
    )
    # Out of bounds means dropped: what lies elsewhere.
    marks = (
        jnp.full(size, -1, jnp.int32)
        .at[starts]
        .set(jnp.arange(2 * count, dtype=jnp.int32), mode="drop")
    )
    marks = marks.reshape(room.rows, room.width)
    column = jnp.arange(room.width, dtype=jnp.int32)[None, :]
    begin = jax.lax.cummax(jnp.where(marks >= 0, column, -1), axis=1)
    run = jnp.take_along_axis(marks, jnp.maximum(begin, 0), axis=1)
    example = jnp.maximum(run, 0) % count
    is_own = run < count
    table = jnp.stack([own, shared, jnp.repeat(pieces.family, several)], axis=1)
    found = table.astype(jnp.int32)[example]
    skipped = jnp.where(is_own, found[..., 1], 0)
    length = jnp.where(is_own, found[..., 0], found[..., 1])
    behind = column - begin
    is_filled = (begin >= 0) & (behind < length)
    step = jnp.where(is_filled, skipped + behind, 0)
    group = found[..., 2] + count + 1
    return _Laid(is_filled, is_own, example, step, group)


def columns_of(marked: Array, count: int) -> Int[Array, "R S"]:
    """The first `count` marked columns of each row, ascending, then -1."""
    order = jnp.argsort(~marked, axis=1, stable=True)[:, :count].astype(jnp.int32)
    return jnp.where(jnp.take_along_axis(marked, order, axis=1), order, -1)


def fold_parts(
    function: Callable[[Any, Array | int], T],
    batch: Any,
    *,
    merge: Callable[[T, T, Array], T],
    start: Callable[[T], T],
) -> tuple[T, Layout]:
    """Calls a function with every part of a batch that is in use.

    Args:
      function: (part of the batch, its number) -> a tree.
      batch: with `room`.
      merge: (so far, new, examples [B] of the new part) -> so far.
      start: shapes of what the function returns -> what merging begins with.

    Returns:
      (the merged tree, of a single part what the function returned; the layout).
    """
    pieces = pieces_of(batch)
    layout = lay_out(pieces, batch.room)
    if batch.room.single:
        return function(part_of(batch, pieces, layout, 0), 0), layout

    def body(carry: tuple[Array, T]) -> tuple[Array, T]:
        index, so_far = carry
        found = function(part_of(batch, pieces, layout, index), index)
        return index + 1, merge(so_far, found, layout.part == index)

    shapes = jax.eval_shape(lambda: function(part_of(batch, pieces, layout, 0), 0))
    # A loop whose end is data: the gradients are taken inside of it, not through it.
    _, merged = jax.lax.while_loop(
        lambda carry: carry[0] < layout.parts, body, (jnp.zeros((), jnp.int32), start(shapes))
    )
    return merged, layout


def score_parts(score: Callable[[Any], dict[str, Array]], batch: Any) -> dict[str, Array]:
    """Scores of a batch with `room`, each leading with its rows.

    Args:
      score: part of the batch -> field -> array over all rows of the batch.
      batch: whole.

    Returns:
      Field -> array, every row from the part that it lies in; NaN where the batch is not what its
      room was made for.
    """
    found, layout = fold_parts(
        lambda part, index: score(part),
        batch,
        merge=lambda so_far, found, here: jax.tree.map(
            lambda old, new: jnp.where(_beside(here, new), new, old), so_far, found
        ),
        start=lambda shapes: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    )
    return jax.tree.map(lambda x: jnp.where(layout.is_broken, jnp.nan, x), found)


def _beside(rows: Array, x: Array) -> Array:
    """[B] with as many axes as `x`."""
    return rows.reshape(-1, *(1,) * (x.ndim - 1))
