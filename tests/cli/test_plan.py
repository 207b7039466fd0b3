"""`rlhf-jax plan`: tables, JSON, exit codes, and refusals in one line."""

import json

import pytest

from rlhf_jax.cli.main import main
from rlhf_jax.cli.plan import read_mesh
from tests.cli.test_main import TINY


@pytest.fixture
def tiny_yaml(tmp_path):
    """A run of DPO that is never made."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("RUN", str(tmp_path / "run")).replace("sft", "dpo"))
    return path


@pytest.mark.slow
def test_prints_tables_and_writes_json(tiny_yaml, tmp_path, capsys):
    out = tmp_path / "plan.json"
    command = ["plan", str(tiny_yaml), "--device", "cpux4", "--mesh", "data=2,fsdp=2"]
    assert main([*command, "--output", str(out), "training.batch_size=4"]) == 0
    text = capsys.readouterr().out
    assert "cpux4: 4 x cpu" in text and "data=2 fsdp=2 tensor=1" in text
    assert "optimizer moments" in text and "update" in text and "all-gather" in text
    found = json.loads(out.read_text())
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert [phase["name"] for phase in found["phases"]][-1] == "update"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "v7x-8"], "none that can be planned for"),
        (["--device", "cpux4", "--mesh", "fsdp=8"], "does not fit"),
        (["--device", "cpux4", "--mesh", "model=4"], "write data=4,fsdp=16"),
        (["--device", "cpux4", "--output", "nowhere/plan.json"], "lies in no folder"),
        ([], "--device"),
    ],
)
def test_refusals(tiny_yaml, capsys, arguments, message):
    assert main(["plan", str(tiny_yaml), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_meshes_are_read():
    assert read_mesh("fsdp=16, tensor=4") == {"data": 1, "fsdp": 16, "tensor": 4}
