"""Reward of programs by example: an expression in x that gives the right outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.rewards.answers import Completion, require_columns
from rlhf_jax.rewards.formulas import final_line, parsed, value_of


def programs_reward(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    partial: bool = False,
    **columns: Sequence[Any],
) -> list[float | None]:
    """1 when an expression in x holds for all hidden pairs; None for a row without pairs.

    The expression is the marked answer (``<answer>..</answer>``, ``\\boxed{..}``, ``#### ..``),
    else the last line of the text; of ``f(x) = 3*x+1`` only what follows the sign is read. Numbers,
    x, + - * / and parentheses; it is worked out exactly over its syntax tree, nothing is executed.

    Args:
      prompts: unused.
      completions: B completions.
      completion_ids: unused.
      partial: the share of pairs for which it holds, from 0 to 1.
      columns: data columns: `hidden`, pairs [input, output] of whole numbers.

    Raises:
      ValueError: the column is missing.
    """
    check_hidden(columns)
    scores: list[float | None] = []
    for completion, pairs in zip(completions, columns["hidden"], strict=True):
        if not pairs:
            scores.append(None)
            continue
        share = share_of_pairs(program_of(completion), pairs)
        scores.append(share if partial else float(share == 1.0))
    return scores


def check_hidden(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless the column `hidden` is there."""
    require_columns("reward programs needs", ("hidden",), columns)


def program_of(completion: Completion) -> str:
    """The expression that a completion answers with, behind the last equals sign."""
    return final_line(completion).rpartition("=")[2].strip().strip("$ ")


def share_of_pairs(program: str, pairs: Sequence[Sequence[int]]) -> float:
    """The share of pairs [input, output] for which an expression in x holds; 0 when it is none."""
    tree = parsed(program, ("x",))
    if tree is None:
        return 0.0
    return sum(value_of(tree, {"x": int(x)}) == int(y) for x, y in pairs) / len(pairs)
