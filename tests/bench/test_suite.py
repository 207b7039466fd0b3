"""A suite runs its comparisons, and says what must be known to read them."""

import json
import stat
import sys

import pytest

from rlhf_jax.bench import chart, dpo_step, suite
from rlhf_jax.bench.outcome import Outcome, Side, lines
from rlhf_jax.bench.timing import Timing
from rlhf_jax.cli.main import main

CALM = Side("rlhf_jax", Timing(1.0, 0.95, 1.05), 10**9)


@pytest.fixture
def partner(tmp_path):
    """An interpreter that says it has the PyTorch side."""
    path = tmp_path / "python"
    versions = json.dumps(dict.fromkeys(suite.PARTNERS, "9.9"))
    path.write_text(f"#!{sys.executable}\nprint({versions!r})\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def outcome(*others, passed=True):
    sides = (CALM, *others) if passed else ()
    return Outcome("a step, float32", "losses agree", passed, sides)


def test_a_ratio_needs_windows_that_agree():
    steady = Side("TRL", Timing(2.0, 1.9, 2.2))
    restless = Side("TRL", Timing(2.0, 1.5, 2.5))
    assert outcome(steady).ratio(steady) == 2.0
    assert outcome(restless).ratio(restless) is None
    assert outcome(restless).ratios(restless) == (1.5 / 1.05, 2.5 / 0.95)
    text = "\n".join(lines(outcome(restless)))
    assert "x none: 1.43 to 2.63, windows differ by ±25%" in text
    restless_first = outcome(steady)._replace(sides=(restless, steady))
    assert restless_first.ratio(steady) is None


def test_a_gate_that_fails_leaves_no_times():
    text = "\n".join(lines(outcome(passed=False)))
    assert "do not compute the same" in text and " ms " not in text


def test_names_that_a_suite_lacks_are_refused():
    assert [each.name for each in suite.chosen("cpu", ["ppo", "dpo"])] == ["ppo", "dpo"]
    assert len(suite.chosen("cpu", [])) == len(suite.SUITES["cpu"])
    with pytest.raises(ValueError, match="has no 'sft'; it has dpo, dpo-precomputed, "):
        suite.chosen("cpu", ["sft"])


def test_a_missing_partner_is_one_line(tmp_path):
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho PackageNotFoundError: torch >&2; exit 1\n")
    path.chmod(0o755)
    with pytest.raises(ValueError, match="PackageNotFoundError: torch; on a machine without a GPU"):
        suite.partner_versions(str(path))
    with pytest.raises(ValueError, match="No such file"):
        suite.partner_versions(str(tmp_path / "nothing"))


def test_the_command_prints_and_writes(partner, monkeypatch, tmp_path, capsys):
    asked = []

    def measure(argv):
        asked.append(argv)
        return [outcome(Side("TRL", Timing(2.0, 1.9, 2.1), 3 * 10**9, "a note"))]

    monkeypatch.setattr(dpo_step, "measure", measure)
    paths = {name: tmp_path / f"suite.{name}" for name in ("md", "json", "png")}
    command = ["bench", "--suite", "cpu", "dpo", "dpo-precomputed", "--python", partner]
    command += ["--threads", "1", "--windows", "2", "--markdown", str(paths["md"])]
    command += ["--json", str(paths["json"]), "--chart", str(paths["png"])]
    assert main(command) == 0
    assert [argv[:2] for argv in asked] == [["--sides", "rlhf_jax"], ["--reference", "precomputed"]]
    assert asked[0][-6:] == ["--python", partner, "--threads", "1", "--windows", "2"]
    printed = capsys.readouterr().out
    assert "1 of 2: dpo: a DPO step" in printed and "torch 9.9" in printed
    assert "x 2.00   peak 3.00 GB   a note" in printed
    table = paths["md"].read_text()
    assert "### a step, float32" in table
    assert "| TRL | 2000.0 (1900.0 .. 2100.0) | 2.00 | 3.00 | a note |" in table
    found = json.loads(paths["json"].read_text())
    assert found["comparisons"]["dpo"][0]["sides"][1]["ratio"] == 2.0
    assert {"cpu", "cores", "date", "load_before", "load_after"} <= found["environment"].keys()
    assert paths["png"].read_bytes()[:4] == b"\x89PNG"


def test_the_command_fails_where_a_gate_does(partner, monkeypatch, capsys):
    monkeypatch.setattr(dpo_step, "measure", lambda argv: [outcome(passed=False)])
    command = ["bench", "--suite", "cpu", "dpo", "--python", partner, "--threads", "1"]
    assert main(command) == 1
    assert "do not compute the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "cpu", "nothing"], "has no 'nothing'"),
        (["--suite", "cpu", "--threads", "0"], "--threads=0: this process may use"),
        (["--suite", "cpu", "--json", "no/such/file"], "lies in no folder that exists"),
        ([], "needs a configuration, --suite cpu, or --list"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_list_names_all(capsys):
    assert main(["bench", "--list"]) == 0
    printed = capsys.readouterr().out
    for each in suite.SUITES["cpu"]:
        assert each.name in printed


def test_every_comparison_has_a_measure():
    for each in suite.SUITES["cpu"]:
        module = __import__(f"rlhf_jax.bench.{each.module}", fromlist=["measure"])
        assert callable(module.measure)


def test_a_picture_of_nothing_is_a_picture(tmp_path):
    environment = {"date": "today", "cpu": "x", "cores": 2, "threads": 2, "python": "3"}
    environment |= {"versions": {}, "load_before": 0.0, "load_after": 0.0}
    chart.draw(suite.Found(environment, {"dpo": [outcome(passed=False)]}), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
