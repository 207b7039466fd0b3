"""The notebooks are stored without outputs, end in assertions, and run."""

import nbformat
import pytest

from tests.conftest import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_one_for_every_algorithm():
    assert [path.stem for path in NOTEBOOKS] == ["01_dpo", "02_ppo", "03_grpo", "04_dapo"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_as_source(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert all(len(cell.source.splitlines()) <= 30 for cell in cells)
    assert "assert" in cells[-1].source
    assert "## Change this next" in "".join(cell.source for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.timeout(600)
# Jupyter's own; those of the library are errors everywhere else
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_its_assertions_hold(path, tmp_path, monkeypatch):
    """A cell that raises, the assertions at the end included, fails the test with its traceback."""
    from nbclient import NotebookClient  # heavy, and not needed to collect

    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures become outputs
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    streams = [output.name for output in outputs if output.output_type == "stream"]
    assert "stderr" not in streams, outputs
