"""The code in a completion.

`code_of` decides: the last fenced block that counts, or, without fences, the part of the text that
parses. `_fenced` finds blocks as people and models write them (unclosed, nested, glued to prose);
`defines` and `bound_names` look into the code, which is parsed and never run here.
"""

import ast
import itertools
import keyword
import re
import textwrap
import warnings
from collections.abc import Collection, Iterator
from typing import NamedTuple

from rlhf_jax.rewards.answers import Completion, content_of

_PYTHON = frozenset({"python", "py", "python3"})
_CONTROL = (
    r"(?:<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|</s>|<eos>|<end_of_turn>|</answer>"
    r"|\[/PYTHON\])"
)
"""What a tokenizer or a prompt's format puts behind an answer."""
_TAIL = re.compile(rf"{_CONTROL}\Z")
_LONGEST_TAIL = 48
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^`\r\n]*)[\r\n]*")
_END = re.compile(rf"{_CONTROL}.*")
_GLUED = re.compile(rf"(.*[^\s`])(`{{3,}}+)[ \t]*(?:{_CONTROL}.*)?\s*")
_WRAPS = (("[PYTHON]", "[/PYTHON]"), ("<answer>", "</answer>"))
_PROSE = re.compile(r"[A-Za-z][\w'’]*(?:[,.!]? (?:[\w ,.!;'’\"`*-]|(?<=[ *`])\(|\))*)?[:.!]")
"""A line in front of a program that is not fenced: a sentence, and no statement."""
_MOST_PROSE = 3
_INLINE = re.compile(
    r"[^`\r\n]*[^`\s][ \t]*(`{3,}+)[ \t]*(python3?|py)[ \t]*[\r\n]+", re.IGNORECASE
)
"""A fence behind the words that announce it."""
_PROMPT = ">>>"
_MOST_ENDS = 8
"""Fences that are tried as the end of one block."""
_MOST_TRIES = 64
"""Programs that are parsed to find out where blocks end, in one text."""


class _Block(NamedTuple):
    language: str
    """In lower case; "" when the fence names none."""
    code: str
    closed: bool


def code_of(completion: Completion, *, wanted: Collection[str] = ()) -> str:
    """The code in a completion: the last fenced block (of Python, if any), or all unfenced.

    A last block that only shows the use of what an earlier one defines does not count. A program
    that is not fenced may stand in ``[PYTHON]`` or ``<answer>`` tags, or behind lines of prose.
    What stands before ``</think>`` does not count. Fences are those of Markdown, of backquotes or
    tildes; one inside a docstring does not end the block, when the block is a program with it. A
    block that is never closed (the answer was cut) counts only when it is a whole program and no
    other is marked as Python. An indented block (in a list) loses its indentation. Takes linear
    time.

    Args:
      completion: text or messages.
      wanted: names that the row's tests use; empty when they use none, or that is not known.
    """
    text = without_tail(content_of(completion).rpartition("</think>")[2].replace("\ufeff", ""))
    blocks = _fenced(text)
    closed = [block for block in blocks if block.closed]
    marked = [block.code for block in closed if block.language in _PYTHON]
    if marked:
        return _last_of(marked, wanted)
    if blocks and not blocks[-1].closed and blocks[-1].language in (*_PYTHON, ""):
        code = blocks[-1].code
        if code.strip() and parsed(code) is not None:
            return code
    if closed:
        return _last_of([block.code for block in closed], wanted)
    return text if blocks else _unfenced(text)


def without_tail(text: str) -> str:
    """A text without the control tokens at its end; as it is when there are none."""
    end = len(text)
    kept = text
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        tail = _TAIL.search(text[max(0, end - _LONGEST_TAIL) : end])
        if tail is None:
            return kept
        closing = tail[0] in ("</answer>", "[/PYTHON]")
        end -= len(tail[0])
        if not closing:  # those wait for what opens them
            kept = text[:end]


def _last_of(codes: list[str], wanted: Collection[str]) -> str:
    """The last of some blocks, or the last that defines what is wanted and is no example."""
    last = codes[-1]
    if len(codes) == 1 or not wanted:
        return last
    tree = parsed(last)
    if tree is None and not last.lstrip().startswith(_PROMPT):
        return last  # an answer that is no program is wrong
    if tree is not None and not bound_names(tree.body).isdisjoint(wanted):
        return last
    for code in reversed(codes[-_MOST_ENDS:-1]):
        earlier = parsed(code)
        if earlier is not None and not bound_names(earlier.body).isdisjoint(wanted):
            return code
    return last


