"""Checkpoints of a training run: atomic, asynchronous, newest N and best N, restored onto any mesh.

A thin wrapper around orbax's `CheckpointManager`. Each step's folder holds three items: `params` (so that they can be read
alone), `rest` (every other field of the train state) and `meta` (JSON: data position, fingerprints, whatever the loop wants).
A step folder appears under its final name only when it is complete, so a run killed in the middle of a save resumes from the
checkpoint before it.
"""

import datetime
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from rlhf_jax.io.ranks import BestRanked, Ranks, Saved, stale_steps
from rlhf_jax.types import Params

_log = logging.getLogger(__name__)
UNFINISHED = "*.orbax-checkpoint-tmp*"


class CheckpointError(ValueError):
    """A checkpoint that is missing or does not fit, in one line."""


class State(Protocol):
    """What can be saved: a NamedTuple of pytrees of arrays with a field `params` (`rlhf_jax.training.TrainState`)."""

    @property
    def params(self) -> Params: ...

    def _asdict(self) -> dict[str, Any]: ...


StateT = TypeVar("StateT", bound=State)


class Leaf(NamedTuple):
    """Shape and dtype of one array as it is stored (a PRNG key by its words)."""

    shape: tuple[int, ...]
    dtype: str


class Checkpointer:
    """Saves and restores train states in one folder.

    Nothing is written before the first `save`; reading never creates the folder. Use it as a context manager, or call `close`:
    saving goes on in the background, and an error there is raised by the next call.

    Args:
        directory: folder of the checkpoints.
        keep_last: newest checkpoints to keep.
        keep_best: checkpoints to keep beside them because `best_metric` is best.
        best_metric: key in the metrics given to `rate` or `save`.
        best_mode: whether a large or a small value is good.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 2,
        keep_best: int = 0,
        best_metric: str | None = None,
        best_mode: Literal["max", "min"] = "max",
    ):
        if keep_last < 1 or keep_best < 0:
            raise ValueError(f"keep_last={keep_last} must be at least 1 and keep_best={keep_best} not negative")
        if keep_best and best_metric is None:
            raise ValueError(f"keep_best={keep_best} needs best_metric")
        self.directory = pathlib.Path(directory).absolute()
        self._best_metric = best_metric
        self._ranks = Ranks(self.directory, best_metric, best_mode)
        keep: list[Any] = [policies.LatestN(keep_last)]
        if keep_best:
            keep.append(BestRanked(self._ranks, keep_best))
        self._policy = policies.AnyPreservationPolicy(keep)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            best_fn=(lambda metrics: metrics.get(best_metric, -math.inf)) if best_metric is not None else None,
            enable_async_checkpointing=True,
        )
        self._open_manager: ocp.CheckpointManager | None = None
        self._cleaned = False
        logging.getLogger("absl").addFilter(_not_orbax_chatter)

    def save(self, step: int, state: State, meta: Mapping[str, Any], *, metrics: Mapping[str, float] | None = None) -> None:
        """Save a state; returns once it is copied to the host, so that its buffers may be donated at once.

        A step that is already saved is left alone (a run that resumes and stops again at the same step).

        Args:
            step: names the checkpoint; must grow.
            state: NamedTuple with a field `params`; typed PRNG keys are allowed.
            meta: what JSON can hold.
            metrics: evaluation results; without `best_metric` in them (or with NaN) the checkpoint is no candidate for best.
        """
        manager = self._manager(create=True)
        assert manager is not None
        if step in manager.all_steps():
            _log.debug("step %d is already saved in %s", step, self.directory)
            return
        value = (metrics or {}).get(self._best_metric or "", math.nan)
        ranked = None if self._best_metric is None or math.isnan(value) else {self._best_metric: float(value)}
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(_rest(state)),
            meta=ocp.args.JsonSave(dict(meta)),
        )
        manager.save(step, args=items, metrics=ranked)

    def all_steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending; waits for the one that is being saved."""
        self.wait()
        manager = self._manager(create=False)
        return sorted(manager.all_steps()) if manager is not None else []

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return max(self.all_steps(), default=None)

    def rate(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell what an evaluation found after its state was saved; what is then neither new nor best enough is deleted.

        Args:
            step: a saved one.
            metrics: evaluation results; without `best_metric` in them (or with NaN) the checkpoint is no candidate for best.
        """
        value = metrics.get(self._best_metric or "", math.nan)
        if math.isnan(value):
            return
        steps = self.all_steps()
        manager = self._manager(create=False)
        if manager is None or step not in steps:
            raise CheckpointError(f"{self.directory}: no checkpoint of step {step} to rate")
        self._ranks.note(step, float(value), steps)
        saved = [Saved(number, manager.metrics(number), _time_of(self.directory / str(number))) for number in steps]
        for stale in stale_steps(self._policy, saved):
            manager.delete(stale)

    def best_step(self) -> int | None:
        """The checkpoint whose `best_metric` is best, or None when none has been evaluated."""
        if self._best_metric is None:
            raise CheckpointError(f"{self.directory}: the best checkpoint is not known: the run had no checkpoint.best_metric")
        manager = self._manager(create=False)
        if manager is None:
            return None
        return next(iter(self._ranks.best({step: manager.metrics(step) for step in self.all_steps()})), None)

    def rated(self, step: int) -> float | None:
        """The `best_metric` of a checkpoint; None when it is not known."""
        manager = self._manager(create=False)
        return None if manager is None else self._ranks.value(step, manager.metrics(step))

    def read_meta(self, step: int | None = None) -> dict[str, Any]:
        """The `meta` of a checkpoint (None: the newest) alone."""
        manager, step = self._find(step)
        return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta

    def restore(self, step: int | None, abstract_state: StateT) -> tuple[StateT, dict[str, Any]]:
        """Read a whole state, bit for bit, onto the given shardings.

        Args:
            step: which checkpoint; None: the newest.
            abstract_state: the state's structure with `jax.ShapeDtypeStruct` (or array) leaves; leaves with a `sharding` are
                created directly in their shards, whatever mesh they were saved from.

        Returns:
            (state, meta).

        Raises:
            CheckpointError: no such checkpoint, or names, shapes or dtypes differ (the first difference is named).
        """
        manager, step = self._find(step)
        rest = _rest(abstract_state)
        stored = manager.item_metadata(step)
        _check_fits(self.directory / str(step), "params", abstract_state.params, stored["params"], dtypes=True)
        _check_fits(self.directory / str(step), "", rest, stored["rest"], dtypes=True)
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(_abstract(abstract_state.params)),
            rest=ocp.args.StandardRestore(_abstract(rest)),
            meta=ocp.args.JsonRestore(),
        )
        found = manager.restore(step, args=items)
        kind: Any = type(abstract_state)
        return kind(params=found.params, **found.rest), found.meta

    def restore_params(self, step: int | None, abstract_params: Params) -> Params:
        """Read the parameters alone, onto the given shardings and dtypes (a different dtype is cast).

        Args:
            step: which checkpoint; None: the newest.
            abstract_params: nested dict with `jax.ShapeDtypeStruct` (or array) leaves.

        Returns:
            The parameters.

        Raises:
            CheckpointError: no such checkpoint, or a name or shape differs (the first difference is named).
        """
        manager, step = self._find(step)
        stored = manager.item_metadata(step)
        _check_fits(self.directory / str(step), "params", abstract_params, stored["params"], dtypes=False)
        items = ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(abstract_params)))
        return manager.restore(step, args=items).params

    def wait(self) -> None:
        """Return when everything saved so far is complete on disk."""
        if self._open_manager is not None:
            self._open_manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release orbax's threads."""
        if self._open_manager is not None:
            manager, self._open_manager = self._open_manager, None
            manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _manager(self, *, create: bool) -> ocp.CheckpointManager | None:
        """Orbax's manager, opened when first needed; None when there is no folder and none is to be created."""
        if self._open_manager is None:
            if not create and not self.directory.is_dir():
                return None
            if jax.process_index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)
            handlers = {"params": ocp.StandardCheckpointHandler(), "rest": ocp.StandardCheckpointHandler()}
            self._open_manager = ocp.CheckpointManager(
                self.directory, options=self._options, item_handlers=handlers | {"meta": ocp.JsonCheckpointHandler()}
            )
        if create and not self._cleaned:
            self._cleaned = True
            self._remove_unfinished()
        return self._open_manager

    def _remove_unfinished(self) -> None:
        """Before the first save only: for a reader, such a folder may be what another process is saving."""
        if jax.process_index() != 0:
            return
        for stale in self.directory.glob(UNFINISHED):  # orbax's own cleanup logs errors and leaves folders
            _log.warning("removing %s: a checkpoint that was interrupted while being saved", stale.name)
            shutil.rmtree(stale, ignore_errors=True)

    def _find(self, step: int | None) -> tuple[ocp.CheckpointManager, int]:
        steps = self.all_steps()
        manager = self._manager(create=False)
        if manager is None:
            raise CheckpointError(f"{self.directory}: no such checkpoint folder")
        if not steps:
            raise CheckpointError(f"{self.directory}: holds no complete checkpoint")
        if step is not None and step not in steps:
            raise CheckpointError(f"{self.directory}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        return manager, steps[-1] if step is None else step


def _rest(state: State) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name != "params"}


