"""Comparison of algorithms: the whole of it on a tiny model, its table, its configuration."""

import json
import math
import shutil

import pytest

from rlhf_jax.config import ConfigError, load_compare, make_compare
from rlhf_jax.config.document import parse_document, settled
from rlhf_jax.errors import TrainingError
from rlhf_jax.io import read_metrics
from rlhf_jax.runs import compare, quickstart_config
from rlhf_jax.runs.footprint import run_bytes, tree_bytes
from rlhf_jax.runs.online import make_online_parts
from rlhf_jax.runs.quickstart import MODEL, quickstart_tree
from rlhf_jax.training import make_optimizers

SHORT = {"max_steps": 2, "batch_size": 4, "eval_every": 0, "save_every": 0, "eval_batch_size": 8}
ONLINE = {"training": SHORT, "optimizer": {"learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    tree = quickstart_tree(str(tmp_path_factory.mktemp("compare") / "run"))
    tree["common"]["data"] |= {"path": "synthetic:arithmetic?size=64&digits=3", "eval_size": 8}
    tree["common"]["logging"] |= {"plot": False}
    tree["prompts"]["evaluation"] = {"samples": 2, "max_prompts": 8}
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    tree["start"]["config"] |= {
        "training": SHORT,
        "optimizer": {},
        "model": {"config": MODEL | small | {"num_key_value_heads": 1}},
    }
    tree["preparations"][0]["config"] |= {"training": SHORT, "optimizer": {}}
    for run in tree["runs"]:
        run["config"] |= ONLINE
    tree["runs"][0]["config"]["training"] = SHORT | {"save_every": 1}
    tree["runs"][3]["config"]["algorithm"]["dynamic_sampling"] = False
    return make_compare(tree)


@pytest.fixture(scope="module")
def found(config):
    return compare(config, progress=False)


@pytest.mark.slow
def test_every_run_starts_from_the_same_model(found):
    assert [run.name for run in found.runs] == ["dpo", "ppo", "grpo", "dapo"]
    before = [
        {name: value for name, value in run.curve[0].items() if name != "seconds"}
        for run in found.runs
    ]
    assert all(first == before[0] for first in before)
    assert "accuracy/mean@2" in before[0] and found.metric == "accuracy/mean@2"


@pytest.mark.slow
def test_curves_hold_every_measurement(found):
    steps = {run.name: [point["step"] for point in run.curve] for run in found.runs}
    assert steps == {"dpo": [0, 1, 2], "ppo": [0, 2], "grpo": [0, 2], "dapo": [0, 2]}
    assert all(0 < run.curve[-1]["seconds"] <= run.seconds for run in found.runs)
    assert all(run.compiling > 0 for run in found.runs)
    assert [run.curve[-1]["tokens"] > 0 for run in found.runs] == [False, True, True, True]
    assert {run.name: run.samples for run in found.runs} == {
        "dpo": 0,
        "ppo": 64,
        "grpo": 64,
        "dapo": 64,
    }
    assert all(math.isfinite(run.entropy) for run in found.runs[1:])


@pytest.mark.slow
def test_files(found):
    document = json.loads((found.folder / "compare.json").read_text())
    assert [run["name"] for run in document["runs"]] == ["dpo", "ppo", "grpo", "dapo"]
    assert document["runs"][0]["entropy"] is None
    assert document["best"] == found.best in [run.name for run in found.runs]
    assert len(document["budgets"]["columns"]) == 10, "three budgets of tokens, steps and seconds"
    text = (found.folder / "compare.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.count("|") - 1 for line in lines] == 7 * [7] + 6 * [16] + 6 * [10] + 5 * [2]
    ends = [line.split("|")[1].strip(" *") for line in lines[2:7]]
    assert sorted(ends) == sorted(["start", *(run.name for run in found.runs)])
    assert text.count(f"| **{found.best}** |") == 3, "ends, what it took, equal budgets"
    assert (found.folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert load_compare(found.folder / "compare.yaml").run_dir == str(found.folder)


@pytest.mark.slow
def test_a_finished_comparison_trains_nothing_again(config, found):
    files = [config.folder(stage, 0) / "metrics.jsonl" for stage in config.stages]
    rows = [read_metrics(file) for file in files]
    again = compare(config, progress=False)
    assert [read_metrics(file) for file in files] == rows
    assert again.rows == found.rows


@pytest.mark.slow
def test_a_run_that_cannot_go_on_costs_no_other(config, found, tmp_path, caplog):
    """No answer of a random model is right: dynamic sampling finds no group, and a draw no pair."""
    folder = shutil.copytree(found.folder, tmp_path / "run")
    tree = settled(parse_document(config.to_yaml(), "compare.yaml").tree)
    dpo, _, grpo, dapo = tree["runs"]
    algorithm = dapo["config"]["algorithm"]
    mixed = algorithm | {"dynamic_sampling": True, "max_generation_batches": 1}
    stuck = {"name": "stuck", "config": dapo["config"] | {"algorithm": mixed}}
    fed = dpo["config"] | {"data": {"path": "{none}/pairs.jsonl", "eval_size": 0}}
    wild = dpo["config"] | {"training": SHORT | {"max_nonfinite": 0}}
    wild["optimizer"] = {"warmup_steps": 0}  # the second step has the first one's parameters
    tree["preparations"].append({"name": "none", "draw": {"prompts": 2, "samples": 2}})
    tree["tuning"] = {"values": [1e-3, 1e30], "seeds": [7], "runs": ["hopeless", "wild"]}
    tree["runs"] = [
        stuck,
        stuck | {"name": "hopeless"},
        {"name": "fed", "config": fed},
        *tree["runs"],
        {"name": "wild", "config": wild},
        grpo | {"name": "later"},
    ]
    with pytest.raises(TrainingError) as error:
        compare(make_compare(tree | {"run_dir": str(folder)}), progress=False)
    told = str(error.value)
    assert told.startswith(
        "cannot go on: tuning hopeless, stuck of seed 0, fed of seed 0. The first ended with: "
    )
    assert "groups have a right and a wrong answer" in told
    assert f"are in {folder / 'compare.md'}" in told
    assert "wild.tuning_1e+30 rules its value out" in caplog.text
    document = json.loads((folder / "compare.json").read_text())
    names = ["dpo", "ppo", "grpo", "dapo", "wild", "later"]
    assert [run["name"] for run in document["runs"]] == names
    results = json.loads((folder / "results.json").read_text())
    assert [cell["run"] for cell in results["cells"]] == names
    assert results["tuning"]["wild"]["value"] == 1e-3


@pytest.mark.slow
def test_bytes_are_those_of_the_arrays(config, found, tmp_path):
    """PPO holds a policy, a critic and a reference, and moments of the first two."""
    run = config.run_config(config.runs[1], 0)
    loaded = make_online_parts(run, tmp_path).loaded
    tx = make_optimizers(run.optimizer, run.algorithm.models.trained, total_steps=2)
    assert loaded.trained.keys() == {"policy", "critic"} and loaded.frozen.keys() == {"ref"}
    expected = tree_bytes([loaded.trained, tx.init(loaded.trained), loaded.frozen])
    assert run_bytes(run) == expected == found.runs[1].bytes
    assert found.runs[2].bytes < expected / 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["runs[2].config.algorithm.name=grop"],
            "grpo: algorithm.name: 'grop' is not an algorithm",
        ),
        (["runs[2].config.algorithm.group_siz=4"], "grpo: algorithm.group_siz: unknown key"),
        (
            ["runs[1].config.model.critic=export:critic"],
            "ppo: 'export:critic' names no earlier run of the comparison",
        ),
        (["runs[1].name=dpo"], "'dpo' names two runs"),
        (["seeds=[1, 1]"], "seeds=[1, 1] must be at least one, and all different"),
        (["prompts.data={}"], "unknown section 'data'; allowed: rollout, rewards"),
        (["reach=0"], "reach=0.0 must be above 0"),
        (["runz=[]"], "runz: unknown key"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(overrides, message):
    with pytest.raises(ConfigError) as error:
        make_compare(quickstart_tree(), overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_shipped_file_is_the_quickstart(pytestconfig):
    file = load_compare(
        pytestconfig.rootpath / "configs" / "compare_arithmetic.yaml", ["run_dir=runs/quickstart"]
    )
    assert file == quickstart_config()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "../a"])
def test_a_run_stays_inside_the_folder_of_the_comparison(name):
    tree = quickstart_tree("runs/x")
    tree["runs"][0]["name"] = name
    with pytest.raises(ConfigError, match="must be the name of a folder"):
        make_compare(tree)
