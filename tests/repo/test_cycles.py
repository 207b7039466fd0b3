"""No circle of imports within a package, those for type checkers only included."""

import ast
import graphlib
import pathlib

PACKAGE = pathlib.Path(__file__).parents[2] / "rlhf_jax"


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, modules: set[str]) -> set[str]:
    """Modules that a module imports where it is loaded, or for a type checker."""
    found = set()
    top = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in (inner for statement in top for inner in ast.walk(statement)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules
            found |= {node.module} if names - modules else set()
    return found & modules


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """A circle, or nothing."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_circle_within_a_package():
    trees = {
        module_of(path): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }
    rooms: dict[str, dict[str, set[str]]] = {}
    for module, tree in trees.items():
        room = ".".join(module.split(".")[:2])
        inside = {other for other in trees if other.startswith(f"{room}.")} - {room}
        if module in inside:
            rooms.setdefault(room, {})[module] = imported(tree, inside)
    assert len(rooms) > 10
    assert {room: circle for room, graph in rooms.items() if (circle := circle_in(graph))} == {}


def test_a_circle_is_seen():
    modules = {"p.a", "p.b"}
    one = ast.parse("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import x\n")
    other = ast.parse("from p import a\n")
    graph = {"p.a": imported(one, modules), "p.b": imported(other, modules)}
    assert set(circle_in(graph)) == modules
    assert circle_in({"p.a": {"p.b"}, "p.b": set()}) == []
