"""The code in a completion."""

import ast
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from rlhf_jax.rewards.answers import Completion, content_of

_PYTHON = frozenset({"python", "py", "python3"})
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^`\r\n]*)[\r\n]*")
_MOST_ENDS = 8
"""Fences that are tried as the end of one block."""
_MOST_TRIES = 64
"""Programs that are parsed to find out where blocks end, in one text."""


class _Block(NamedTuple):
    language: str
    """In lower case; "" when the fence names none."""
    code: str
    closed: bool


def code_of(completion: Completion) -> str:
    """The code in a completion: the last fenced block (of Python, when some are marked so), or
    everything when nothing is fenced.

    What stands before ``</think>`` does not count. Fences are those of Markdown, of backquotes or
    tildes; one inside a docstring does not end the block, when the block is a program with it. A
    block that is never closed (the answer was cut) counts only when it is a whole program and no
    other is marked as Python. An indented block (in a list) loses its indentation. Takes linear time.
    """
    text = content_of(completion).rpartition("</think>")[2].replace("\ufeff", "")
    blocks = _fenced(text)
    closed = [block for block in blocks if block.closed]
    marked = [block.code for block in closed if block.language in _PYTHON]
    if marked:
        return marked[-1]
    if blocks and not blocks[-1].closed and blocks[-1].language in (*_PYTHON, ""):
        code = blocks[-1].code
        if code.strip() and parsed(code) is not None:
            return code
    return closed[-1].code if closed else text


def defines(code: str, name: str) -> bool:
    """Whether code is a program that binds a name (the first part of a dotted one) at its top."""
    tree = parsed(code)
    if tree is None:
        return False
    return name.partition(".")[0].partition("(")[0] in bound_names(tree.body)


def bound_names(statements: list[ast.stmt]) -> set[str]:
    """Names that statements bind where they stand, in branches and loops too, but not inside
    functions and classes."""
    names: set[str] = set()
    todo: list[ast.AST] = list(statements)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        todo.extend(ast.iter_child_nodes(node))
    return names


def parsed(code: str) -> ast.Module | None:
    """The syntax tree of a program; None of what is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in a stranger's texts
            tree = ast.parse(code)
            compile(code, "main.py", "exec", dont_inherit=True)  # finds what a tree may hold: a return outside of a function
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


def _fenced(text: str) -> list[_Block]:
    """The fenced blocks of a text, in order; of a last one that is never closed all that is left."""
    lines = text.splitlines(keepends=True)
    found = enumerate(map(_FENCE.fullmatch, lines))
    fences = [(number, fence[1], fence[2].strip()) for number, fence in found if fence is not None]
    blocks: list[_Block] = []
    place, tries = 0, _MOST_TRIES
    while place < len(fences):
        first, _, info = fences[place]
        language = _language(info)
        may_hold = tries > 0 and language in (*_PYTHON, "")
        ends = list(itertools.islice(_closing(fences, place), _MOST_ENDS if may_hold else 1))
        chosen = ends[0] if ends else None
        if len(ends) > 1:
            tries -= 1
            for end in ends:  # a fence in a docstring ends no program
                if parsed(_code(lines[first + 1 : fences[end][0]])) is not None:
                    chosen = end
                    break
                tries -= 1
        stop = len(lines) if chosen is None else fences[chosen][0]
        blocks.append(_Block(language, _code(lines[first + 1 : stop]), chosen is not None))
        place = len(fences) if chosen is None else chosen + 1
    return blocks


def _closing(fences: list[tuple[int, str, str]], place: int) -> Iterator[int]:
    """The fences that may close the one at a place: of the same sign, at least as long, and without
    the name of a language."""
    sign = fences[place][1]
    for k in range(place + 1, len(fences)):
        _, fence, info = fences[k]
        if not info and fence.startswith(sign):
            yield k


def _language(info: str) -> str:
    words = info.split(maxsplit=1)
    return words[0].lower().strip("{}.") if words else ""


def _code(lines: list[str]) -> str:
    code = "".join(lines)
    return textwrap.dedent(code) if code.lstrip("\n")[:1] in (" ", "\t") else code
