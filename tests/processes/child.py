"""One process of a run, of which process 1 has a fault: `python -m tests.processes.child FAULT
CONFIG`."""

import functools
import os
import signal
import sys

from rlhf_jax import runs
from rlhf_jax.cli.main import main
from rlhf_jax.errors import TrainingError
from rlhf_jax.io import Checkpointer

STEP = 2
"""Training steps made when the fault comes."""


def end_by(signum):
    os.kill(os.getpid(), signum)


class Sampler:
    """The built-in sampler until it has been called `STEP` times for training."""

    def __init__(self, inner, fault):
        self.width = inner.width
        self.max_scored = inner.max_scored
        self._inner = inner
        self._fault = fault
        self._calls = 0

    def __call__(self, params, prompts, key, *, group_size, sampling=None):
        self._calls += sampling is None
        if self._calls > STEP:
            self._fault()
        return self._inner(params, prompts, key, group_size=group_size, sampling=sampling)


class Grader:
    """The built-in grader until the training step `STEP`."""

    def __init__(self, inner, fault):
        self.names = inner.names
        self.judge = inner.judge
        self.held_out = inner.held_out
        self._inner = inner
        self._fault = fault

    def __enter__(self):
        self._inner.__enter__()
        return self

    def __exit__(self, *error):
        self._inner.__exit__(*error)

    def __call__(self, prompts, sampled, *, state, training):
        if training and state.global_step >= STEP:
            self._fault()
        return self._inner(prompts, sampled, state=state, training=training)


def die_after_save():
    save = Checkpointer.save

    def dying(self, step, *arguments, **options):
        save(self, step, *arguments, **options)
        if step == STEP:
            end_by(signal.SIGKILL)  # the shards are being written in the background

    Checkpointer.save = dying


def refuse():
    raise TrainingError("the grader has had enough")


def break_down():
    return {}["nothing"]


def arguments_of(fault):
    """What `train` gets for a fault."""
    nothing = {"callbacks": []}
    kill = functools.partial(end_by, signal.SIGKILL)
    stop = functools.partial(end_by, signal.SIGSTOP)
    return {
        "none": lambda: nothing,
        "hang": lambda: {"sampler": lambda inner, _: Sampler(inner, stop)},
        "refuse": lambda: {"grader": lambda inner: Grader(inner, refuse)},
        "break": lambda: {"grader": lambda inner: Grader(inner, break_down)},
        "update": lambda: {"callbacks": [lambda step, _: step > STEP and kill()]},
        "terminate": lambda: {
            "callbacks": [lambda step, _: step == STEP and end_by(signal.SIGTERM) and None]
        },
        "save": lambda: die_after_save() or nothing,
    }[fault]()


if __name__ == "__main__":
    fault, config = sys.argv[1:]
    if os.environ.get("RLHF_JAX_PROCESS_ID") == "1":
        runs.train = functools.partial(runs.train, **arguments_of(fault))
    sys.exit(main(["train", config, "--no-progress"]))
