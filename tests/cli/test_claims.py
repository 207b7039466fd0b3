"""`rlhf-jax claims`: prints and writes the table, and refuses in one line."""

import json

import pytest

from rlhf_jax.cli.main import main
from rlhf_jax.config import make_claims
from tests.cli.test_main import error_of
from tests.runs.claims.written import SEEDS, cell, claims_tree, write


@pytest.fixture
def file(tmp_path):
    """Two claims, of which one is measured."""
    cells = [cell("dapo", seed, [0.1, 0.5]) for seed in SEEDS]
    cells += [cell("ppo", seed, [0.1, 0.3]) for seed in SEEDS]
    tree = claims_tree(write(tmp_path / "results.json", cells), "difference", {})
    tree["comparisons"]["code"] = {"results": "no/results.json", "config": "code.yaml"}
    missing = {"comparison": "code", "run": "dapo", "against": "ppo"}
    second = {"name": "that", "says": "so", "source": "she", "claimed": 0.25, "saving": missing}
    tree["claims"].append(second)
    path = tmp_path / "claims.yaml"
    path.write_text(make_claims(tree).to_yaml())
    return path


def test_prints_and_writes_the_table(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["claims", str(file), "--output", str(out), "claims[0].claimed=0.3"]) == 0
    shown = capsys.readouterr().out
    assert "it: so it is; claimed +0.300\n" in shown
    assert "direction only, " in shown and "+0.200 to +0.200" in shown
    assert "that: so; claimed +25.0 %\nnot measured: no/results.json is not there; " in shown
    assert "measure it with: rlhf-jax compare code.yaml\n" in shown
    assert "Rule. Confirmed: the whole interval is at least the claim." in shown
    assert "+0.200" in (out / "claims.md").read_text()
    verdicts = [
        claim["verdict"] for claim in json.loads((out / "claims.json").read_text())["claims"]
    ]
    assert verdicts == ["direction only, figure excluded", "not measured"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{file}", "claims[0].claimed=big"], "'big' is not allowed; allowed: a number (override"),
        (["{file}", "claims[7].claimed=1"], "there is no [7]: the list has 2 items"),
        (["{file}", "claims[0].difference.run=drpo"], "has no run 'drpo'; runs: dapo, ppo"),
        (["{file}", "--output", "{file}"], "is a file; give a folder"),
        (["no.yaml"], "no.yaml: no such configuration file"),
    ],
)
def test_refusals(file, capsys, arguments, message):
    words = [word.replace("{file}", str(file)) for word in arguments]
    assert message in error_of(capsys, ["claims", *words], 2)


def test_help_lists_the_keys(capsys):
    assert main(["claims", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:\n  rlhf-jax claims " in text and "exit codes:" in text
    assert "  claims[].matched_kl.kl  [a list (a number each)] = [2.0, 5.0, 10.0]\n" in text
    assert "statistic  [one of: interquartile_mean, mean, median] = interquartile_mean" in text
