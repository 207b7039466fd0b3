"""A few completions in the log: one that is right, one that is wrong, the others at random."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.io.words import number

_log = logging.getLogger(__name__)
SHOWN_CHARACTERS = 200
"""Of a prompt or completion; the files hold all."""


def log_samples(
    step: int,
    what: str,
    columns: Mapping[str, Sequence[Any]],
    *,
    rewards: Sequence[str],
    right: Sequence[bool | None],
    count: int,
) -> None:
    """Shows some completions with all of their rewards.

    Args:
      step: training steps made.
      what: they are, such as "held-out, greedy".
      columns: `prompt`, `completion`, `reward` and every reward by its name, a value per
        completion.
      rewards: names of the rewards.
      right: of every completion whether it is right; None: nobody says.
      count: how many.
    """
    chosen = choose(right, count=count, seed=step)
    if not chosen:
        return
    _log.info("step %d samples (%s):", step, what)
    # A single reward of weight 1 is the total.
    several = [name for name in rewards if list(columns[name]) != list(columns["reward"])]
    for why, row in chosen:
        own = [f"{name} {_reward(columns[name][row])}" for name in several]
        total = _reward(columns["reward"][row])
        worth = f"reward {total}" + (f" ({', '.join(own)})" if own else "")
        prompt = shortened(str(columns["prompt"][row]))
        completion = shortened(str(columns["completion"][row]))
        _log.info("  %-7s %s  %s -> %s", why, worth, prompt, completion)


def choose(right: Sequence[bool | None], *, count: int, seed: int) -> list[tuple[str, int]]:
    """(why, row): a right one, a wrong one, then others, each drawn at random.

    Args:
      right: of every completion; None: nobody says.
      count: rows at most.
      seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(right)).tolist()
    chosen: list[tuple[str, int]] = []
    for why, verdict in (("right", True), ("wrong", False)):
        found = next((row for row in order if right[row] is verdict), None)
        if found is not None:
            chosen.append((why, found))
    taken = {row for _, row in chosen}
    chosen += [("random", row) for row in order if row not in taken]
    return chosen[:count]


def shortened(text: str) -> str:
    """In quotes, without its middle where it is long."""
    shown = repr(text)
    if len(shown) <= SHOWN_CHARACTERS:
        return shown
    return shown[: SHOWN_CHARACTERS // 2] + " ... " + shown[-SHOWN_CHARACTERS // 2 :]


def _reward(value: float | None) -> str:
    return "not graded" if value is None or value != value else number(value, "small")
