"""Imports go downward only, and packages of one layer do not import each other (DESIGN section
2)."""

import ast
import pathlib
import subprocess
import sys

from rlhf_jax.algorithms import ALGORITHMS

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "rlhf_jax"
LAYERS = {
    "fields": -2,  # classes as such
    "checked": -1,
    "handed": -1,
    "console": -1,
    "batches": -1,  # of types
    "errors": 0,
    "cloud": 1,
    "target": 0,
    "types": 0,
    "ops": 1,
    "programs": 1,
    "algorithms": 2,
    "sharding": 2,
    "models": 3,
    "training": 3,
    "rollout": 3,
    "rewards": 3,
    "data": 3,
    "config": 4,
    "io": 4,
    "loops": 5,
    "fused": 5,
    "runs": 6,
    "bench": 7,  # DESIGN has 6; it measures whole runs, so it stands above them
    "cli": 8,
}
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "trl", "wandb"}
"""Never imported at module level: comparison partners and extras."""


def _package(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def _imports(path: pathlib.Path) -> list[tuple[ast.AST, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import"
            found += [(node, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
    return found


def test_imports_go_downward():
    found = []
    for path in MODULES:
        own = _package(path)
        if own in ("__init__", "__main__"):
            continue
        for node, name in _imports(path):
            parts = name.split(".")
            if parts[0] != "rlhf_jax" or parts[1] in (own, "__version__"):
                continue
            other = parts[1]
            if other not in LAYERS:
                found.append(f"{path}:{node.lineno} imports {name}, of a package without a layer")
            elif LAYERS[other] >= LAYERS[own]:
                levels = f"{own} (L{LAYERS[own]}) imports {name} (L{LAYERS[other]})"
                found.append(f"{path}:{node.lineno} {levels}")
    assert found == []


def test_no_private_and_no_torch_imports():
    found = []
    for path in MODULES:
        for node, name in _imports(path):
            if "._src" in name:
                found.append(f"{path}:{node.lineno} private import {name}")
            if name.split(".")[0] in ("torch", "trl") and _package(path) != "bench":
                found.append(f"{path}:{node.lineno} imports {name} outside bench/")
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            is_from = isinstance(node, ast.ImportFrom)
            names = [node.module or ""] if is_from else [alias.name for alias in node.names]
            if HEAVY & {name.split(".")[0] for name in names}:
                found.append(f"{path}:{node.lineno} imports an extra at module level")
    assert found == []


def test_no_algorithm_imports_another():
    for path in (PACKAGE / "algorithms").glob("*.py"):
        if path.name == "__init__.py":
            continue
        algorithms = {make.__module__.rpartition(".")[2] for make in ALGORITHMS.values()}
        for node, name in _imports(path):
            parts = name.split(".")
            if parts[:2] == ["rlhf_jax", "algorithms"]:
                assert parts[2] not in algorithms, f"{path}:{node.lineno} imports {name}"


def test_import_is_light_and_has_no_side_effects():
    heavy = ("transformers", "datasets", "pydantic", "torch", "matplotlib", "rich", "tensorboardX")
    code = (
        f"import sys, rlhf_jax; loaded = [m for m in {heavy} if m in sys.modules]; assert not "
        "loaded, loaded; "
        "import jax; jax.config.update('jax_num_cpu_devices', 3); assert jax.device_count() == 3"
    )  # the number of devices can only be set while no backend has been started
    subprocess.run([sys.executable, "-c", code], check=True)