def _time_of(folder: pathlib.Path) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(folder.stat().st_mtime, datetime.UTC)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _check_fits(folder: pathlib.Path, prefix: str, wanted: Any, stored: Any, *, dtypes: bool) -> None:
    """Compare names, shapes and dtypes before orbax does: its errors are long and come from several threads."""
    want = dict(_leaves(prefix, wanted))
    have = dict(_leaves(prefix, stored.tree if hasattr(stored, "tree") else stored))
    for name in want.keys() - have.keys():
        raise CheckpointError(f"{folder}: {name} is not in the checkpoint: it was saved from another model or optimizer")
    for name in have.keys() - want.keys():
        raise CheckpointError(
            f"{folder}: {name} is in the checkpoint but not wanted: it was saved from another model or optimizer"
        )
    for name, leaf in want.items():
        if leaf.shape != have[name].shape:
            raise CheckpointError(f"{folder}: {name} has shape {have[name].shape} in the checkpoint, but {leaf.shape} is wanted")
        if dtypes and leaf.dtype != have[name].dtype:
            raise CheckpointError(f"{folder}: {name} is {have[name].dtype} in the checkpoint, but {leaf.dtype} is wanted")


def _leaves(prefix: str, tree: Any) -> Iterator[tuple[str, Leaf]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        yield (f"{prefix}/{name}" if prefix else name), Leaf(tuple(leaf.shape), str(leaf.dtype))


def _not_orbax_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "orbax" not in record.pathname
