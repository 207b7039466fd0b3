"""Reward of countdown: an expression that uses each number exactly once and hits the target."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from rlhf_jax.rewards.answers import Completion, require_columns
from rlhf_jax.rewards.formulas import final_line, leaves_of, parsed, value_of


def countdown_reward(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    format_score: float = 0.0,
    **columns: Sequence[Any],
) -> list[float | None]:
    """1 when the target is reached with each number used once; None for a row without one.

    The expression is the marked answer (``<answer>..</answer>``, ``\\boxed{..}``, ``#### ..``),
    else the last line of the text; of ``3+4 = 7`` only ``3+4`` is read. It is worked out exactly
    over its syntax tree, nothing is executed.

    Args:
      prompts: unused.
      completions: B completions.
      completion_ids: unused.
      format_score: for an expression that uses the numbers rightly and misses the target.
      columns: data columns: `nums`, the numbers given, and `target`.

    Raises:
      ValueError: a column is missing.
    """
    check_numbers(columns)
    scores: list[float | None] = []
    for completion, nums, target in zip(
        completions, columns["nums"], columns["target"], strict=True
    ):
        if nums is None or target is None:
            scores.append(None)
            continue
        worked = work_out(expression_of(completion))
        if worked is None or worked[0] != Counter(int(number) for number in nums):
            scores.append(0.0)
        else:
            scores.append(1.0 if worked[1] == Fraction(target) else format_score)
    return scores


def check_numbers(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless the columns `nums` and `target` are there."""
    require_columns("reward countdown needs", ("nums", "target"), columns)


def expression_of(completion: Completion) -> str:
    """The expression that a completion answers with, up to an equals sign."""
    return final_line(completion).partition("=")[0].strip().strip("$ ")


def work_out(expression: str) -> tuple[Mapping[int, int], Fraction | None] | None:
    """(uses of each number, exact value) of whole numbers joined by + - * / and parentheses.

    Returns:
      None when it is anything else; the value is None when it divides by zero.
    """
    tree = parsed(expression)
    if tree is None:
        return None
    uses = {int(number): count for number, count in leaves_of(tree).items()}
    return uses, value_of(tree)
