"""The notebooks are stored with their outputs, use public names only, end in assertions, and run:
what they give then is of the same kinds and sizes as what is stored."""

import ast
import base64
import importlib
import struct

import nbformat
import pytest

import rlhf_jax
from tests.conftest import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
LARGEST = 400_000
"""Bytes of a notebook: pictures are small enough to be read on the web and to be kept in git."""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell):
    """(width, height) of the pictures of a cell."""
    found = []
    for output in cell.outputs:
        encoded = output.get("data", {}).get("image/png")
        if encoded:
            found.append(struct.unpack(">II", base64.b64decode(encoded)[16:24]))
    return found


def kinds(cell):
    """What the outputs of a cell are, without what they say.

    How many pieces a cell's printed lines come in depends on the moment: the kernel sends every
    fifth of a second what there is. Neighbouring pieces of one stream are one output.
    """
    found = [
        (output.output_type, output.get("name"), sorted(output.get("data", {})))
        for output in cell.outputs
    ]
    return [
        kind
        for kind, before in zip(found, [None, *found], strict=False)
        if kind != before or kind[0] != "stream"
    ]


def test_lines_that_came_in_two_pieces_are_one_output():
    line = nbformat.v4.new_output("stream", name="stdout", text="a line\n")
    error = nbformat.v4.new_output("stream", name="stderr", text="a line\n")
    picture = nbformat.v4.new_output("display_data", data={"text/plain": "a picture"})
    one, two = (
        nbformat.v4.new_code_cell(outputs=outputs)
        for outputs in ([line, picture, picture, line], [line, line, picture, picture, line])
    )
    assert kinds(one) == kinds(two)
    assert len(kinds(one)) == 4  # two pictures are two
    assert len(kinds(nbformat.v4.new_code_cell(outputs=[line, error, line]))) == 3


def test_there_is_one_for_every_algorithm_and_for_ones_own():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_dpo",
        "02_ppo",
        "03_grpo",
        "04_dapo",
        "05_your_model_and_reward",
        "06_add_an_algorithm",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_a_notebook_for_readers(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    assert all(len(cell.source.splitlines()) <= 30 for cell in cells)
    assert "assert" in cells[-1].source
    assert "## Change this next" in "".join(cell.source for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_as_it_ran(path):
    """From top to bottom, once, without an error or a warning."""
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "display_data",
        "execute_result",
        "stream",
    }
    assert all(output.get("name") != "stderr" for output in outputs)
    assert sum(len(pictures(cell)) for cell in cells) >= 2
    assert path.stat().st_size < LARGEST


def private_names(source):
    """Names of the library that a program uses and no `__all__` has."""
    tree = ast.parse(source)
    modules = {"rlhf_jax": rlhf_jax}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("rlhf_jax"):
            home = importlib.import_module(node.module)
            for alias in node.names:
                public = dir(home) if node.module == "rlhf_jax" else home.__all__
                if alias.name not in public:
                    found.append(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = getattr(home, alias.name)
        elif isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.startswith("rlhf_jax.")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            home = modules.get(node.value.id)
            public = getattr(home, "__all__", None)
            if public is not None and node.attr not in public:
                found.append(f"{home.__name__}.{node.attr}")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_uses_public_names_only(path):
    notebook = nbformat.read(path, as_version=4)
    assert private_names("\n".join(cell.source for cell in code_cells(notebook))) == []


def test_a_private_name_is_seen():
    source = "import rlhf_jax\nfrom rlhf_jax import fused\nfrom rlhf_jax.runs import compilation\n"
    source += "rlhf_jax.nothing\nfused.loop\nimport rlhf_jax.ops.kl\n"
    assert sorted(private_names(source)) == [
        "rlhf_jax.fused.loop",
        "rlhf_jax.nothing",
        "rlhf_jax.ops.kl",
        "rlhf_jax.runs.compilation",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
# Jupyter's own; those of the library are errors everywhere else
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_its_assertions_hold_and_its_outputs_are_like_those_stored(
    path, tmp_path, monkeypatch
):
    """A cell that raises, the assertions at the end included, fails the test with its traceback."""
    from nbclient import NotebookClient  # heavy, and not needed to collect

    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures become outputs
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # those of the tests: compile fast, run slowly
    stored = code_cells(nbformat.read(path, as_version=4))
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for before, after in zip(stored, code_cells(notebook), strict=True):
        assert kinds(after) == kinds(before), before.source
        for (width, height), other in zip(pictures(before), pictures(after), strict=True):
            assert other == (pytest.approx(width, rel=0.15), pytest.approx(height, rel=0.15))
