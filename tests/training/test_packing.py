"""Packed equals unpacked: every algorithm, several updates, on one device and on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import (
    DAPOConfig,
    DPOConfig,
    GRPOConfig,
    KTOConfig,
    PPOConfig,
    RewardModelConfig,
    SFTConfig,
    make_algorithm,
)
from rlhf_jax.models import init_model
from rlhf_jax.sharding import MeshConfig, make_mesh
from rlhf_jax.training import make_score, make_step, make_train_state
from rlhf_jax.training.packing import Pieces, lay_out, part_of, pieces_of
from rlhf_jax.types import Algorithm, Room
from tests.conftest import quick
from tests.contract.fakes import make_batch
from tests.models.tiny import noisy, tiny

KEY = jax.random.key(0)
SINGLE = Room(rows=1, width=224, longest=10, scored=128, single=True)
PARTS = Room(rows=2, width=24, longest=10)
SHARED = Room(rows=1, width=48, longest=10, group=4)
ONLINE = {
    "grpo": GRPOConfig(group_size=4),
    "grpo, KL": GRPOConfig(group_size=4, kl_coef=0.1, num_minibatches=2),
    "GSPO": GRPOConfig(group_size=4, level="sequence", num_epochs=2),
    "Dr. GRPO": GRPOConfig(
        group_size=4, normalize_std=False, aggregation="constant", aggregation_constant=8
    ),
    "dapo": DAPOConfig(group_size=4, max_new_tokens=7, num_minibatches=2),
    "ppo": PPOConfig(kl_target=0.1, num_minibatches=2, num_epochs=2),
    "ppo, shared": PPOConfig(critic="shared", num_minibatches=2, entropy_coef=0.1),
}
OFFLINE = {
    "sft": SFTConfig(),
    "reward model": RewardModelConfig(),
    "online reference": DPOConfig(reference="online"),
    # by what they read: sums, means, quantiles of the batch
    **{name: DPOConfig(loss_type=name) for name in ("sigmoid", "ipo", "aot_unpaired")},
    "RPO": DPOConfig(loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.1)),
    "kto": KTOConfig(undesirable_weight=0.5),
    "kto, online reference": KTOConfig(reference="online"),
}


def model_of(config, **options):
    """(functions, {role: tree}) for what an algorithm trains and reads."""
    # One layer that is full and one with a window, of a vocabulary that a mesh divides.
    sizes = {"vocab_size": 24, "num_hidden_layers": 2, "hidden_size": 16, "head_dim": 8}
    trees = {}
    roles = []
    model = None
    for number, (role, trained) in enumerate(config.models.trained.items()):
        made, params = init_model(
            tiny("qwen2", **sizes), jax.random.key(number), head=trained.head, **options
        )
        trees[role] = noisy(params)
        roles.append((role, made))
        model = made if role == "policy" else model
    return model._replace(roles=tuple(pair for pair in roles if pair[0] != "policy")), trees


def stepped(config, batch, *, room, steps=3, mesh=None):
    """(state, metrics of every step) after some steps on one batch."""
    model, trees = model_of(config, mesh=mesh)
    ref = jax.tree.map(lambda x: x * 0.9, trees["policy"])
    algorithm = make_algorithm(config, model)
    tx = optax.sgd(0.03, momentum=0.9)
    batch = batch._replace(room=room)
    state = make_train_state(trees, tx, KEY, aux=dict(algorithm.aux))
    step = jax.jit(make_step(algorithm, tx, mesh=mesh))
    fill = jax.jit(make_score({**algorithm.needs, **algorithm.cached}))
    found = []
    for _ in range(steps):
        scored = batch._replace(**fill(state.params, {"ref": ref}, batch))
        state, metrics = step(state, {"ref": ref}, scored, KEY)
        del metrics["data/padding"]
        found.append(metrics)
    return state, found


def same(a, b, scale=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=scale, atol=scale), a, b)


def check(config, batch, rooms):
    state, metrics = stepped(config, batch, room=None)
    assert float(metrics[0]["grad_norm"]) > 0.01
    for room in rooms:
        packed_state, packed = stepped(config, batch, room=room)
        same(metrics, packed)
        same(state.params, packed_state.params)


@pytest.mark.parametrize("name", quick(OFFLINE, ("kto",)))
def test_packed_offline_equals_rows(name):
    config = OFFLINE[name]
    batch = make_batch(config.data)
    if config.data != "text":
        batch = batch._replace(tokens=one_prompt(batch, 2))
        shared = dataclasses.replace(SHARED, group=2)
        check(config, batch, [shared, SINGLE] if name == "sigmoid" else [shared])
    else:
        check(config, batch, [SINGLE, PARTS])


def one_prompt(batch, group):
    """The tokens of a batch whose groups share their prompts (of 2 or 3 tokens)."""
    shape = batch.tokens.shape
    tokens = np.array(batch.tokens).reshape(-1, group, shape[-1])
    prompts = np.array(batch.mask & ~batch.completion_mask).reshape(tokens.shape)
    return jnp.asarray(np.where(prompts, tokens[:, :1], tokens).reshape(shape))


@pytest.mark.parametrize("name", quick(ONLINE, ("grpo",)))
def test_packed_online_equals_rows(name):
    config = ONLINE[name]
    fields = dict.fromkeys(("old_logps", "ref_logps", "values"))
    batch = make_batch("prompts")._replace(**fields, on_policy=jnp.ones(16, bool))
    batch = batch._replace(tokens=one_prompt(batch, 4))
    check(config, batch, [SHARED if config.num_minibatches == 1 else PARTS])


def raggedly(rng, examples, several, group):
    """Pieces of random sequences: some empty, some groups without a prompt."""
    own = rng.integers(0, 20, (examples, several))
    family = np.arange(examples) // max(group // several, 1)
    shared = np.where(own.sum(1) > 0, rng.integers(0, 12, examples)[family], 0)
    trained = rng.integers(0, own // 2 + 1)
    return Pieces(*(jnp.asarray(x, jnp.int32) for x in (own, shared, family, trained)))


@pytest.mark.parametrize(
    ("several", "group"),
    [(1, 4), (2, 2), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((1, 1), (2, 1)))],
)
def test_every_token_has_a_place_of_its_own(several, group):
    """Random lengths: nothing overlaps, nothing leaves its row, what is shared lies in the row."""
    rng = np.random.default_rng(0)
    run = jax.jit(lay_out, static_argnames="room")
    for rows in (2, 4):
        room = Room(rows, 40, 32, scored=14, group=group)
        for _ in range(20):
            pieces = raggedly(rng, 24, several, group)
            layout = jax.tree.map(np.asarray, run(pieces, room=room))
            assert (layout.part >= 0).all() and layout.part.max() < layout.parts
            taken = np.zeros((int(layout.parts), rows * room.width), int)
            heads = np.zeros((int(layout.parts), rows), int)
            brought = set()
            read = set()
            for example, side in np.argwhere(np.asarray(pieces.own) > 0):
                part = layout.part[example]
                family = int(pieces.family[example])
                row = int(layout.start[example, side]) // room.width
                lengths = [(layout.start[example, side], int(pieces.own[example, side]))]
                if layout.prefix[example, side] >= 0:
                    assert (part, row, family) not in brought
                    brought.add((part, row, family))
                    lengths.append((layout.prefix[example, side], int(pieces.shared[example])))
                for start, length in lengths:
                    assert length == 0 or (start + length - 1) // room.width == row
                    taken[part, start : start + length] += 1
                read.add((part, row, family))
                heads[part, row] += int(pieces.trained[example, side])
            assert read == brought and heads.max() <= room.scored
            assert taken.max() <= 1 and taken.sum() == layout.filled
            assert taken.any(axis=1).all()


def equations(jaxpr):
    """Of a program and all that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def scattered(jaxpr):
    """How many numbers each scatter of a program writes."""
    return [
        equation.invars[2].aval.size
        for equation in equations(jaxpr)
        if equation.primitive.name.startswith("scatter")
    ]


