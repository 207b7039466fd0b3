"""The programs of a configuration as a run would compile them, on shapes alone.

Nothing is loaded and no row is read: trees are shapes in their shards, and every row is as long as
the configuration allows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.algorithms import make_algorithm
from rlhf_jax.config import Config
from rlhf_jax.data.kinds import ROWS
from rlhf_jax.data.rooms import Sequences, parted_room
from rlhf_jax.models import make_model
from rlhf_jax.programs import jitted as jitted_whole
from rlhf_jax.runs.cached import jitted_scores
from rlhf_jax.runs.footprint import (
    MANY,
    Work,
    architecture_of,
    device_bytes,
    held_bytes,
    run_shapes,
)
from rlhf_jax.runs.offline import jitted
from rlhf_jax.runs.online_parts import online_room
from rlhf_jax.runs.parts import check_batch, check_online_batch, packing_of
from rlhf_jax.runs.plan.program import Program, placed
from rlhf_jax.runs.plan.sampling import sampling_programs
from rlhf_jax.runs.rollout_layout import cached_tokens, with_rollout_mesh
from rlhf_jax.runs.trees import Loaded, execution, tree_specs
from rlhf_jax.runs.updating import make_update, state_key
from rlhf_jax.runs.useful.passes import Pass, loss_passes, score_passes
from rlhf_jax.runs.useful.work import Content, attention_of, flops_of
from rlhf_jax.sharding import batch_sharding, replicated
from rlhf_jax.training import TrainState, abstract_sharded_state, make_optimizers, make_score
from rlhf_jax.types import (
    Algorithm,
    PairBatch,
    PolicyBatch,
    Room,
    Sampling,
    TokenBatch,
    Trees,
    UnpairedBatch,
)


class Planned(NamedTuple):
    """A run on shapes."""

    config: Config
    """With what the algorithm takes from other sections filled in."""
    mesh: Mesh
    loaded: Loaded
    programs: tuple[Program, ...]
    work: Work
    """For the table of memory."""
    tokens: int
    """Of all rows of a step; online those of the completions."""


def plan_programs(config: Config, mesh: Mesh) -> Planned:
    """The programs of a run.

    Args:
      config: a whole run.
      mesh: of devices that need not be there.

    Raises:
      ValueError: anything that `train` would refuse before it reads data.
    """
    if config.model.given:
        raise ValueError(
            "model.given=true: what is not in the configuration cannot be planned; give model.path "
            "or model.config"
        )
    if config.is_online:
        return _online(config, mesh)
    return _offline(config, mesh)


def abstract_trees(config: Config, mesh: Mesh) -> Loaded:
    """`load_trees` with shapes in place of arrays.

    Args:
      config: a whole run.
      mesh: where they would lie.
    """
    shapes = run_shapes(config)
    policy, *others = tree_specs(config)

    def functions(spec: Any, head: str | None) -> Any:
        options: dict[str, Any] = {"remat": config.model.remat} if spec.is_trained else {}
        architecture = architecture_of(config, spec)
        return make_model(architecture, mesh=mesh, head=head, **options, **execution(config))

    roles = []
    for spec in others:
        if spec.is_trained:
            roles.append((spec.role, functions(spec, spec.head or "reward")))
        elif config.algorithm.models.own_reference:
            roles.append((spec.role, functions(spec, None)))
    model = functions(policy, policy.head)._replace(roles=tuple(roles))
    return Loaded(
        model,
        {role: placed(tree, mesh, config.mesh.replicate) for role, tree in shapes.trained.items()},
        {role: placed(tree, mesh, config.mesh.replicate) for role, tree in shapes.frozen.items()},
    )


def _updating(
    config: Config,
    mesh: Mesh,
    loaded: Loaded,
    algorithm: Algorithm,
    batch: Any,
    content: Content,
    parts: float,
) -> Program:
    """The update, on a batch that has what the algorithm reads."""
    # Offline there is one update a batch, as in `make_step`.
    sampling = algorithm.sampling or Sampling()
    tx = make_optimizers(config.optimizer, config.algorithm.models.trained, total_steps=MANY)
    state, shardings = abstract_sharded_state(
        loaded.trained,
        tx,
        jax.eval_shape(lambda: state_key(config)),
        mesh=mesh,
        aux=dict(algorithm.aux),
        replicate=config.mesh.replicate,
    )
    step: Any = jitted(
        make_update(config, algorithm, tx, mesh, total_updates=MANY),
        shardings=(shardings, replicated(mesh)),
    )
    passes = loss_passes(
        config.algorithm, loaded.model, loaded.trained, loaded.frozen, batch, state.aux
    )
    return Program(
        "update",
        lambda: step.lower(state, loaded.frozen, batch),
        calls=1,
        flops=sampling.num_epochs * flops_of(passes, content),
        attention=sampling.num_epochs * attention_of(passes, content),
        traffic=_moved(state, loaded.frozen, mesh, config, sampling.num_updates),
        reads=(state, _read(passes, loaded.frozen)),
        trips=parts,
    )


class _Rows(NamedTuple):
    """Makes abstract arrays that lead with the rows of a batch."""

    number: int
    mesh: Mesh

    def of(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        where = batch_sharding(self.mesh)
        return jax.ShapeDtypeStruct((self.number, *shape), dtype, sharding=where)

    def mask(self, *shape: int) -> Any:
        return self.of(*shape, dtype=jnp.bool_)

    def numbers(self, *shape: int) -> Any:
        return self.of(*shape, dtype=jnp.float32)


def _filled(batch: Any, fields: dict[str, Any], mesh: Mesh) -> Any:
    where = batch_sharding(mesh)
    structs = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for name, x in fields.items()
    }
    return batch._replace(**structs)


def _full(count: int, first: int, stop: int, trained: int) -> Content:
    """Rows that are all as long as they may be."""
    return Content(np.tile(np.array([[first, stop]], np.int64), (count, 1)), trained)


def _moved(state: TrainState, frozen: Trees, mesh: Mesh, config: Config, updates: int) -> float:
    """Bytes of a device: parameters and moments are read and written in every update."""
    replicate = config.mesh.replicate
    trained = device_bytes(
        (state.params, state.opt_state), mesh, replicate=replicate, roles=state.params
    )
    read = sum(device_bytes(tree, mesh, replicate=replicate) for tree in frozen.values())
    return updates * (2.0 * trained + read)


def _read(passes: Sequence[Pass], trees: Trees) -> dict[str, Any]:
    """The trees that are read: a compiled program drops arguments that it does not use."""
    roles = {each.role for each in passes}
    return {role: tree for role, tree in trees.items() if role in roles}


def _parts_of(room: Room | None, tokens: int) -> float:
    """Parts of a packed batch whose rows are full."""
    if room is None or room.single:
        return 1.0
    return float(-(-tokens // (room.rows * room.width)))


def _offline(config: Config, mesh: Mesh) -> Planned:
    check_batch(config, mesh)
    training = config.training
    width = config.data.max_length
    several = ROWS[config.algorithm.data]
    count = several * training.batch_size
    loaded = abstract_trees(config, mesh)
    algorithm = make_algorithm(config.algorithm, loaded.model)
    packing = packing_of(config, mesh)
    room = None
    if packing is not None and not config.data.packing:
        sequences = Sequences(count, longest=width, completion=width, group=several)
        room = parted_room(sequences, packing, together=several)
    batch = _offline_batch(config, mesh, width, room)
    tokens = count * width
    content = _full(count, 0, width, tokens)
    programs = []
    if algorithm.cached:
        ref = {"ref": loaded.trained["policy"]}
        size = training.eval_batch_size or training.batch_size
        part = _offline_batch(config, mesh, width, None, size=size)
        passes = score_passes(
            config.algorithm, loaded.model, {}, ref, part, scores=lambda found: found.cached
        )
        score: Any = jitted_scores(algorithm.cached)
        once = _full(several * size, 0, width, several * size * width)
        programs.append(
            Program(
                "reference",
                lambda: score.lower({}, ref, part),
                calls=0,
                flops=flops_of(passes, once),
                attention=attention_of(passes, once),
                traffic=float(device_bytes(ref["ref"], mesh, replicate=config.mesh.replicate)),
                reads=ref,
            )
        )
        fields = jax.eval_shape(make_score(algorithm.cached), {}, ref, batch._replace(room=None))
        batch = _filled(batch, fields, mesh)
    parts = _parts_of(room, tokens)
    programs.append(_updating(config, mesh, loaded, algorithm, batch, content, parts))
    micro = training.microbatches
    work = Work(count // micro, width, micro > 1)
    if room is not None:
        work = Work(room.rows, room.width, not room.single)
    return Planned(config, mesh, loaded, tuple(programs), work, tokens)


def _offline_batch(
    config: Config, mesh: Mesh, width: int, room: Room | None, *, size: int | None = None
) -> Any:
    rows = _Rows(size or config.training.batch_size, mesh)
    if ROWS[config.algorithm.data] == 2:
        answers = (rows.of(2, width), rows.mask(2, width), rows.mask(2, width), rows.mask())
        if config.algorithm.data == "pairs":
            return PairBatch(*answers, room=room)
        return UnpairedBatch(*answers, label=rows.mask(), room=room)
    segments = rows.of(width) if config.data.packing else None
    mask = rows.mask(width)
    return TokenBatch(rows.of(width), mask, mask, segment_ids=segments, room=room)


def _online(config: Config, mesh: Mesh) -> Planned:
    config = dataclasses.replace(config, algorithm=config.resolved_algorithm)
    check_online_batch(config, mesh)
    sampling = config.algorithm.sampling
    rollout = config.rollout
    width = rollout.max_prompt_len + rollout.max_new_tokens
    count = config.training.batch_size * sampling.group_size
    loaded = abstract_trees(config, mesh)
    cached = cached_tokens(
        config, prompt_width=rollout.max_prompt_len, group_size=sampling.group_size
    )
    config = with_rollout_mesh(
        config, mesh, loaded.model, held=lambda: held_bytes(config, mesh), cached=cached
    )
    algorithm = make_algorithm(config.algorithm, loaded.model)
    room = online_room(config, mesh, width=width, completion=rollout.max_new_tokens)
    rows = _Rows(count, mesh)
    mask = rows.mask(width)
    batch = PolicyBatch(
        tokens=rows.of(width),
        mask=mask,
        completion_mask=mask,
        rewards=rows.numbers(),
        truncated=rows.mask(),
        scored=rows.of(rollout.max_new_tokens),
        sampler_logps=rows.numbers(width),
        on_policy=rows.mask(),
        room=room,
    )
    content = _online_content(config, room, count)
    parts = _parts_of(room, int((content.spans[:, 1] - content.spans[:, 0]).sum()))
    programs = list(sampling_programs(config, mesh, loaded))
    if algorithm.needs:
        programs.append(_scoring(config, mesh, loaded, algorithm, batch, content, parts))
        microbatches = sampling.num_minibatches * config.training.microbatches
        fill = make_score(algorithm.needs, num_microbatches=microbatches)
        plain = batch._replace(room=None)
        fields = jax.eval_shape(fill, loaded.trained, loaded.frozen, plain)
        batch = _filled(batch, fields, mesh)
    of_update = parts / sampling.num_minibatches if room is not None else 1.0
    programs.append(_updating(config, mesh, loaded, algorithm, batch, content, of_update))
    return Planned(
        config,
        mesh,
        loaded,
        tuple(programs),
        _online_work(config, room, cached),
        count * rollout.max_new_tokens,
    )


def _online_content(config: Config, room: Room | None, count: int) -> Content:
    """Full prompts and completions; prompts that rows share count once."""
    rollout = config.rollout
    prompt = rollout.max_prompt_len
    width = prompt + rollout.max_new_tokens
    trained = count * rollout.max_new_tokens
    if room is None or room.group == 1:
        return _full(count, 0, width, trained)
    own = _full(count, prompt - 1, width, trained)
    shared = _full(count // room.group, 0, prompt - 1, 0)
    return Content(np.concatenate([own.spans, shared.spans]), trained)


def _online_work(config: Config, room: Room | None, cached: int) -> Work:
    sampling = config.algorithm.sampling
    rollout = config.rollout
    micro = config.training.microbatches
    width = rollout.max_prompt_len + rollout.max_new_tokens
    rows = config.training.batch_size * sampling.group_size // sampling.num_minibatches // micro
    if room is not None:
        return Work(room.rows, room.width, is_summed=True, cached_tokens=cached)
    return Work(rows, width, micro > 1, cached)


def _scoring(
    config: Config,
    mesh: Mesh,
    loaded: Loaded,
    algorithm: Algorithm,
    batch: Any,
    content: Content,
    parts: float,
) -> Program:
    """What `Algorithm.needs` names, over a whole batch."""
    sampling = config.algorithm.sampling
    trees = (loaded.trained, loaded.frozen)
    passes = score_passes(
        config.algorithm, loaded.model, *trees, batch, scores=lambda found: found.needs
    )
    microbatches = sampling.num_minibatches * config.training.microbatches
    score = jitted_whole(
        make_score(algorithm.needs, num_microbatches=microbatches, mesh=mesh),
        out_shardings=batch_sharding(mesh),
    )
    read = _read(passes, {**loaded.trained, **loaded.frozen})
    replicate = config.mesh.replicate
    traffic = sum(device_bytes(tree, mesh, replicate=replicate) for tree in read.values())
    return Program(
        "score",
        lambda: score.lower(*trees, batch),
        calls=1,
        flops=flops_of(passes, content),
        attention=attention_of(passes, content),
        traffic=float(traffic),
        reads=read,
        trips=parts,
    )
