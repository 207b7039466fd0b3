"""Size limits of DESIGN section 10, and the habits a machine can check."""

import ast
import pathlib
import re
import subprocess

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPO / "rlhf_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
LOOP_PACKAGES = {"loops", "bench"}
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


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sizes(path):
    assert path.stem not in FORBIDDEN_NAMES
    assert len(path.read_text().splitlines()) <= 400
    limit = 120 if path.relative_to(PACKAGE).parts[0] in LOOP_PACKAGES else 80
    for node in _functions(path):
        assert _body_lines(node) <= limit, (
            f"{path}:{node.lineno} {node.name} has {_body_lines(node)} lines, limit {limit}"
        )
        positional = [
            arg for arg in node.args.posonlyargs + node.args.args if arg.arg not in ("self", "cls")
        ]
        assert len(positional) <= 7, (
            f"{path}:{node.lineno} {node.name} takes {len(positional)} positional arguments"
        )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_habits(path):
    package = path.relative_to(PACKAGE).parts[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ):
            assert package in ("cli", "bench"), (
                f"{path}:{node.lineno} prints outside cli/ and bench/"
            )
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr")
        ):
            assert "config" not in ast.unparse(node.args[0]), (
                f"{path}:{node.lineno} {ast.unparse(node)}"
            )
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "NotImplementedError" not in ast.unparse(node.exc), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_things_are_documented(path):
    if path.stem.startswith("_") and path.stem != "__init__":
        return
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


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
