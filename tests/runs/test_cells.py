"""Cells and what is kept beside them: damaged ones, those of another configuration, commands."""

import json

import pytest

from rlhf_jax.config import make_compare
from rlhf_jax.runs import compare
from rlhf_jax.runs.budgets import Measured
from rlhf_jax.runs.cells import NOT_TUNED, command, read_cell, write_cell, write_results
from rlhf_jax.runs.kept import kept
from tests.runs.test_protocol import tree


def test_a_damaged_cell_is_one_line_and_a_damaged_trial_is_made_again(tmp_path):
    config = make_compare(tree(tmp_path) | {"tuning": None})
    stage = config.run("grpo")
    path = config.folder(stage, 0) / "cell.json"
    path.parent.mkdir(parents=True)
    for text in ("", "[]", "{", '{"configuration": "x"}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"cell.json is damaged, or of another version") as e:
            read_cell(config, stage, 0)
        assert "\n" not in str(e.value)
        assert kept(path, "asked", lambda: {"a": 3.5}) == {"a": 3.5}
        assert kept(path, "asked", lambda: {"a": 4.5}) == {"a": 3.5}


def test_cells_of_another_configuration_end_a_comparison_before_it_begins(tmp_path):
    config = make_compare(tree(tmp_path) | {"tuning": None})
    stage = config.run("grpo")
    curve = [{"step": 0.0, "tokens": 0.0, "seconds": 0.0, "accuracy/mean@2": 0.5}]
    run = Measured("grpo", "grpo", 0, curve, 7.5, 3.0, 2_000_000, 640, float("nan"))
    write_cell(config, stage, run, drawn=0.0, learning_rate=1e-3)
    other = make_compare(tree(tmp_path) | {"tuning": None}, ["prompts.evaluation.samples=4"])
    for cell in (None, ("grpo", 0)):
        with pytest.raises(ValueError, match="was made with another configuration"):
            compare(other, progress=False, cell=cell)
    assert not (tmp_path / "compare.yaml").exists()
    write_results(other, "accuracy/mean@4", {})
    assert json.loads((tmp_path / "results.json").read_text())["cells"] == []
    write_results(config, "accuracy/mean@2", {})
    assert len(json.loads((tmp_path / "results.json").read_text())["cells"]) == 1


def test_a_tuned_null_is_part_of_the_command():
    config = make_compare(tree("runs/x"))
    said = [command(config, config.run("grpo"), 0, tuned) for tuned in (None, 3e-5, "a", NOT_TUNED)]
    assert [line.partition("learning_rate=")[2].rstrip("'") for line in said] == [
        "null",
        "3e-05",
        '"a"',
        "",
    ]
