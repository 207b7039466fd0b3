"""Checkpoints of a training run: atomic, asynchronous, newest N and best N, restored onto any mesh.

A thin wrapper around orbax's `CheckpointManager`. Each step's folder holds three items: `params`
(so that they can be read alone), `rest` (every other field of the train state) and `meta` (JSON:
data position, fingerprints, whatever the loop wants). A step folder appears under its final name
only when it is complete, so a run killed in the middle of a save resumes from the checkpoint before
it. `meta` also holds digests of all values (`fingerprint`, `seal`), taken on the device while
saving and compared after reading: a checkpoint is read as it was written, or refused in one line
that names a whole one.

Orbax's newer API (`orbax.checkpoint.v1`) is not used: in orbax-checkpoint 0.12.8 it still lives in
the package's `experimental` folder, "subject to change without notice", and its `Checkpointer`
drives this same `CheckpointManager`, so that nothing would be saved or read differently.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from rlhf_jax import cloud
from rlhf_jax.io.errors import CheckpointError
from rlhf_jax.io.fingerprint import fingerprints, layout_fingerprint
from rlhf_jax.io.manager import discard_failed, open_manager, options_for, remove_unfinished
from rlhf_jax.io.quiet import silence_orbax
from rlhf_jax.io.ranks import BestRanked, FirstOfEvery, Ranks, Saved, stale_steps
from rlhf_jax.io.restore import read_params, read_parts, read_state
from rlhf_jax.io.seal import Meta, seal
from rlhf_jax.io.stored import (
    Parts,
    StoredStep,
    check_metrics,
    fields,
    or_whole,
    save_args,
    save_error,
    stored_metrics,
)
from rlhf_jax.sharding.processes import end_all, is_leader
from rlhf_jax.types import Params

_log = logging.getLogger(__name__)


class State(Protocol):
    """What can be saved: a NamedTuple of pytrees of arrays with a field `params` (a TrainState)."""

    @property
    def params(self) -> Params: ...

    def _asdict(self) -> dict[str, Any]: ...


StateT = TypeVar("StateT", bound=State)


class Checkpointer:
    """Saves and restores train states in one folder.

    Nothing is written before the first `save`; reading never creates the folder. Use it as a
    context manager, or call `close`: saving goes on in the background, and an error there is raised
    by the next call.

    Args:
        directory: folder of the checkpoints, or its address in a bucket.
        keep_last: newest checkpoints to keep.
        keep_every: of every stretch of so many steps the first checkpoint is kept; None: no
            further one is.
        keep_best: checkpoints to keep beside them because `best_metric` is best.
        best_metric: key in the metrics given to `rate` or `save`.
        best_mode: whether a large or a small value is good.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        keep_best: int = 0,
        best_metric: str | None = None,
        best_mode: Literal["max", "min"] = "max",
    ):
        if keep_last < 1 or keep_best < 0:
            raise ValueError(
                f"keep_last={keep_last} must be at least 1 and keep_best={keep_best} not negative"
            )
        if keep_best and best_metric is None:
            raise ValueError(f"keep_best={keep_best} needs best_metric")
        self.directory = cloud.place(directory, "run_dir")
        if not cloud.is_bucket(self.directory):
            self.directory = self.directory.absolute()
        self._best_metric = best_metric
        self._ranks = Ranks(self.directory, best_metric, best_mode)
        keep: list[Any] = [policies.LatestN(keep_last)]
        if keep_every is not None:
            keep.append(FirstOfEvery(keep_every))
        if keep_best:
            keep.append(BestRanked(self._ranks, keep_best))
        self._policy = policies.AnyPreservationPolicy(keep)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            best_fn=(lambda metrics: metrics.get(best_metric, -math.inf))
            if best_metric is not None
            else None,
            enable_async_checkpointing=True,
            **options_for(self.directory),
            # reads nothing of checkpoints that are not asked for
            lightweight_initialize=best_metric is None,
        )
        self._open_manager: ocp.CheckpointManager | None = None
        self._cleaned = False
        self._saving: int | None = None
        self._failed = False
        silence_orbax()

    def save(
        self,
        step: int,
        state: State,
        meta: Mapping[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Save a state; returns once it is copied to the host: its buffers may then be donated.

        A step that is already saved is left alone (a run that resumes and stops again at the same
        step).

        Args:
            step: names the checkpoint; must grow.
            state: NamedTuple with a field `params`; typed PRNG keys are allowed.
            meta: what JSON can hold.
            metrics: evaluation results; without `best_metric` in them (or with NaN) the checkpoint
              is no candidate for best.
        """
        self.wait()
        with self._writing(step):
            manager = self._manager(create=True)
            assert manager is not None
            if step in manager.all_steps():
                _log.debug("step %d is already saved in %s", step, self.directory)
                return
            value = (metrics or {}).get(self._best_metric or "", math.nan)
            ranked = (
                None
                if self._best_metric is None or math.isnan(value)
                else {self._best_metric: float(value)}
            )
            arrays: dict[str, Any] = {"params": state.params, "rest": _rest(state)}
            sealed = Meta(
                run=dict(meta),
                fingerprints=fingerprints(
                    fields("params", arrays["params"]) | fields("rest", arrays["rest"])
                ),
                layouts={name: layout_fingerprint(tree) for name, tree in arrays.items()},
                metrics=ranked,
            )
            items = ocp.args.Composite(
                params=save_args(self.directory, arrays["params"]),
                rest=save_args(self.directory, arrays["rest"]),
                meta=ocp.args.JsonSave(seal(sealed)),
            )
            self._saving = step
            manager.save(step, args=items, metrics=ranked)

    def check(self) -> None:
        """Notice a save that failed in the background; costs nothing while none failed.

        Raises:
            CheckpointError: it failed; the line says which one, why, and which checkpoint is the
              last one.
        """
        manager = self._open_manager
        if self._saving is not None and manager is not None and not manager.is_saving_in_progress():
            self.wait()

    def all_steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending; waits for the one that is being saved."""
        self.wait()
        manager = self._manager(create=False)
        return sorted(manager.all_steps()) if manager is not None else []

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return max(self.all_steps(), default=None)

    def rate(self, step: int, metrics: Mapping[str, float], *, delete: bool = True) -> None:
        """Tell what an evaluation found after the save; then delete what is neither new nor best.

        Args:
            step: a saved one.
            metrics: evaluation results; without `best_metric` in them (or with NaN) the checkpoint
              is no candidate for best.
            delete: False when more is to be told first.
        """
        value = metrics.get(self._best_metric or "", math.nan)
        if math.isnan(value):
            return
        steps = self.all_steps()
        manager = self._manager(create=False)
        if manager is None or step not in steps:
            raise CheckpointError(f"{self.directory}: no checkpoint of step {step} to rate")
        self._ranks.note(step, float(value), steps)
        if not delete:
            return
        saved = [
            Saved.of(self.directory / str(number), manager.metrics(number)) for number in steps
        ]
        for stale in stale_steps(self._policy, saved):
            manager.delete(stale)

    def best_step(self) -> int | None:
        """The checkpoint whose `best_metric` is best, or None when none has been evaluated."""
        if self._best_metric is None:
            raise CheckpointError(
                f"{self.directory}: the best checkpoint is not known: the run had no "
                "checkpoint.best_metric"
            )
        stored = {step: stored_metrics(self.directory / str(step)) for step in self.all_steps()}
        return next(iter(self._ranks.best(stored)), None)

    def rated(self, step: int) -> float | None:
        """The `best_metric` of a checkpoint; None when it is not known."""
        if step not in self.all_steps():
            return None
        return self._ranks.value(step, stored_metrics(self.directory / str(step)))

    def read_meta(self, step: int | None = None) -> dict[str, Any]:
        """The `meta` of a checkpoint (None: the newest) alone."""
        return or_whole(self._find(step), StoredStep.meta).run

    def restore(self, step: int | None, abstract_state: StateT) -> tuple[StateT, dict[str, Any]]:
        """Read a whole state, bit for bit, onto the given shardings.

        Args:
            step: which checkpoint; None: the newest.
            abstract_state: the state's structure with `jax.ShapeDtypeStruct` (or array) leaves;
                leaves with a `sharding` are created directly in their shards, whatever mesh they
                were saved from.

        Returns:
            (state, meta).

        Raises:
            CheckpointError: no such checkpoint; or names, shapes or dtypes differ (the first
                difference is named); or it is damaged: then the newest whole one is named.
        """
        stored = self._find(step)
        wanted = {"params": abstract_state.params, "rest": _rest(abstract_state)}
        found, meta = or_whole(stored, lambda tried: read_state(tried, wanted))
        kind: Any = type(abstract_state)
        return kind(params=found["params"], **found["rest"]), meta.run

    def restore_parts(self, step: int | None, abstract_state: State) -> Parts:
        """`restore` for a state that need not fit: fields of the same names, shapes and dtypes.

        Args:
            step: which checkpoint; None: the newest.
            abstract_state: as for `restore`; its `params` must fit.

        Returns:
            The fields that fit, and why the others do not.

        Raises:
            CheckpointError: as for `restore`, for `params`.
        """
        stored = self._find(step)
        rest = _rest(abstract_state)
        return or_whole(stored, lambda tried: read_parts(tried, abstract_state.params, rest))

    def restore_params(self, step: int | None, abstract_params: Params) -> Params:
        """Read the parameters alone, onto given shardings and dtypes (another dtype is cast).

        Args:
            step: which checkpoint; None: the newest.
            abstract_params: nested dict with `jax.ShapeDtypeStruct` (or array) leaves.

        Returns:
            The parameters.

        Raises:
            CheckpointError: no such checkpoint; or a name or shape differs (the first difference is
                named); or the parameters are damaged: then the newest whole one is named.
        """
        stored = self._find(step)
        found = or_whole(stored, lambda tried: read_params(tried, abstract_params))
        return jax.tree.map(lambda x, wanted: x.astype(wanted.dtype), found, abstract_params)

    def wait(self) -> None:
        """Return when everything saved so far is complete on disk.

        Raises:
            CheckpointError: a save failed.
        """
        if self._open_manager is not None:
            with self._writing(self._saving):
                self._open_manager.wait_until_finished()
            self._saving = None

    def close(self) -> None:
        """Wait, then release orbax's threads.

        Raises:
            CheckpointError: a save failed.
        """
        if self._open_manager is not None:
            manager = self._open_manager
            try:
                self.wait()
            except CheckpointError:
                with contextlib.suppress(Exception):  # the same once more
                    manager.close()
                raise
            else:
                manager.close()
            finally:
                self._open_manager = None
                if self._failed:  # once more, now that no thread of a failed save writes
                    discard_failed(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as failed:  # orbax's own too
            if error is None:
                raise
            _log.warning("%s", failed)  # must not take the place of what went wrong before

    def _manager(self, *, create: bool) -> ocp.CheckpointManager | None:
        """Orbax's manager, opened when first needed; None: no folder, and none to be created."""
        if self._open_manager is None:
            if not create and not self.directory.is_dir():
                return None
            if is_leader() and not cloud.is_bucket(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
            if self._best_metric is not None:
                check_metrics(self.directory)
            self._open_manager = open_manager(self.directory, self._options)
        if create and not self._cleaned:
            self._cleaned = True
            remove_unfinished(self.directory)
        return self._open_manager

    def _find(self, step: int | None) -> StoredStep:
        steps = self.all_steps()
        manager = self._manager(create=False)
        if manager is None:
            raise CheckpointError(f"{self.directory}: no such checkpoint folder")
        if not steps:
            raise CheckpointError(f"{self.directory}: holds no complete checkpoint")
        if step is not None and step not in steps:
            raise CheckpointError(
                f"{self.directory}: no checkpoint of step {step}; there are "
                f"{', '.join(map(str, steps))}"
            )
        found = steps[-1] if step is None else step
        return StoredStep(manager, self.directory / str(found))

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        """Turns whatever a save raises, at once or in the background, into one line."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # orbax, tensorstore and the file system have many
            self._saving = None
            self._failed = True
            discard_failed(self.directory)
            failed = save_error(self.directory, step, error)
            # The others wait for this process's part, and closing would wait for theirs.
            end_all(failed)
            raise failed from error


def _rest(state: State) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name != "params"}
