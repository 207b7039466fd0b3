"""Handwriting of the package: one thing a line, no puzzles, lines of at most 100 columns."""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "rlhf_jax"
LONGEST = 100


@functools.cache
def nodes():
    """(place, node) of every assignment and conditional expression of the package."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.IfExp)
    ]


def binds_unrelated(node: ast.AST) -> bool:
    """Whether it is `a, b = x, y`, and no exchange of what the names hold."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    values = [ast.unparse(value) for value in node.value.elts]
    return any(
        isinstance(target, ast.Tuple)
        and len(target.elts) == len(values) >= 2
        and sorted(map(ast.unparse, target.elts)) != sorted(values)
        for target in node.targets
    )


def holds_conditional(node: ast.AST) -> bool:
    """Whether a conditional expression stands directly in another one."""
    return isinstance(node, ast.IfExp) and any(
        isinstance(part, ast.IfExp) for part in (node.body, node.test, node.orelse)
    )


def test_an_assignment_binds_one_thing():
    assert [place for place, node in nodes() if binds_unrelated(node)] == []


def test_no_conditional_expression_in_another():
    assert [place for place, node in nodes() if holds_conditional(node)] == []


def test_lines_are_short():
    """Of tests too: most of a suite is read beside the code."""
    tests = (ROOT / "tests").rglob("*.py")
    assert [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted([*PACKAGE.rglob("*.py"), *tests])
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > LONGEST
    ] == []


def test_the_rules_see_what_they_forbid():
    found = [node for node in ast.walk(ast.parse("a, b = 1, 2\na, b = b, a\na, b = f()\n"))]
    assert sum(map(binds_unrelated, found)) == 1
    nested = ast.walk(ast.parse("1 if a else 2 if b else 3\n1 if a else (f(2 if b else 3))"))
    assert sum(map(holds_conditional, nested)) == 1
