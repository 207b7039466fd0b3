"""One session of a run: its folder, its checkpoints, where it begins, and what asks it to stop."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.algorithms import algorithm_name
from rlhf_jax.config import Config
from rlhf_jax.io import Checkpointer, RunFolder
from rlhf_jax.io.interrupt import StopRequest, ending_in_order
from rlhf_jax.loops.best import Evaluations
from rlhf_jax.loops.groups import RunState
from rlhf_jax.loops.recorder import Callback, Recorder
from rlhf_jax.loops.resume import Source
from rlhf_jax.runs.resident import resident_bytes
from rlhf_jax.runs.source import earlier_sessions, find_source, take_tokenizer


class Session(NamedTuple):
    """What a run has before anything is loaded."""

    config: Config
    run_dir: pathlib.Path
    folder: RunFolder
    checkpointer: Checkpointer
    source: Source | None
    """The checkpoint to begin at."""
    callbacks: tuple[Callback, ...]
    resident: int
    """Bytes that the process held when it began."""

    @property
    def resumed_at(self) -> int | None:
        """The step at which the run's own checkpoint was made; None: it does not go on from one."""
        return None if self.source is None or self.source.is_other else self.source.step

    def meta(self, identity: Mapping[str, Any], **further: Any) -> dict[str, Any]:
        """What every checkpoint says of its run."""
        return {**identity, "algorithm": algorithm_name(self.config.algorithm), **further}

    def evaluations(self, total_steps: int) -> Evaluations:
        """Account of what was evaluated, in earlier sessions too."""
        return Evaluations(
            self.config,
            self.folder,
            self.checkpointer,
            total_steps=total_steps,
            **earlier_sessions(self.source),
        )

    def recorder(
        self,
        evaluations: Evaluations,
        *,
        save: Callable[[RunState], None],
        evaluate: Callable[[RunState], Mapping[str, float]] | None,
        watch: Callable[[RunState], Any],
        total_steps: int,
        updates_per_step: int = 1,
    ) -> Recorder:
        """The run's recorder."""
        return Recorder(
            self.config.training,
            self.folder,
            self.checkpointer,
            evaluations,
            save=save,
            evaluate=evaluate,
            watch=watch,
            total_steps=total_steps,
            updates_per_step=updates_per_step,
            resumed_at=self.resumed_at,
            callbacks=self.callbacks,
        )


@contextlib.contextmanager
def open_session(
    config: Config, *, progress: bool | None, callbacks: Sequence[Callback]
) -> Iterator[Session]:
    """Takes the run's folder and finds out where the run begins."""
    run_dir = pathlib.Path(config.run_dir)
    resident = resident_bytes()
    with Checkpointer(
        run_dir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best_metric,
        best_mode=config.checkpoint.mode,
    ) as checkpointer:
        resume = checkpointer.latest_step()
        with (
            ending_in_order(),
            RunFolder(config, resume_step=resume, progress=progress) as folder,
        ):
            source = find_source(config, checkpointer, resume)
            take_tokenizer(config, source)
            yield Session(config, run_dir, folder, checkpointer, source, tuple(callbacks), resident)


def stop_of(stop: StopRequest, recorder: Recorder) -> Callable[[], bool]:
    """Whether the loop is to end: a signal, or a callback, asked."""
    return lambda: stop.signum is not None or recorder.wants_stop