def test_sequences_are_laid_without_a_scatter():
    """One in each of as many steps as there are sequences is what accelerators are slowest at."""
    pieces = raggedly(np.random.default_rng(0), 24, 2, 2)
    room = Room(4, 40, 32, scored=14, group=2)
    traced = jax.make_jaxpr(lambda pieces: lay_out(pieces, room))(pieces)
    loops = [found for found in equations(traced.jaxpr) if found.primitive.name == "scan"]
    assert len(loops) == 1 and not scattered(loops[0].params["jaxpr"].jaxpr)


def test_a_part_is_read_not_scattered():
    """What is written one by one is a mark of every run of places, not every token of the batch."""
    batch = make_batch("prompts")
    batch = batch._replace(room=SHARED, weights=None)

    def part(batch):
        pieces = pieces_of(batch)
        return part_of(batch, pieces, lay_out(pieces, batch.room), 0)

    assert max(scattered(jax.make_jaxpr(part)(batch).jaxpr)) == 2 * len(batch.mask)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"width": 64}, {"longest": 5}])
def test_what_breaks_a_room_is_no_silent_loss(change):
    """A room that is too small by mistake makes the step fail and a score NaN."""
    room = dataclasses.replace(SINGLE, **change)
    config = SFTConfig()
    _, metrics = stepped(config, make_batch("text"), room=room, steps=1)
    assert int(metrics[0]["update/skipped"]) == 1
    score = make_score({"rows": lambda trees, batch: batch.mask.sum(axis=1) * 1.0})
    assert np.isnan(score({}, {}, make_batch("text")._replace(room=room))["rows"]).all()


