"""`rlhf-jax bench`: the table, the JSON, and refusals in one line."""

import json

import pytest

from rlhf_jax.cli.bench import row_of
from rlhf_jax.cli.main import main
from rlhf_jax.runs.roofline import machine
from rlhf_jax.runs.roofline.report import Row
from rlhf_jax.runs.roofline.timing import Timing
from tests.cli.test_main import TINY, error_of


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run of DPO that is never made; probes of a size that takes no time."""
    monkeypatch.setattr(machine, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(machine, "ELEMENTS", 2**12)
    monkeypatch.setattr(machine, "LEAST", 1e-3)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("RUN", str(tmp_path / "run")).replace("sft", "dpo"))
    return path


@pytest.mark.slow
def test_prints_a_table_and_writes_json_and_nothing_else(config, capsys, tmp_path):
    out = tmp_path / "bench.json"
    command = ["bench", str(config), "--repeats", "2", "--json", str(out), "training.batch_size=4"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"{config} on 1 device of kind cpu (cpu), 2 rounds" in printed
    assert "score" in printed and "update" in printed and printed.count("<- the roof") == 2
    found = json.loads(out.read_text())
    assert [row["name"] for row in found["programs"]] == ["score", "update"]
    assert found["repeats"] == 2 and len(found["products"]) == len(found["memory"]) == 2
    assert found["programs"][1]["time"]["median"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--repeats", "0"], 2, "--repeats=0 must be at least 1"),
        (["--repeats", "many"], 2, "argument --repeats: invalid int value: 'many'"),
        (
            ["--programs", "update,decode"],
            2,
            "--programs=decode is none of this run's: it has score, up",
        ),
        (["--json", "not/there/x.json"], 2, "--json=not/there/x.json lies in no folder that exi"),
        (["training.batch_size=0"], 2, "training.batch_size=0 must be at least 1"),
        (["data.path=missing.jsonl"], 3, "missing.jsonl"),
        (["model.config=null", "model.path=missing"], 4, "missing"),
    ],
)
def test_refuses_in_one_line(config, capsys, arguments, code, message, tmp_path):
    assert message in error_of(capsys, ["bench", config, *arguments], code)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_row_shows_what_there_is():
    nothing = {"flops": 0, "bytes": 0, "flops_per_second": 0, "of_products": 0, "least": 0}
    nothing |= {"of_limit": 0, "limit": "", "padding": None, "compile_seconds": None}
    grade = Row("grade", Timing(2.0, 1.0, 3.5), **nothing, shapes=0, temporary=None, peak=None)
    assert row_of(grade) == ["grade", "2 (1 .. 3.5)", *["-"] * 7]
    update = grade._replace(
        flops=3e9,
        flops_per_second=1.5e9,
        of_products=0.5,
        of_limit=0.756,
        limit="memory",
        padding=0.125,
        compile_seconds=3.25,
        shapes=2,
        temporary=1_500_000,
        peak=2_604_000_000,
    )
    assert row_of(update)[2:] == [
        "3",
        "1.5",
        "50.0 %",
        "75.6 % memory",
        "12.5 %",
        "1.5/2604",
        "3.2 (2)",
    ]
