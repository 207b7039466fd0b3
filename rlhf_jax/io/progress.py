"""Showing how a run goes: a live display in a terminal, plain log lines everywhere else.

In a terminal two lines stay at the bottom: what is learnt, and how far the run is. Evaluations,
samples and warnings scroll by above them. Everywhere else a line is written now and then.
"""

import collections
import contextlib
import contextvars
import logging
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from rlhf_jax.io.averages import averaged
from rlhf_jax.io.words import OFFLINE, ONLINE, held_out_line, line_of

_log = logging.getLogger(__name__)
_steps_log = logging.getLogger(f"{__name__}.steps")
"""Lines that a live display shows in its own way."""
PLAIN_LINES = 100
"""About so many plain lines are logged about training steps in a run; every evaluation is
logged."""
PACES = 50
"""Steps whose median pace gives the time left."""
WINDOW = 10
"""Steps at most whose mean is shown: a reward of one step is mostly noise."""


class Part(NamedTuple):
    """A run that is a part of something larger, such as a comparison."""

    title: str
    """Stands in front of the bar, such as "2 of 6 dpo"."""
    lines: int
    """Plain lines about its training steps."""


_part: contextvars.ContextVar[Part | None] = contextvars.ContextVar("part", default=None)


@contextlib.contextmanager
def shown_as(part: Part) -> Iterator[None]:
    """Runs in this context are shown as a part of something larger."""
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)


class Progress:
    """Progress of one run, as a context manager.

    Plain lines go to this module's logger, always. The live display needs a terminal.

    Args:
        total_steps: optimizer steps of the whole run.
        start_step: where this session starts.
        live: show the live display; None: when standard error is a terminal.
        description: in front of the bar, where the run is no part of something larger.
        online: the run samples: its reward is shown, not its loss.
        history: rows of earlier sessions, which changes are counted from.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        live: bool | None = None,
        description: str = "training",
        online: bool = False,
        history: Sequence[Mapping[str, Any]] = (),
    ):
        part = _part.get() or Part(description, PLAIN_LINES)
        self._total = total_steps
        self._start = start_step
        self._step = start_step
        self._every = max(1, math.ceil(total_steps / part.lines))
        self._description = part.title
        self._shown = ONLINE if online else OFFLINE
        self._clock: float | None = None
        self._began = time.monotonic()
        self._paces: collections.deque[float] = collections.deque(maxlen=PACES)
        window = max(1, min(WINDOW, total_steps // 10))
        self._first: list[Mapping[str, Any]] = []
        self._recent: collections.deque[Mapping[str, Any]] = collections.deque(maxlen=window)
        self._first_evaluation: Mapping[str, Any] | None = None
        for row in history:
            metrics = {name: row[name] for name in row if name not in ("step", "split")}
            self._note(metrics, row["split"])
        self._live = sys.stderr.isatty() if live is None else live
        self._display: Any = None
        self._text = ""
        self._busy: list[tuple[str, float]] = []

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._live:
            from rich.console import Console  # heavy
            from rich.live import Live

            self._display = Live(
                console=Console(stderr=True), get_renderable=self._rendered, refresh_per_second=4
            )
            self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._display is not None:
            display = self._display
            self._busy.clear()
            # the terminal is gone, which must not cost the state that is to be saved
            with contextlib.suppress(OSError):
                display.stop()
            self._display = None

    def update(self, step: int, metrics: Mapping[str, Any], split: str = "train") -> None:
        """Show the metrics of a step.

        Args:
            step: steps done.
            metrics: of this step.
            split: `train`, or `eval` for an evaluation after this step.
        """
        if split != "train":
            text = held_out_line(metrics, self._first_evaluation)
            self._note(metrics, split)
            _log.info("step %d/%d held-out: %s", step, self._total, text)
            return
        now = time.monotonic()
        if self._clock is not None and step > self._step:
            self._paces.append((now - self._clock) / (step - self._step))
        self._clock = now
        self._step = step
        self._note(metrics, split)
        text = line_of(averaged(list(self._recent)), self._shown, before=self._before())
        self._text = text
        if step % self._every == 0 or step == self._total or step == self._start + 1:
            _steps_log.info("step %d/%d: %s · %s", step, self._total, text, self.times())

    def busy(self, text: str | None) -> None:
        """Show what the run is doing instead of steps, and for how long; None: that is over, and
        shown is what it was a part of."""
        if text is not None:
            self._busy.append((text, time.monotonic()))
        elif self._busy:
            self._busy.pop()

    def times(self) -> str:
        """`3:00 elapsed, 0:06 left`, at the median pace: compiling does not count."""
        elapsed = f"{clock(time.monotonic() - self._began)} elapsed"
        if not self._paces:
            return elapsed
        left = statistics.median(self._paces) * (self._total - self._step)
        return f"{elapsed}, {clock(left)} left"

    def _note(self, metrics: Mapping[str, Any], split: str) -> None:
        if split != "train":
            self._first_evaluation = self._first_evaluation or metrics
            return
        self._recent.append(metrics)
        if len(self._first) < (self._recent.maxlen or 1):
            self._first.append(metrics)

    def _before(self) -> dict[str, float] | None:
        """The first steps' means; None while they are still the recent ones."""
        return None if self._first[-1] is self._recent[-1] else averaged(self._first)

    def _rendered(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        text = self._text
        if self._busy:
            what, since = self._busy[-1]
            text = f"{what}: {clock(time.monotonic() - since)}"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(self._description, style="bold"),
            ProgressBar(total=max(self._total, 1), completed=self._step, width=20),
            Text(f"step {self._step}/{self._total} · {self.times()}"),
        )
        return Group(Text(text, no_wrap=True, overflow="ellipsis"), bar)


def clock(seconds: float) -> str:
    """`0:06`, `12:34`, `1:00:00`."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02d}"
    return minutes if whole < 3600 else f"{whole // 3600}:{minutes:0>5}"
