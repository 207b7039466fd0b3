"""Showing how a run goes: a live display in a terminal, plain log lines everywhere else."""

import collections
import contextlib
import logging
import math
import statistics
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

_log = logging.getLogger(__name__)
SHOWN = (
    ("loss/total", "loss", "{:.4f}"),
    ("rewards/accuracy", "accuracy", "{:.3f}"),
    ("rewards/margin", "margin", "{:.3f}"),
    ("grad_norm", "grad", "{:.3g}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
)
"""Metric -> short name -> format, in the order shown."""
PLAIN_LINES = 100
"""About so many plain lines are logged about training steps in a run; every evaluation is
logged."""


PACES = 50
"""Steps whose median pace gives the time left."""


class Progress:
    """Progress of one run, as a context manager.

    Plain lines go to this module's logger, always. The live display needs a terminal: a bar with
    loss, throughput and time left.

    Args:
        total_steps: optimizer steps of the whole run.
        start_step: where this session starts.
        live: show the live display; None: when standard error is a terminal.
        description: in front of the bar.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        live: bool | None = None,
        description: str = "training",
    ):
        self._total = total_steps
        self._start = start_step
        self._step = start_step
        self._every = max(1, math.ceil(total_steps / PLAIN_LINES))
        self._clock: float | None = None
        self._paces: collections.deque[float] = collections.deque(maxlen=PACES)
        self._live = sys.stderr.isatty() if live is None else live
        self._description = description
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._live:
            from rich.console import Console  # heavy
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
            )
            left = (
                TimeElapsedColumn(),
                TextColumn("left {task.fields[left]}  {task.fields[text]}"),
            )
            self._bar = Bar(*columns, *left, console=Console(stderr=True))
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=self._start, left="unknown", text=""
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            bar = self._bar
            self._bar = None
            # the terminal is gone, which must not cost the state that is to be saved
            with contextlib.suppress(OSError):
                bar.stop()

    def update(self, step: int, metrics: Mapping[str, Any], split: str = "train") -> None:
        """Show the metrics of a step.

        Args:
            step: steps done.
            metrics: of this step.
            split: `train`, or `eval` for an evaluation after this step.
        """
        text = describe_metrics(metrics)
        if split != "train":
            _log.info("step %d/%d %s: %s", step, self._total, split, text)
            return
        now = time.monotonic()
        if self._clock is not None and step > self._step:
            self._paces.append((now - self._clock) / (step - self._step))
        self._clock = now
        self._step = step
        if step % self._every == 0 or step == self._total or step == self._start + 1:
            _log.info("step %d/%d: %s, left %s", step, self._total, text, self.time_left())
        if self._bar is not None:
            with contextlib.suppress(OSError):  # as above
                self._bar.update(self._task, completed=step, left=self.time_left(), text=text)

    def time_left(self) -> str:
        """Time to the last step as h:mm:ss, at the median pace: compiling does not count."""
        if not self._paces:
            return "unknown"
        seconds = round(statistics.median(self._paces) * (self._total - self._step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """`loss 0.6931 accuracy 0.500 ...`: metrics that people watch, or the first three there are."""
    shown = [
        f"{short} {form.format(float(metrics[name]))}"
        for name, short, form in SHOWN
        if name in metrics
    ]
    return " ".join(
        shown or [f"{name} {float(value):.4g}" for name, value in list(metrics.items())[:3]]
    )
