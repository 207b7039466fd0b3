"""The state of a run on disk: what a checkpoint holds, and how a run begins from one.

A run that goes on from its own checkpoint must be the same run (`check_same_run`); one that starts
from another run takes over that run's state as far as it fits, and every difference is said.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rlhf_jax.cloud import Place
from rlhf_jax.io import Checkpointer, CheckpointError, RunFolderError
from rlhf_jax.io.may_start import start_from_command
from rlhf_jax.loops.groups import Cursor, Groups, Rollouts, RunState
from rlhf_jax.sharding import place_tree, place_whole, replicated
from rlhf_jax.training import (
    TrainState,
    abstract_sharded_state,
    make_sharded_state,
    with_updates,
)
from rlhf_jax.types import Key, Params, Trained, Trees

_log = logging.getLogger(__name__)
FORMAT = 2
"""Of checkpoints; 2: trees by role."""
FREE = ("rewards",)
"""Keys of an identity that may differ when a run goes on."""


class Source(NamedTuple):
    """The checkpoint that a run begins at."""

    run_dir: Place
    step: int
    meta: dict[str, Any]
    changes: tuple[str, ...] = ()
    """Differences between the two configurations, as `key: old -> new`."""
    is_other: bool = False
    """Whether it is another run's."""

    @property
    def directory(self) -> Place:
        """Folder of the checkpoints."""
        return self.run_dir / "checkpoints"

    def changed(self, *keys: str) -> bool:
        """Whether one of these keys, or one below them, is among the changes."""
        return touches(self.changes, *keys)


def touches(changes: Iterable[str], *keys: str) -> bool:
    """Whether one of these keys, or one below them, is among changes."""
    marks = tuple(f"{key}{mark}" for key in keys for mark in ":.[")
    return any(change.startswith(marks) for change in changes)


class Saved:
    """The arrays of a checkpoint: the fields of the train state, and the groups that wait."""

    def __init__(self, params: Params, **fields: Any) -> None:
        self.params = params
        self._fields = fields

    def _asdict(self) -> dict[str, Any]:
        return {"params": self.params, **self._fields}


class Fresh(NamedTuple):
    """What the state before the first step is made of."""

    trees: Trees
    """Trained trees by role, in their shards; consumed."""
    trained: Mapping[str, Trained]
    tx: optax.GradientTransformation
    key: Key
    mesh: Mesh
    aux: Params
    replicate: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """Of the functions that make a state in its shards."""
        return {"mesh": self.mesh, "aux": self.aux, "replicate": self.replicate}

    def state(self) -> "Begun":
        """The state before the first step; consumes the trees."""
        return Begun(*make_sharded_state(self.trees, self.tx, self.key, **self.options))


class Begun(NamedTuple):
    """A state to go on from."""

    train: TrainState
    shardings: Any
    """Of the train state."""
    groups: dict[str, Any] | None = None
    """Waiting groups by field, as the checkpoint has them; None: there are none, or they do not
    fit."""


def begin(
    fresh: Fresh,
    source: Source | None,
    checkpointer: Checkpointer,
    *,
    identity: Mapping[str, Any],
    groups: Groups | None = None,
) -> Begun:
    """A new run's state, or the one in a checkpoint.

    Args:
      fresh: what a new state is made of; its trees are consumed or deleted.
      source: the checkpoint to go on from; None: there is none.
      checkpointer: of the run's own folder.
      identity: what must not change while a run goes on.
      groups: of the shape that the checkpoint's waiting groups have; None: the run has none.

    Raises:
      RunFolderError: the checkpoint is of another run than this one.
      CheckpointError: it does not fit, or is damaged.
    """
    if source is None:
        return fresh.state()
    abstract, shardings = abstract_sharded_state(fresh.trees, fresh.tx, fresh.key, **fresh.options)
    if not source.is_other:
        check_same_run(source.meta, identity, source.run_dir)
    # The checkpoint's take their place: two copies might not fit.
    jax.tree.map(lambda x: x.delete(), dict(fresh.trees))
    fields = abstract._asdict()
    if groups is not None:
        fields["groups"] = _abstract_groups(groups, fresh.mesh)
    if source.is_other:
        train, further = _of_another_run(source, Saved(**fields), fresh, shardings)
        return Begun(train, shardings, further.get("groups"))
    saved, _ = checkpointer.restore(source.step, Saved(**fields))
    arrays = saved._asdict()
    held = arrays.pop("groups", None)
    return Begun(TrainState(**arrays), shardings, held)


