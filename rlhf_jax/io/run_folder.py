"""The folder of a run: what lies where, who may start in it, and what is written to it.

config.yaml      the resolved configuration
metrics.jsonl    one row per step and evaluation
sessions.json    what every session ran on, and how it ended (`rlhf_jax.runs.provenance`)
log.txt          plain lines (log.1.txt, ...: warnings of the further processes of a run)
metrics.png      plot of the metrics, drawn at the end
tensorboard/     event files
checkpoints/     states to resume from
tokenizer/       the tokenizer in use
export/          the final model as a Hugging Face folder
exports/         step_N: the policy of step N likewise (`checkpoint.export_every`)
.lock            held while a process trains here

`RunFolder` is a context manager: entering locks the folder and checks who may start
(`check_may_start`), `start` opens the sinks, `write` is called every step, and leaving draws the
plot and closes everything. What earlier sessions left is read in `earlier_sessions`. Where the
files are written, and how they come into a bucket, is `workplace`.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rlhf_jax.cloud import CloudError
from rlhf_jax.console import show_in_program
from rlhf_jax.io.disk import is_disk_full, naming
from rlhf_jax.io.earlier_sessions import log_every, seconds_until, warn_of_lost_rows
from rlhf_jax.io.errors import RunFolderError
from rlhf_jax.io.log_file import LogFile
from rlhf_jax.io.may_start import RunConfig, check_may_start
from rlhf_jax.io.plots import plot_run
from rlhf_jax.io.progress import Progress
from rlhf_jax.io.sinks import JsonlSink, Sink, TensorBoardSink, WandbSink, read_metrics
from rlhf_jax.io.workplace import workplace
from rlhf_jax.sharding.processes import from_leader, is_leader, number

_log = logging.getLogger(__name__)
_package_log = logging.getLogger("rlhf_jax")


class RunFolder:
    """Everything but checkpoints that a run writes, as a context manager.

    Entering takes the folder and opens log.txt. Until `start`, when everything that may refuse the
    run has been asked, what an earlier session left is as it was: config.yaml and metrics.jsonl.
    Of several processes the leader writes; the others keep their warnings in log.NUMBER.txt.

    Attributes:
        path: where the files are written, on this machine.
        address: the folder that the configuration names.

    Args:
        config: the run's configuration.
        resume_step: step of the checkpoint that the run goes on from, None to start. Rows after it
          are dropped.
        progress: show the live display; None: when standard error is a terminal. False: nor lines
          in its place, in a program that leaves logging alone (`show_in_program`).

    Raises:
        RunFolderError: the folder is not empty and `checkpoint.resume` is `never`; or holds
            something else; or a run with another configuration; or `resume` is `must` and there is
            no checkpoint; on entering: another process trains in it, or not all of this run see it.
    """

    def __init__(
        self, config: RunConfig, *, resume_step: int | None = None, progress: bool | None = None
    ):
        self.place = workplace(config.run_dir)
        self.path = self.place.local
        self.address = self.place.address
        try:
            from_leader("run folder", lambda: check_may_start(config, resume_step, self.place))
        except BaseException:
            self.place.leave(publish=False)
            raise
        self._config = config
        self._resume_step = resume_step
        self._live = progress
        self._sinks: list[Sink] = []
        self._accepted = False
        self._progress: Progress | None = None
        self._log_file: logging.Handler | None = None
        self._level = _package_log.level
        self._hide: Callable[[], None] = lambda: None
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        try:
            from_leader("open run folder", self._open)
            self.place.check_shared()
            self.place.bring(resumed=self._resume_step is not None)
            with naming(self.path / self._log_name):
                self._open_log()
            from_leader("begin run", self._begin)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    @property
    def _log_name(self) -> str:
        return "log.txt" if is_leader() else f"log.{number()}.txt"

    def _open(self) -> None:
        try:
            self.place.lock()
        except OSError as error:
            if is_disk_full(error) or isinstance(error, CloudError):
                raise
            raise RunFolderError(
                f"run_dir={self.address} cannot be written ({error.strerror}: {error.filename}); "
                "give another run_dir"
            ) from error

    def _begin(self) -> None:
        if self._resume_step is None:
            # of a start that failed before its first checkpoint
            self.place.clear(("tokenizer",))
        if self._resume_step is not None:
            self._began -= seconds_until(self.path / "metrics.jsonl", self._resume_step)
            warn_of_lost_rows(self.path, self._resume_step, log_every(self.path / "config.yaml"))
        _log.info(
            "run folder %s: %s",
            self.address,
            "start" if self._resume_step is None else f"resume after step {self._resume_step}",
        )

    def _accept(self) -> None:
        """From here on the folder is this run's: replaced last, when nothing can fail any more."""
        resolved = self.path / "config.yaml.tmp"
        options = self._config.logging
        with naming(resolved):
            resolved.write_text(self._config.to_yaml(), encoding="utf-8")
        if options.wandb:
            name = options.wandb_name or self.address.name
            tree = self._config.to_tree()
            self._sinks.append(
                WandbSink(self.path, project=options.wandb_project, name=name, config=tree)
            )
        if self._resume_step is None:
            # of a start without a checkpoint
            self.place.clear(("tensorboard", "completions"))
        if options.tensorboard:
            self._sinks.append(
                TensorBoardSink(self.path / "tensorboard", resume_step=self._resume_step)
            )
        self._sinks.insert(0, JsonlSink(self.path / "metrics.jsonl", resume_step=self._resume_step))
        os.replace(resolved, self.path / "config.yaml")
        self._accepted = True

    def start(self, *, total_steps: int, start_step: int | None = None) -> None:
        """The run is accepted: write config.yaml, open the metrics and the progress display.

        Args:
            total_steps: of the whole run.
            start_step: where this session starts; None: at `resume_step`, or at 0.
        """
        from_leader("start run", self._accept)
        self.place.publish()
        if not is_leader():
            return
        start = start_step or self._resume_step or 0
        self._progress = Progress(
            total_steps,
            start_step=start,
            live=self._live,
            description=self.address.name,
            online=self._config.is_online,
            history=read_metrics(self.path / "metrics.jsonl"),
        )
        self._progress.__enter__()

    def show(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show a training step on the display, whether or not it gets a row."""
        if self._progress is not None:
            self._progress.update(step, metrics)

    def busy(self, text: str | None) -> None:
        """Show what the run is doing instead of steps, such as compiling; None: steps again."""
        if self._progress is not None:
            self._progress.busy(text)

    def write(self, step: int, metrics: Mapping[str, Any], split: str = "train") -> None:
        """Send a row to every sink, an evaluation to the display too, with `time/elapsed` in
        seconds.

        The time between sessions does not count, nor what was lost when one of them was killed. Of
        several processes all must call it, so that all hear of a full disk.
        """
        from_leader("row", lambda: self._write(step, metrics, split))

    def _write(self, step: int, metrics: Mapping[str, Any], split: str) -> None:
        if not self._accepted:
            raise RuntimeError(
                f"step {step} cannot be written: call RunFolder.start before the first row"
            )
        metrics = {**metrics, "time/elapsed": time.perf_counter() - self._began}
        for sink in self._sinks:
            sink.write(step, metrics, split)
        if self._progress is not None and split != "train":
            self._progress.update(step, metrics, split)

    def publish(self) -> None:
        """A folder in a bucket gets what was written so far: before a checkpoint, which counts on
        it. All processes call it.

        Raises:
            CloudError: the bucket cannot be written.
        """
        self.place.publish()

    def last_metrics(self) -> dict[str, float]:
        """The last evaluation, and the last training row under `train/`, of all sessions; after the
        end of this one."""
        path = self.address / "metrics.jsonl"
        rows = from_leader(
            "last metrics", lambda: {row["split"]: row for row in read_metrics(path)}
        )
        kept = {
            split: {
                name: value
                for name, value in row.items()
                if name not in ("step", "split", "time/elapsed")
            }
            for split, row in rows.items()
        }
        return kept.get("eval", {}) | {
            f"train/{name}": value for name, value in kept.get("train", {}).items()
        }

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._finish(kind, error, trace)
        finally:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        # A run that was refused leaves nothing in a bucket.
        try:
            self.place.leave(publish=self._accepted)
        except Exception as failed:
            if error is None:
                raise
            # must not take the place of what went wrong before
            _log.warning("%s", " ".join(str(failed).split()))

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        def leave_display() -> None:
            if self._progress is not None:
                self._progress.__exit__(kind, error, trace)

        def conclude() -> None:
            if error is not None and not self._accepted and self._resume_step is None:
                # of a run that never was
                if is_leader():
                    shutil.rmtree(self.path / "tokenizer", ignore_errors=True)
            if error is not None:
                self._note_in_file(
                    f"stopped: {type(error).__name__}: {' '.join(str(error).split())}"
                )
            elif (
                self._config.logging.plot
                and self._accepted
                and read_metrics(self.path / "metrics.jsonl")
            ):
                with naming(self.path / "metrics.png"):
                    plot_run(self.path, address=self.address)
                _log.info("plot of the metrics: %s", self.address / "metrics.png")

        failures = []
        for action in (
            leave_display,
            *(sink.close for sink in self._sinks),
            conclude,
            self._close_log,
        ):
            try:
                action()
            # on a full disk several: none may keep the others from closing
            except Exception as problem:
                failures.append(problem)
        if failures and error is None:
            raise failures[0]
        for failure in failures:  # none may take the place of the error that ended the run
            _log.warning("closing %s: %s", self.address, " ".join(str(failure).split()))

    def _open_log(self) -> None:
        # Only the leader's is there in any case.
        self._log_file = LogFile(
            self.path / self._log_name, encoding="utf-8", delay=not is_leader()
        )
        self._log_file.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        self._level = _package_log.level
        if _package_log.getEffectiveLevel() > logging.INFO and is_leader():
            _package_log.setLevel(logging.INFO)
        _package_log.addHandler(self._log_file)
        self._hide = show_in_program(self._live)

    def _note_in_file(self, text: str) -> None:
        """A line in log.txt alone: whoever catches the error shows it elsewhere."""
        if self._log_file is not None:
            self._log_file.handle(
                logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, None)
            )

    def _close_log(self) -> None:
        if self._log_file is not None:
            self._hide()
            _package_log.removeHandler(self._log_file)
            _package_log.setLevel(self._level)
            with naming(self.path / self._log_name):
                self._log_file.close()
