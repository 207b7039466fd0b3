"""Tests that are Python: what can be told of them from their text.

They run in another process than the candidate (`rlhf_jax.rewards.sandbox.rpc`), so what reaches
into the candidate's own interpreter cannot work: captured output, replaced built-ins. A row of such
tests is not gradable, and neither is one whose tests ask nothing of the candidate.
"""

import ast
import builtins
import functools
import symtable
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.rewards.blocks import bound_names, parsed

_SETUPS = ("test_imports", "test_setup_code")
_CAPTURING = frozenset(
    "redirect_stdout redirect_stderr capsys capfd caplog recwarn monkeypatch getsource settrace "
    "catch_warnings assertWarns assertWarnsRegex assertLogs assertNoLogs".split()
)
_STREAMS = frozenset({"stdin", "stdout", "stderr"})
_REPLACED = frozenset({"input", "print", "open"})
_CANDIDATE = "solution"
_AVAILABLE = frozenset({_CANDIDATE, "numpy"})


class NotGradable(Exception):
    """Nothing can be said of answers to a row; the text says why."""


def statements_of(tests: Sequence[str], row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], str]:
    """Statements as they are run.

    Args:
      tests: of the row.
      row: its other columns: `test_imports` and `test_setup_code` run before them; with
        `entry_point`, ``check`` is called.

    Returns:
      Setup, tests, and the name that a candidate has to define ("" when the row does not say).

    Raises:
      NotGradable: no candidate can be graded by them.
    """
    setup = "\n".join(part for name in _SETUPS if (part := _text(row.get(name))))
    entry = str(row.get("entry_point") or "")
    trees = [_tree(test) for test in tests]
    bound = bound_names([node for tree in trees for node in tree.body])
    if "check" in bound:
        if not entry:
            raise NotGradable(
                "tests define check(candidate) and the row has no column 'entry_point' to call it "
                "with"
            )
        tests = [*tests[:-1], f"{tests[-1]}\ncheck({entry})\n"]
    tests = [test for test in tests if _does_something(_tree(test))]
    if not tests:
        raise NotGradable("tests without a statement that could fail")
    whole = "\n".join([setup, *tests])
    _refuse_reaching_in(_tree(whole))
    _refuse_derived(_tree(whole))
    return setup, tuple(tests), entry or _tested(whole)


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def _tree(code: str) -> ast.Module:
    tree = parsed(code)
    if tree is None:
        raise NotGradable(f"a test is no Python: {' '.join(code.split())[:60]!r}")
    return tree


def _does_something(tree: ast.Module) -> bool:
    """Whether anything in it can fail: an assertion, call or raise, or a test for a runner."""
    runs: list[ast.AST] = list(tree.body)
    while runs:
        node = runs.pop()
        if isinstance(node, ast.FunctionDef):
            if node.name.startswith("test_"):
                return True
            continue
        if isinstance(node, ast.ClassDef):
            if any("TestCase" in ast.unparse(base) for base in node.bases):
                return True
            continue
        if isinstance(node, ast.Assert | ast.Call | ast.Raise):
            return True
        runs.extend(
            ast.iter_child_nodes(node)
            if not isinstance(node, ast.Lambda | ast.AsyncFunctionDef)
            else ()
        )
    return False


@functools.lru_cache(maxsize=1024)
def free_names(code: str) -> frozenset[str]:
    """Names that a program uses and does not bind at its top.

    Built-in ones are among them, and those that it imports from the candidate.
    """
    top = symtable.symtable(code, "tests", "exec")
    own = {
        symbol.get_name()
        for symbol in top.get_symbols()
        if symbol.is_assigned() or symbol.is_imported()
    }
    free: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        free |= {
            s.get_name()
            for s in table.get_symbols()
            if s.is_referenced() and (table is top or s.is_global())
        }
    imports = [node for node in ast.walk(_tree(code)) if isinstance(node, ast.ImportFrom)]
    theirs = {alias.name for node in imports for alias in node.names if node.module == _CANDIDATE}
    return frozenset(free - own | theirs)


def _tested(code: str) -> str:
    """The built-in that tests are of, when all else they name is theirs or Python's; else "".

    MBPP has such: ``assert sum(10, 15) == 6``.

    Raises:
      NotGradable: they are of nothing.
    """
    free = free_names(code)
    nodes = list(ast.walk(_tree(code)))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    if free - set(dir(builtins)) or _CANDIDATE in imported:
        return ""
    tests = [node.test for node in nodes if isinstance(node, ast.Assert)]
    called = [
        n.func.id
        for test in tests
        for n in ast.walk(test)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    found = [name for name in called if name in free]
    if not found:
        raise NotGradable("tests that name nothing of the candidate's")
    return found[0]


def _refuse_reaching_in(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        caught: set[str] = set()
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda | ast.Attribute):
            caught = {
                target.id for target in node.targets if isinstance(target, ast.Name)
            } & _REPLACED
        elif isinstance(node, ast.Name):
            caught = {node.id} & _CAPTURING
        elif isinstance(node, ast.Attribute):
            caught = {node.attr} & _CAPTURING
            owner = ast.unparse(node.value)
            if node.attr == "patch" and owner.endswith("mock"):
                caught = {"mock.patch"}
            elif isinstance(node.ctx, ast.Store) and (
                owner == "builtins" or (owner == "sys" and node.attr in _STREAMS)
            ):
                caught = {f"{owner}.{node.attr}"}
        elif isinstance(node, ast.FunctionDef):
            caught = ({argument.arg for argument in node.args.args} & _CAPTURING) | (
                {node.name} & _REPLACED
            )
        elif isinstance(node, ast.Import | ast.ImportFrom):
            _refuse_packages(node)
            caught = {alias.name for alias in node.names} & (_CAPTURING | {"patch"})
        if caught:
            raise NotGradable(
                f"tests use {sorted(caught)[0]}, which does not reach the candidate's process"
            )


def _refuse_derived(tree: ast.Module) -> None:
    """Refuses tests with a class that derives from one of the candidate's.

    Its methods would have to run in the candidate's process, which would then decide what is right.
    """
    nodes = list(ast.walk(tree))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    if any(
        alias.name == "*" for node in imports for alias in node.names if node.module != _CANDIDATE
    ):
        return  # nobody knows whose the names are
    theirs = {
        alias.asname or alias.name
        for node in imports
        if node.module == _CANDIDATE
        for alias in node.names
    }
    own = bound_names(tree.body) | {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    for node in [node for node in nodes if isinstance(node, ast.ClassDef)]:
        for base in node.bases:
            name = base.id if isinstance(base, ast.Name) else None
            of_module = isinstance(base, ast.Attribute) and ast.unparse(base.value) == _CANDIDATE
            if (
                of_module
                or name in theirs
                or (name is not None and name not in own and name not in dir(builtins))
            ):
                raise NotGradable(
                    f"tests derive class {node.name} from the candidate's {ast.unparse(base)}"
                )


def _refuse_packages(node: ast.Import | ast.ImportFrom) -> None:
    names = (
        [node.module or ""]
        if isinstance(node, ast.ImportFrom)
        else [alias.name for alias in node.names]
    )
    for name in names:
        package = name.partition(".")[0]
        if package not in sys.stdlib_module_names and package not in _AVAILABLE:
            raise NotGradable(
                f"tests import {package or 'a relative module'}, which is not there in the sandbox"
            )