def test_a_part_holds_its_examples_and_no_others():
    """Whatever an algorithm counts, by weights or by masks, is counted once."""
    batch = make_batch("pairs")

    def loss(trees, part, key):
        total = jnp.sum(part.weights) * trees["policy"]
        counted = {"tokens": jnp.sum(part.completion_mask), "pairs": jnp.sum(part.valid)}
        return total, counted | {"places": jnp.sum(part.mask)}

    algorithm = Algorithm(loss=loss, weigh=lambda batch: batch._replace(weights=batch.valid * 1.0))
    tx = optax.sgd(0.1)
    state = make_train_state({"policy": jnp.ones(())}, tx, KEY)
    step = jax.jit(make_step(algorithm, tx))
    _, metrics = step(state, {}, batch._replace(room=PARTS), KEY)
    expected = {"tokens": batch.completion_mask, "pairs": batch.valid, "places": batch.mask}
    assert {name: int(metrics[name]) for name in expected} == {
        name: int(mask.sum()) for name, mask in expected.items()
    }
    assert float(metrics["loss/total"]) == 15


@pytest.mark.slow
@pytest.mark.parametrize("name", quick(("grpo", "sigmoid", "ppo"), ("grpo",)))
def test_a_mesh_changes_nothing(name):
    config = {**ONLINE, **OFFLINE}[name]
    batch = make_batch(config.data)
    if config.data == "prompts":
        batch = batch._replace(old_logps=None, ref_logps=None, values=None)
        batch = batch._replace(on_policy=jnp.ones(16, bool))
    state, metrics = stepped(config, batch, room=None)
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    room = Room(rows=4, width=20, longest=10)
    packed_state, packed = stepped(config, batch, room=room, mesh=mesh)
    same(metrics, packed)
    same(state.params, packed_state.params)


@pytest.mark.slow
def test_ragged_steps_compile_once():
    """50 batches of other lengths: other numbers of parts, the same program."""
    config = GRPOConfig(group_size=4)
    model, trees = model_of(config)
    algorithm = make_algorithm(config, model)
    tx = optax.sgd(1e-3)
    step = jax.jit(make_step(algorithm, tx))
    state = make_train_state(trees, tx, KEY)
    padding = set()
    for seed in range(50):
        batch = make_batch("prompts", seed=seed)
        state, metrics = step(state, {}, batch._replace(room=PARTS, ref_logps=None), KEY)
        padding.add(round(float(metrics["data/padding"]), 3))
    assert step._cache_size() == 1 and len(padding) > 10
