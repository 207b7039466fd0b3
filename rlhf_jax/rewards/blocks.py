"""The code in a completion."""

import ast
import textwrap
import warnings

from rlhf_jax.rewards.answers import Completion, content_of

_PYTHON = frozenset({"python", "py", "python3"})


def code_of(completion: Completion) -> str:
    """The code in a completion: the last fenced block (of Python, when some are marked so), or
    everything when nothing is fenced.

    What stands before ``</think>`` does not count. An indented block (in a list) loses its
    indentation. Takes linear time.
    """
    text = content_of(completion).rpartition("</think>")[2]
    blocks = _fenced(text)
    marked = [code for language, code in blocks if language in _PYTHON]
    if marked:
        return marked[-1]
    return blocks[-1][1] if blocks else text


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


def _fenced(text: str) -> list[tuple[str, str]]:
    """Closed fenced blocks: (language in lower case, code)."""
    blocks: list[tuple[str, str]] = []
    language, lines = None, []
    for line in text.splitlines(keepends=True):
        stripped = line.strip()
        if not stripped.startswith("```") or "```" in stripped.lstrip("`"):
            lines.append(line)
        elif language is None:
            words = stripped.lstrip("`").strip().split(maxsplit=1)
            language, lines = (words[0].lower().strip("{}.") if words else ""), []
        else:
            code = "".join(lines)
            indented = code.lstrip("\n")[:1] in (" ", "\t")
            blocks.append((language, textwrap.dedent(code) if indented else code))
            language, lines = None, []
    return blocks
