"""Reward of countdown: an expression that uses each number exactly once and hits the target."""

import ast
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from rlhf_jax.rewards.answers import Completion, content_of, marked_answer

MAX_LENGTH = 200
"""Characters of an expression; a longer one is wrong. It bounds the work."""

_CHARACTERS = frozenset("0123456789+-*/() ")
_SIGNS = {
    "×": "*",
    "·": "*",
    "\\times": "*",
    "\\cdot": "*",
    "÷": "/",
    "\\div": "/",
    "−": "-",
    "–": "-",
    "\\left": "",
    "\\right": "",
}
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


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
    for name in ("nums", "target"):
        if name not in columns:
            present = ", ".join(sorted(columns)) or "none"
            raise ValueError(
                f"reward countdown needs a column {name!r}, the data has {present}: rename it with "
                "data.columns"
            )


def expression_of(completion: Completion) -> str:
    """The expression that a completion answers with, up to an equals sign."""
    text = content_of(completion)
    lines = [line for line in text.splitlines() if line.strip()]
    answer = marked_answer(text) or (lines[-1] if lines else "")
    for written, sign in _SIGNS.items():
        answer = answer.replace(written, sign)
    return answer.partition("=")[0].strip().strip("$ ")


def work_out(expression: str) -> tuple[Mapping[int, int], Fraction | None] | None:
    """(uses of each number, exact value) of whole numbers joined by + - * / and parentheses.

    Returns:
      None when it is anything else; the value is None when it divides by zero.
    """
    if len(expression) > MAX_LENGTH or set(expression) - _CHARACTERS:
        return None
    try:
        tree = ast.parse(expression, mode="eval").body
        numbers = Counter(_numbers(tree))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    try:
        return numbers, _value(tree)
    except ZeroDivisionError:
        return numbers, None


def _numbers(node: ast.expr) -> Iterator[int]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield node.value
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield from _numbers(node.left)
        yield from _numbers(node.right)
    else:
        raise ValueError(f"{type(node).__name__} is no part of an expression")


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    assert isinstance(node, ast.Constant) and type(node.value) is int, (
        "_numbers has checked the tree"
    )
    return Fraction(node.value)
