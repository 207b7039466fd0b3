"""Nobody asks an algorithm what it is: the rules of the contract that a machine can check."""

import ast
import pathlib
import re

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "rlhf_jax"
NAMES = ("sft", "reward_model", "dpo", "kto", "ppo", "grpo", "dapo")
CONFIGS = {algorithm_config(name).__name__ for name in NAMES}
ELSEWHERE = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in ("algorithms", "bench")
]
SPOKEN = {"runs/quickstart.py", "cli/texts.py", "__init__.py"}
"""Configurations written out, help texts and public names."""


def offences(check):
    return [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
        for path in ELSEWHERE
        for node in ast.walk(ast.parse(path.read_text()))
        if check(node)
    ]


def test_no_class_of_an_algorithm_is_asked_for():
    """Neither by `isinstance` nor by name, outside of algorithms/."""

    def asks(node):
        return isinstance(node, ast.Name) and node.id in CONFIGS

    assert offences(asks) == []


def test_no_name_of_an_algorithm_decides():
    """No comparison with a registered name, and no table by them."""

    def names(node):
        return isinstance(node, ast.Constant) and node.value in NAMES

    def decides(node):
        if isinstance(node, ast.Compare):
            return any(names(part) for part in ast.walk(node))
        if isinstance(node, ast.Dict):
            return any(key is not None and names(key) for key in node.keys)
        return False

    found = [line for line in offences(decides) if line.split(":")[0] not in SPOKEN]
    assert found == []


def test_the_registry_is_what_is_listed():
    assert set(NAMES) <= set(ALGORITHMS)


def test_loops_are_few_and_flat():
    """At most ten files on three floors, and no loop knows a whole run."""
    files = sorted((PACKAGE / "loops").glob("*.py"))
    assert len(files) <= 10
    below = {}
    for path in files:
        names = re.findall(r"^from rlhf_jax\.loops\.(\w+) import", path.read_text(), re.M)
        below[path.stem] = {name for name in names if path.stem != "__init__"}
        assert "from rlhf_jax.runs" not in path.read_text()

    def floor(name):
        return 1 + max((floor(other) for other in below[name]), default=0)

    assert max(map(floor, below)) <= 3


def test_tuples_and_records_are_small():
    """No NamedTuple over 20 fields, and no dataclass that is not a section of the configuration."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            fields = sum(isinstance(part, ast.AnnAssign) for part in node.body)
            is_tuple = any(ast.unparse(base) == "NamedTuple" for base in node.bases)
            is_section = node.name.endswith(("Config", "Section"))
            is_data = any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)
            if is_tuple or (is_data and not is_section):
                assert fields <= 20, f"{path}:{node.lineno} {node.name} has {fields} fields"