def _unfenced(text: str) -> str:
    """The program in a text without fences: all, or what is in tags, or behind some prose.

    A text in which no such part is a program stays as it is.
    """
    if parsed(text) is not None and not text.lstrip().startswith(_WRAPS[0][0]):  # a list for Python
        return text
    for opening, closing in _WRAPS:
        _, opened, rest = text.rpartition(opening)
        inner = rest.partition(closing)[0].strip("\r\n")
        if opened and inner.strip() and parsed(inner) is not None:
            return inner
    rest = text
    for _ in range(_MOST_PROSE):
        first, _, rest = rest.lstrip().partition("\n")
        if not _is_prose(first.strip(" \t\r*_")):
            break
        tree = parsed(rest)
        if tree is not None and any(_does(statement) for statement in tree.body):
            return rest
    return text


def _is_prose(line: str) -> bool:
    if _PROSE.fullmatch(line) is None or keyword.iskeyword(line.partition(" ")[0].rstrip(":.!,")):
        return False
    return line[0].isupper() or line.endswith(":")


def _does(statement: ast.stmt) -> bool:
    """Whether a statement is one that only a program has: no word or number of a text."""
    return not isinstance(statement, ast.Expr) or isinstance(statement.value, ast.Call)


def defines(code: str, name: str) -> bool:
    """Whether code is a program that binds a name (the first part of a dotted one) at its top."""
    tree = parsed(code)
    if tree is None:
        return False
    return name.partition(".")[0].partition("(")[0] in bound_names(tree.body)


def bound_names(statements: list[ast.stmt]) -> set[str]:
    """Names that statements bind, in branches and loops too, not inside functions and classes."""
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
            # finds what a tree may hold: a return outside of a function
            compile(code, "main.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


def _fenced(text: str) -> list[_Block]:
    """The fenced blocks of a text, in order; of one that is never closed all that is left."""
    lines = text.splitlines(keepends=True)
    found = enumerate(_FENCE.fullmatch(line) or _INLINE.fullmatch(line) for line in lines)
    fences = [
        (number, fence[1], _END.sub("", fence[2]).strip())
        for number, fence in found
        if fence is not None
    ]
    blocks: list[_Block] = []
    place = 0
    tries = _MOST_TRIES
    while place < len(fences):
        first, _, info = fences[place]
        inline = lines[first].lstrip()[0] not in "`~"
        if inline and tries <= 0:
            place += 1
            continue
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
        code = _code(lines[first + 1 : stop])
        if may_hold and tries > 0:
            glued = _glued(lines, first + 1, stop, code)
            tries -= 1
            if glued is not None:
                end, code = glued
                blocks.append(_Block(language, code, True))
                place = next(
                    (k for k in range(place + 1, len(fences)) if fences[k][0] > end), len(fences)
                )
                continue
        if inline and parsed(code) is None:  # words that speak of a fence
            place += 1
            tries -= _MOST_ENDS
            continue
        blocks.append(_Block(language, code, chosen is not None))
        place = len(fences) if chosen is None else chosen + 1
    return blocks


def _glued(lines: list[str], start: int, stop: int, code: str) -> tuple[int, str] | None:
    """The line that ends a block with a fence behind its last word, and the block's code.

    None when the block is a program without that, or none with it.
    """
    ends = (number for number in range(start, stop) if "```" in lines[number])
    found = (
        (number, match) for number in ends if (match := _GLUED.fullmatch(lines[number])) is not None
    )
    candidates = list(itertools.islice(found, _MOST_ENDS))
    if not candidates or parsed(code) is not None:
        return None
    for number, match in candidates:
        whole = _code([*lines[start:number], match[1] + "\n"])
        if parsed(whole) is not None:
            return number, whole
    return None


def _closing(fences: list[tuple[int, str, str]], place: int) -> Iterator[int]:
    """The fences that may close the one at a place: same sign, as long, no language named."""
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
