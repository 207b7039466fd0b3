"""Exact values of expressions that a model wrote: whole numbers, named unknowns, + - * / and
parentheses. They are read as a syntax tree; nothing is executed.
"""

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction

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
_GLUED = re.compile(r"[0-9][A-Za-z]|[A-Za-z][0-9A-Za-z]")
"""A letter that touches a digit or a letter: "2x" is no product, and Python reads "0x3" as 3."""
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def final_line(completion: Completion) -> str:
    """What a completion answers with, in plain signs: the marked answer, else its last line."""
    text = content_of(completion)
    lines = [line for line in text.splitlines() if line.strip()]
    answer = marked_answer(text) or (lines[-1] if lines else "")
    for written, sign in _SIGNS.items():
        answer = answer.replace(written, sign)
    return answer


def parsed(expression: str, unknowns: Collection[str] = ()) -> ast.expr | None:
    """The syntax tree of an expression; None when it is anything else, or longer than `MAX_LENGTH`.

    Args:
      expression: "3*(x+1)"; a product needs its sign, a sign in front of a number is refused.
      unknowns: letters that may stand for numbers.
    """
    if len(expression) > MAX_LENGTH or set(expression) - _CHARACTERS - set(unknowns):
        return None
    if _GLUED.search(expression):
        return None
    try:
        tree = ast.parse(expression, mode="eval").body
        leaves = leaves_of(tree)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return tree if all(isinstance(leaf, int) or leaf in unknowns for leaf in leaves) else None


def leaves_of(node: ast.expr) -> Counter[int | str]:
    """How often each number, and each unknown, occurs.

    Raises:
      ValueError: a part that expressions do not have.
    """
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Counter([node.value])
    if isinstance(node, ast.Name):
        return Counter([node.id])
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return leaves_of(node.left) + leaves_of(node.right)
    raise ValueError(f"{type(node).__name__} is no part of an expression")


def value_of(node: ast.expr, values: Mapping[str, int] | None = None) -> Fraction | None:
    """The exact value of a tree from `parsed`; None when it divides by zero.

    Args:
      node: the tree.
      values: of its unknowns.
    """
    try:
        return _value(node, values or {})
    except ZeroDivisionError:
        return None


def _value(node: ast.expr, values: Mapping[str, int]) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Name):
        return Fraction(values[node.id])
    assert isinstance(node, ast.Constant) and type(node.value) is int, "parsed has checked the tree"
    return Fraction(node.value)
