"""The README is true: its Python runs, its commands parse, its metrics table is the library's, the
links of its files exist."""

import pathlib
import re
import shlex

import pytest

from rlhf_jax.algorithms import METRICS
from rlhf_jax.cli.parser import make_parser
from rlhf_jax.loops.metrics import RUN_METRICS

REPO = pathlib.Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_python_blocks_run():
    namespace: dict = {}
    blocks = _blocks("python")
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert float(namespace["metrics"]["update/skipped"]) == 0
    assert abs(float(namespace["advantages"][1].sum())) == 0


def _commands() -> list[str]:
    lines = [
        line.split("  #")[0].strip() for block in _blocks("bash") for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith("rlhf-jax ")]


@pytest.mark.parametrize("line", _commands())
def test_commands_parse(line):
    words = shlex.split(line)[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as caught:
            make_parser("").parse_args(words)
        assert caught.value.code == 0
        return
    make_parser("").parse_args(words)
    for word in words:
        if word.startswith("configs/"):
            assert (REPO / word).is_file(), word


def test_metrics_table_is_the_librarys():
    rows = dict(re.findall(r"^\| `([a-z_]+/[a-z_]+|[a-z_]+)` \| (.*?) \|$", README, re.MULTILINE))
    for name, text in METRICS.items():
        assert rows.get(name) == text.replace("|", "\\|"), name


def test_metrics_of_the_loops_are_the_librarys():
    """Both ways: a row of the table that `rlhf-jax metrics` and `report` do not know is missing in
    `rlhf_jax.loops.metrics.RUN_METRICS`."""
    table = README.split("| name | meaning |")[1].split("\n\n")[0]
    lines = re.findall(r"^\| (`.*?) \| (.*?) \|$", table, re.MULTILINE)
    rows = {tuple(re.findall(r"`([^`]+)`", names)): text for names, text in lines}
    rows = {names: text for names, text in rows.items() if names[0] not in METRICS}
    assert rows == {names: text.replace("|", "\\|") for names, text in RUN_METRICS.items()}


def test_no_placeholder_is_left():
    assert not re.findall(
        r"\b[A-Z]+_[A-Z]+\b", README.replace("RLHF_JAX_SHARED", "").replace("JAX_PLATFORMS", "")
    ), "a figure is missing"


def test_both_commands_install_with_the_constraints():
    assert (REPO / "constraints.txt").is_file()
    commands = [block for block in _blocks("bash") if "pip install" in block]
    assert len(commands) == 2 and all("-c constraints.txt" in command for command in commands)
    assert "<!-- tests -->" in README and "<!-- /tests -->" in README