def save(
    now: RunState,
    checkpointer: Checkpointer,
    *,
    meta: Mapping[str, Any],
    mesh: Mesh,
    filler: Groups | None = None,
) -> None:
    """Writes a checkpoint named by the training step.

    Args:
      now: the state.
      checkpointer: of the run's folder.
      meta: what else the run says of itself; the format is added.
      mesh: of the arrays.
      filler: one empty group, as no array may be empty; None: the run samples nothing.
    """
    fields = now.train._asdict()
    further: dict[str, Any] = {"format": FORMAT}
    if now.rollouts is not None and filler is not None:
        cursor, waiting = now.rollouts
        further |= {"cursor": cursor.plain(), "groups": waiting.size}
        held = waiting if waiting.size else filler
        fields["groups"] = {
            name: place_whole(value, mesh) for name, value in _narrow(held)._asdict().items()
        }
    checkpointer.save(now.step, Saved(**fields), {**meta, **further})


def rollouts_of(begun: Begun, source: Source, *, cursor: Cursor, empty: Groups) -> Rollouts:
    """The sampling side of a checkpoint.

    Args:
      begun: its arrays.
      source: the checkpoint.
      cursor: where sampling goes on.
      empty: no groups, of the run's shape.
    """
    if begun.groups is None:
        return Rollouts(cursor._replace(counters={}, carried=()), empty)
    arrays = {name: np.asarray(value) for name, value in begun.groups.items()}
    groups = Groups(**arrays).take(slice(0, source.meta["groups"]))
    num_rewards = empty.per_reward.shape[-1]
    groups = groups._replace(
        prompt=groups.prompt.astype(np.int64), per_reward=groups.per_reward[..., :num_rewards]
    )
    return Rollouts(cursor, groups)


def check_format(meta: Mapping[str, Any], where: Place) -> None:
    """Refuses a checkpoint of another version of the library.

    Raises:
      CheckpointError: in one line, with the way on.
    """
    found = meta.get("format", 1)
    if found != FORMAT:
        raise CheckpointError(
            f"{where}: its checkpoints have format {found}, this version of rlhf_jax reads format "
            f"{FORMAT}: finish the run with the version that made it, or train its weights further "
            f"with model.path={where}/export"
        )


def check_same_run(meta: Mapping[str, Any], identity: Mapping[str, Any], run_dir: Place) -> None:
    """Refuses to go on with other data, another order, another batch size or another reference;
    other rewards are a warning.

    Args:
      meta: of the checkpoint.
      identity: what it must agree with.
      run_dir: for the message.

    Raises:
      RunFolderError: the first difference.
    """
    for name, value in identity.items():
        if name not in FREE and meta.get(name) != value:
            raise RunFolderError(
                f"cannot resume in {run_dir}: {name} was {meta.get(name)!r} when the checkpoint "
                f"was made and is {value!r} now; use the same configuration and data, or another "
                f"run_dir; {start_from_command(run_dir)}"
            )
    old = meta.get("rewards", {})
    new = identity.get("rewards", {})
    changed = [label for label in old if label in new and old[label] != new[label]]
    if changed:
        _log.warning(
            "the file of the reward %s changed since the checkpoint was made: from here on the run "
            "learns from another reward",
            " and ".join(changed),
        )


def _of_another_run(
    source: Source, wanted: Saved, fresh: Fresh, shardings: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """The train state of another run, as far as it fits, and the further fields that do.

    Raises:
      CheckpointError: the parameters do not fit, or the checkpoint is damaged.
    """
    with Checkpointer(source.directory) as checkpointer:
        found = checkpointer.restore_parts(source.step, wanted)
    fields = dict(found.fields)
    for name, reason in found.unfit.items():
        if name not in TrainState._fields:
            continue
        if name == "opt_state":
            made = int(fields["step"]) - int(fields["skipped"][1])

            def anew(params: Trees, made: int = made) -> optax.OptState:
                """New moments; the schedule goes on, because the steps of the other run count."""
                return with_updates(fresh.tx.init(params), made, fresh.trained)

            fields[name] = jax.jit(anew, out_shardings=shardings.opt_state)(fields["params"])
            reason += f"; its schedule goes on after {made} updates"
        elif name == "aux":
            aux = jax.tree.map(jnp.asarray, dict(fresh.aux))
            fields[name] = place_tree(aux, shardings.aux)
        else:
            raise CheckpointError(f"checkpoint.start_from={source.run_dir}: {reason}")
        _log.warning("%s of %s does not fit (%s): it begins anew", name, source.run_dir, reason)
    train = TrainState(**{name: fields.pop(name) for name in TrainState._fields})
    return train, fields


def _abstract_groups(groups: Groups, mesh: Mesh) -> dict[str, Any]:
    whole = replicated(mesh)
    return {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=whole)
        for name, value in _narrow(groups)._asdict().items()
    }


def _narrow(groups: Groups) -> Groups:
    """Prompt numbers in 32 bits, which is what JAX holds; and a column where there are no rewards,
    as no array may be empty."""
    prompt = groups.prompt.astype(np.int32)
    if groups.per_reward.shape[-1]:
        return groups._replace(prompt=prompt)
    nothing = np.full((*groups.rewards.shape, 1), np.nan, np.float32)
    return groups._replace(prompt=prompt, per_reward=nothing)
