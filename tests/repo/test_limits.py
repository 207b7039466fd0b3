"""Size limits of DESIGN section 10, and the habits a machine can check."""

import ast
import pathlib
import re
import subprocess

REPO = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPO / "rlhf_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
LOOP_PACKAGES = {"loops", "runs", "bench"}
"""Straight-line code."""
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}


def _functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _body_lines(node) -> int:
    docstring = ast.get_docstring(node, clean=False)
    skipped = docstring.count("\n") + 1 if docstring else 0
    first = node.body[1] if docstring and len(node.body) > 1 else node.body[0]
    return (
        node.end_lineno - first.lineno + 1
        if docstring and len(node.body) > 1
        else node.end_lineno - first.lineno + 1 - skipped
    )


def test_sizes():
    found = []
    for path in MODULES:
        if path.stem in FORBIDDEN_NAMES:
            found.append(f"{path}: a name for anything")
        if len(path.read_text().splitlines()) > 400:
            found.append(f"{path} has more than 400 lines")
        limit = 120 if path.relative_to(PACKAGE).parts[0] in LOOP_PACKAGES else 80
        for node in _functions(path):
            place = f"{path}:{node.lineno} {node.name}"
            if _body_lines(node) > limit:
                found.append(f"{place} has {_body_lines(node)} lines, limit {limit}")
            arguments = node.args.posonlyargs + node.args.args
            positional = [arg for arg in arguments if arg.arg not in ("self", "cls")]
            if len(positional) > 7:
                found.append(f"{place} takes {len(positional)} positional arguments")
    assert found == []


def test_habits():
    found = []
    for path in MODULES:
        package = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{path}:{getattr(node, 'lineno', 0)}"
            name = node.func.id if _calls_a_name(node) else None
            if name == "print" and package not in ("cli", "bench"):
                found.append(f"{place} prints outside cli/ and bench/")
            if name in ("getattr", "hasattr") and "config" in ast.unparse(node.args[0]):
                found.append(f"{place} {ast.unparse(node)}")
            if isinstance(node, ast.Raise) and node.exc is not None:
                if "NotImplementedError" in ast.unparse(node.exc):
                    found.append(f"{place} is not there yet")
    assert found == []


def _calls_a_name(node) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_public_things_are_documented():
    found = []
    for path in MODULES:
        if path.stem.startswith("_") and path.stem != "__init__":
            continue
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            found.append(f"{path} has no module docstring")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                if not ast.get_docstring(node):
                    found.append(f"{path}:{node.lineno} {node.name} has no docstring")
    assert found == []


def test_nothing_machine_specific_is_tracked():
    files = subprocess.run(
        ["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.split()
    pattern = re.compile(r"(?<![\w.])/(work|farm|root|home)/")
    for name in files:
        path = REPO / name
        if (
            path == pathlib.Path(__file__).resolve()
            or path.suffix in (".npz", ".safetensors", ".png")
            or not path.is_file()
        ):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            assert not pattern.search(line), f"{name}:{number} a path of one machine"
