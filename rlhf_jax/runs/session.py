"""One session of a run: its folder, its checkpoints, where it begins, and what asks it to stop."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax import cloud
from rlhf_jax.algorithms import algorithm_name
from rlhf_jax.cloud import Place
from rlhf_jax.config import Config
from rlhf_jax.config.sections import seconds_of
from rlhf_jax.io import Checkpointer, RunFolder
from rlhf_jax.io.interrupt import StopRequest, ending_in_order
from rlhf_jax.io.stored import complete_steps
from rlhf_jax.loops.best import Evaluations
from rlhf_jax.loops.groups import RunState
from rlhf_jax.loops.recorder import Callback, Recorder
from rlhf_jax.loops.resume import Source
from rlhf_jax.runs.compilation import seconds_compiling
from rlhf_jax.runs.provenance import note_end, note_session
from rlhf_jax.runs.resident import resident_bytes
from rlhf_jax.runs.source import agreed_step, earlier_sessions, find_source, take_tokenizer
from rlhf_jax.sharding.processes import exchange, from_leader, gathered, is_leader
from rlhf_jax.types import Params

_log = logging.getLogger(__name__)


class Session(NamedTuple):
    """What a run has before anything is loaded."""

    config: Config
    run_dir: pathlib.Path
    """Where its files are written, on this machine."""
    folder: RunFolder
    checkpointer: Checkpointer
    source: Source | None
    """The checkpoint to begin at."""
    callbacks: tuple[Callback, ...]
    resident: int
    """Bytes that the process held when it began."""
    began: float
    """When it began, on the clock of `time.monotonic`."""

    @property
    def resumed_at(self) -> int | None:
        """The step at which the run's own checkpoint was made; None: it does not go on from one."""
        return None if self.source is None or self.source.is_other else self.source.step

    def meta(self, identity: Mapping[str, Any], **further: Any) -> dict[str, Any]:
        """What every checkpoint says of its run."""
        return {**identity, "algorithm": algorithm_name(self.config.algorithm), **further}

    def start(self, *, total_steps: int, start_step: int) -> None:
        """The run is accepted: its files are opened, and it is noted what it runs on."""
        self.folder.start(total_steps=total_steps, start_step=start_step)
        from_leader("session", lambda: note_session(self.run_dir, self.resumed_at))

    def ended(self, *, interrupted: bool) -> None:
        """Nothing is left to do in this session: it is noted how it ended."""
        how = "interrupted" if interrupted else "finished"
        from_leader("end of session", lambda: note_end(self.run_dir, how))

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
        watch: Callable[[RunState], float | None],
        total_steps: int,
        updates_per_step: int = 1,
        export: Callable[[int, Params], None],
        show: Callable[[int], None] = lambda step: None,
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
            show=show,
            export=lambda now: export(now.step, now.train.params["policy"]),
            export_every=self.config.checkpoint.export_every,
            compiling=seconds_compiling,
        )


@contextlib.contextmanager
def open_session(
    config: Config, *, began: float, progress: bool | None, callbacks: Sequence[Callback]
) -> Iterator[Session]:
    """Takes the run's folder and finds out where the run begins.

    Args:
      config: a whole run.
      began: when the session did, on the clock of `time.monotonic`.
      progress: see `RunFolder`.
      callbacks: of the run.
    """
    run_dir = cloud.place(config.run_dir, "run_dir")
    resident = resident_bytes()
    with Checkpointer(
        run_dir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_every=config.checkpoint.keep_every,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best_metric,
        best_mode=config.checkpoint.mode,
    ) as checkpointer:
        resume = agreed_step("run_dir", run_dir, checkpointer.latest_step())
        with (
            ending_in_order(lambda: last_saved(run_dir)),
            RunFolder(config, resume_step=resume, progress=progress) as folder,
        ):
            source = find_source(config, checkpointer, resume)
            share_tokenizer(config, source, folder)
            session = Session(
                config, folder.path, folder, checkpointer, source, tuple(callbacks), resident, began
            )
            try:
                yield session
            except BaseException as error:
                if is_leader():
                    reason = " ".join(str(error).split())
                    note_end(folder.path, f"{type(error).__name__}: {reason}".removesuffix(": "))
                raise


def last_saved(run_dir: Place) -> str:
    """What a process that is ended at once leaves, in words."""
    steps = complete_steps(run_dir / "checkpoints")
    if not steps:
        return "no checkpoint was saved yet"
    return f"saved last was step {steps[-1]}, and the same command goes on from there"


def share_tokenizer(config: Config, source: Source | None, folder: RunFolder) -> None:
    """Another run's tokenizer where this run's is looked for: in one folder, or in that of each
    process."""
    if cloud.is_bucket(folder.address):
        gathered("tokenizer of the source", lambda: take_tokenizer(config, source, folder.path))
    else:
        from_leader("tokenizer of the source", lambda: take_tokenizer(config, source, folder.path))


class Stop:
    """Whether a session is to end: a signal came, in whichever process, or its time is over.

    Args:
      request: of this process.
      save_before: `training.save_before`.
      began: when the session did, on the clock of `time.monotonic`.
    """

    def __init__(self, request: StopRequest, save_before: str | None, began: float) -> None:
        limit = seconds_of("training.save_before", save_before)
        self._request = request
        self._until = None if limit is None else began + limit
        self._save_before = save_before
        self._stopped = False

    def __call__(self) -> bool:
        """Asked by all processes at the same places, since all must end at the same."""
        return self.asked(False)[0]

    def asked(self, wants_stop: bool) -> tuple[bool, bool]:
        """(the session is to end; something else asked for it, in whichever process).

        Args:
          wants_stop: something else in this process asks for it.
        """
        is_over = self._until is not None and time.monotonic() >= self._until
        asks = self._request.signum is not None or is_over
        found = exchange("stop", (asks, is_over, wants_stop))
        if any(over for _, over, _ in found) and not self._stopped:
            _log.info("%s have passed (training.save_before): the run stops", self._save_before)
        self._stopped = self._stopped or any(asks for asks, _, _ in found)
        return self._stopped, any(wanted for _, _, wanted in found)


def stop_of(stop: Stop, recorder: Recorder) -> Callable[[], bool]:
    """Whether the loop is to end: a signal, the time, or a callback asked."""

    def stopped() -> bool:
        asked, recorder.wants_stop = stop.asked(recorder.wants_stop)
        return asked or recorder.wants_stop

    return stopped
