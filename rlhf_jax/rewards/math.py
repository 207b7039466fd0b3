"""Mathematical equivalence of final answers."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

from rlhf_jax.rewards.answers import (
    Completion,
    content_of,
    final_answer,
    marked_answer,
    opens_reasoning,
    targets_of,
)
from rlhf_jax.rewards.equivalence import equivalent, is_readable

__all__ = ["equivalent", "math_reward"]

_log = logging.getLogger(__name__)


def math_reward(
    prompts: Sequence[Any] | None,
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    strict: bool = False,
    reasoning: bool | None = None,
    **columns: Sequence[Any],
) -> list[float | None]:
    r"""1 when the final answer equals the right one, else 0; None: no right answer can be read.

    Plain numbers (thousands separators, units, currencies, percent signs, simple fractions, "2
    million") are compared exactly, a decimal of six places or more also with what it is rounded
    from; everything else is parsed by math-verify (sympy) and compared by value. "50%" equals both
    50 and 0.5. Units are compared where both answers have one; where one has none, the numbers are
    compared as written (150 cents are $1.50, and not 1.50). Behind a number only units and what is
    plainly counted are dropped ("42 apples left"), see `rlhf_jax.rewards.nouns`. Letters of choice
    are compared as a set. A box of which the text says that it is wrong is none. Several boxes side
    by side are a list. An answer that would take long to work out (towers of powers, large
    factorials, more than 1000 characters) is wrong. A right answer that cannot be parsed, or does
    not equal itself, leaves its row out; the first is named in the log.

    Args:
      prompts: where ``<think>`` may have been opened.
      completions: B completions.
      completion_ids: unused.
      strict: only a marked answer counts (``\boxed{}``, ``####``, ``<answer>``, "answer is");
      False: without one, the last
        formula or number of the text is taken.
      reasoning: the completion starts inside ``<think>``, so that one that never closes it has no
      answer; None: as the prompt
        says. A completion that opens the block itself and does not close it never has an answer.
      columns: data columns, the answer among them (`targets_of`).
    """
    scores: list[float | None] = []
    for i, completion in enumerate(completions):
        targets = [
            target for target in map(_target, targets_of(columns, i) or ()) if target is not None
        ]
        if not targets:
            scores.append(None)
            continue
        opened = opens_reasoning(prompts, columns, i) if reasoning is None else reasoning
        text = content_of(completion)
        answer = final_answer(text, strict=strict, opened=opened)
        scores.append(
            float(answer is not None and any(equivalent(answer, target) for target in targets))
        )
    return scores


@functools.lru_cache(maxsize=4096)
def _target(text: str) -> str | None:
    """A right answer as an expression; None: cannot be read. Kept: completions share a row."""
    target = marked_answer(text) or text
    if is_readable(target):
        return target
    _report_first(target)
    return None


_REPORTED: list[str] = []
"""The right answer that was named as unreadable; at most one."""


def _report_first(target: str) -> None:
    if not _REPORTED:
        _REPORTED.append(target)
        _log.warning(
            "math cannot read the right answer %.200r: its row is left out, as is any other like "
            "it (said once)",
            target,
        )
